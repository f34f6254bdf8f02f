"""Explanations of a classifier's output, and checks of such explanations."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["checks"],
    submod_attrs={
        "methods": [
            "BATCH_SIZE",
            "BLUR_PX",
            "DEFAULT",
            "EVALUATIONS",
            "METHODS",
            "STEPS",
            "blurred",
            "fine_cam",
            "grad_cam",
            "hires_cam",
            "integrated_gradients",
            "log_odds",
            "maps",
            "shap_partition",
        ]
    },
)
