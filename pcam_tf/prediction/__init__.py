"""From a classifier and patches to a predictions table."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["shards"],
    submod_attrs={
        "pictures": ["centre", "predict_images"],
        "tables": [
            "BATCH_SIZE",
            "average",
            "for_kaggle",
            "predict",
            "predict_run",
            "predict_split",
            "probabilities",
            "write",
        ],
        "views": ["d4_views"],
    },
)
