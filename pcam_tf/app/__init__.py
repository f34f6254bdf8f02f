"""The web page for pathologists."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "findings",
        "overlays",
        "page",
        "reviews",
        "serve",
        "views",
        "visit",
        "visit_tables",
    ],
)
