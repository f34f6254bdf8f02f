"""The web page for pathologists."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "findings",
        "guard",
        "overlays",
        "page",
        "picture_worker",
        "private_files",
        "reading",
        "reviews",
        "serve",
        "turns",
        "uploads",
        "views",
        "visit",
        "visit_tables",
        "visits",
    ],
)
