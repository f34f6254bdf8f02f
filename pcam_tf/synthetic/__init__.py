"""Drawn tissue with known truth: cells, sections and slides, as a TFDS builder."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["nuclei", "section", "subtypes", "tissue"],
    submod_attrs={
        "patches": [
            "SyntheticPatchCamelyon",
            "builder",
            "config_of",
            "draw_patches",
            "quiet_tfds",
        ]
    },
)
