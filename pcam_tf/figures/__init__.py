"""Figures in one style: plots of tables, pictures of patches, the HTML report."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "explanation_plots",
        "html_report",
        "model_plots",
        "pictures",
        "protocol_plots",
        "slide_plots",
        "study_plots",
        "subtype_plots",
        "training_plots",
        "transformer_plots",
    ],
    submod_attrs={
        "plots": [
            "channel_histograms",
            "class_balance",
            "confusion_matrices",
            "decision_curve",
            "probability_histogram",
            "reliability",
            "roc_and_precision_recall",
        ],
        "training_plots": ["learning_curves"],
        "style": ["NEUTRAL", "NORMAL", "TUMOUR", "new_figure", "save", "styled"],
    },
)
