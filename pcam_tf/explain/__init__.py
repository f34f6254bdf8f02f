"""Explanations of a classifier's output, and checks of such explanations."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["check_tables", "checks"],
    submod_attrs={"methods": ["DEFAULT", "METHODS", "maps"]},
)
