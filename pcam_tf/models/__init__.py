"""Networks: the registry of backbones, the classifier, and the engines that run it."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "backbones",
        "classifier",
        "cost",
        "efficientnet_lite",
        "encoders",
        "engines",
        "model_files",
        "weights",
    ],
)
