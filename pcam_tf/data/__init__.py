"""Where patches come from and how they reach a model: sources, tf.data pipelines, audit."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["audit", "breakhis", "hdf5", "image_files", "sampling"],
    submod_attrs={
        "sources": [
            "SPLITS",
            "SYNTHETIC_DIR",
            "chosen_dir",
            "count",
            "described",
            "download",
            "is_synthetic",
            "open_source",
            "ordered",
            "task_of",
        ],
        "groups": ["groups_of", "with_groups"],
        "writing": ["write_source"],
        "pipelines": [
            "SHUFFLE_PATCHES",
            "arrays",
            "batches",
            "epochs",
            "joined",
            "readable_errors",
            "read_patches",
        ],
    },
)
