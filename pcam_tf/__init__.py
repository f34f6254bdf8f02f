"""pcam_tf: honest detection of breast-cancer metastasis in histopathology patches."""

import os

import lazy_loader

# TensorFlow otherwise greets every process on a machine without a GPU with CUDA errors.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# TensorFlow uses oneDNN's convolutions of its own accord on some processors only; on an AVX2 one
# without AVX-512 they train 1.6 times as fast as its own.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "app",
        "data",
        "evaluation",
        "explain",
        "figures",
        "models",
        "prediction",
        "slides",
        "stain",
        "studies",
        "synthetic",
        "training",
    ],
)
