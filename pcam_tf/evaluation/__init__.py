"""From predictions tables to metrics, intervals, comparisons and reports."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "agreement",
        "calibration",
        "cases",
        "comparison",
        "decisions",
        "report_text",
        "reports",
    ],
    submod_attrs={
        "intervals": [
            "PERCENTILES",
            "auc",
            "auc_interval",
            "placement_values",
            "resampled_rows",
        ],
        "metrics": ["confusion", "curves", "operating_points"],
        "predictions_table": [
            "check_predictions",
            "classes_of",
            "confident_errors",
            "one_against_rest",
            "predicted_classes",
            "probabilities_of",
            "read_predictions",
        ],
        "table_reports": ["report"],
    },
)
