"""From predictions tables to metrics, intervals, comparisons and reports."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["calibration", "comparison", "decisions", "reports"],
    submod_attrs={
        "metrics": [
            "LABEL_FAULTS",
            "PERCENTILES",
            "RESAMPLES",
            "area",
            "auc_interval",
            "check_predictions",
            "confident_errors",
            "confusion",
            "curves",
            "label_faults",
            "metric",
            "operating_points",
            "read_predictions",
            "read_table",
            "report",
            "resampled_rows",
            "wins",
        ]
    },
)
