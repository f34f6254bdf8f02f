"""From a classifier and patches to a predictions table."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["shards"],
    submod_attrs={
        "tables": [
            "BATCH_SIZE",
            "IMAGE_SUFFIXES",
            "average",
            "centre",
            "d4_views",
            "picture_files",
            "predict",
            "predict_images",
            "predict_run",
            "predict_split",
            "probabilities",
            "write",
        ]
    },
)
