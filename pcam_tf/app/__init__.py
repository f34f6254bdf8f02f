"""The web page for pathologists."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "finding_page",
        "findings",
        "overlays",
        "page",
        "reviews",
        "serve",
        "viewer",
        "views",
        "visit",
    ],
)
