"""Generated patches for rare classes: networks, training, quality, and whether they help."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "features",
        "generated",
        "judge",
        "networks",
        "patches",
        "study",
        "training",
        "truth",
    ],
    submod_attrs={"recipes": ["Recipe"], "training": ["train"]},
)
