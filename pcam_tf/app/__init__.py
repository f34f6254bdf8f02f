"""The web page for pathologists."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "findings",
        "overlays",
        "page",
        "private_files",
        "reviews",
        "serve",
        "turns",
        "views",
        "visit",
        "visit_tables",
        "visits",
    ],
)
