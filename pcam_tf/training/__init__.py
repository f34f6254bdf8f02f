"""Training of a classifier: recipes, augmentation, the frozen and the unfrozen phase."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["augmentation", "batch_normalization", "devices", "distillation", "recipes"],
    submod_attrs={"phases": ["HISTORY_COLUMNS", "history", "is_finished", "train"]},
)
