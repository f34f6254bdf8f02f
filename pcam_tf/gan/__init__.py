"""Generated patches for rare classes: networks, training, quality, and whether they help."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["networks"],
    submod_attrs={"recipes": ["Recipe"], "training": ["train"]},
)
