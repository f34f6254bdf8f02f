"""How stained tissue absorbs light: optical density, stain separation and normalisation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["layer", "normalization", "separation"],
    submod_attrs={
        "beer_lambert": ["EOSIN", "HAEMATOXYLIN", "MIXING", "mix", "optical_density", "transmitted"]
    },
)
