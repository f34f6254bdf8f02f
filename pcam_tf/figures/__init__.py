"""Figures in one style: plots of tables, pictures of patches, the HTML report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "explanation_plots",
        "html_report",
        "pictures",
        "protocol_plots",
        "study_plots",
        "training_plots",
    ],
    submod_attrs={
        "plots": [
            "CLASSES",
            "CLASS_COLOURS",
            "GREEN",
            "NEUTRAL",
            "NORMAL",
            "SERIES",
            "STYLE",
            "TUMOUR",
            "channel_histograms",
            "class_balance",
            "confusion_matrices",
            "decision_curve",
            "learning_curves",
            "new_figure",
            "probability_histogram",
            "reliability",
            "roc_and_precision_recall",
            "save",
            "styled",
        ]
    },
)
