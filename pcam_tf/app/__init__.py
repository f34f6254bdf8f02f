"""The web page for pathologists."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "batches",
        "examples",
        "findings",
        "guard",
        "judgements",
        "overlays",
        "page",
        "picture_worker",
        "pictures",
        "places",
        "private_files",
        "reading",
        "results",
        "reviews",
        "serve",
        "turns",
        "uploads",
        "views",
        "visit",
        "visit_files",
        "visit_tables",
        "visits",
    ],
)
