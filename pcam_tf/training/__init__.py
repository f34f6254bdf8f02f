"""Training of a classifier: recipes, augmentation, the frozen and the unfrozen phase."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "augmentation",
        "batch_normalization",
        "devices",
        "distillation",
        "optimization",
        "recipes",
    ],
    submod_attrs={
        "phases": ["train"],
        "runs": ["HISTORY_COLUMNS", "history", "is_finished"],
    },
)
