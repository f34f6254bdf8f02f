"""Plots of the study of transformers."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pcam_tf.figures.style import GREEN, NEUTRAL, NORMAL, TUMOUR, new_figure, styled
from pcam_tf.studies import transformers

COLOURS = {"CCT": GREEN, "DeiTTiny": TUMOUR, transformers.CNN: NORMAL}
# Marker and dashes of each start.
STARTS = {
    "scratch": ("o", "-"),
    "distilled": ("s", "--"),
    "distilled longer": ("P", "--"),
    "ImageNet": ("^", "-."),
    "pretrained": ("D", ":"),
}


@styled
def auc_by_compute(found: pd.DataFrame, split: str = "test") -> Figure:
    """Draw the AUC of each attempt over the FLOPs of its training, logarithmic.

    Args:
        found: what `transformers.results` returned.
        split: "validation" or "test".
    """
    figure = new_figure(8.4, 4.6)
    axes = figure.subplots()
    cnn = found[found["network"] == transformers.SHIPPED].iloc[0]
    axes.axhspan(cnn[f"{split}_low"], cnn[f"{split}_high"], color=NEUTRAL, alpha=0.15, linewidth=0)
    axes.axhline(cnn[split], color=NEUTRAL, linestyle=":", label="shipped CNN, 20,000 patches")
    trained = found[found["network"] != transformers.SHIPPED]
    for (network, start), rows in trained.groupby(["network", "start"], sort=False):
        marker, dashes = STARTS[start]
        rows = rows.sort_values("patches")
        errors = [rows[split] - rows[f"{split}_low"], rows[f"{split}_high"] - rows[split]]
        axes.errorbar(
            rows["training_flops"],
            rows[split],
            yerr=np.clip(errors, 0, None),
            color=COLOURS[network],
            marker=marker,
            markersize=8,
            linestyle=dashes,
            linewidth=1.2,
            capsize=3,
            label=f"{network}, {start}",
        )
        for row in rows.itertuples():
            place = (row.training_flops, getattr(row, split))
            text = f"{row.patches / 1000:g}k" if row.patches >= 1000 else f"{row.patches:g}"
            axes.annotate(text, place, xytext=(7, -11), textcoords="offset points", fontsize=9)
    axes.set_xscale("log")
    axes.set(xlabel="FLOPs of the training", ylabel=f"{split} AUC, 95 % intervals")
    axes.set_title("Numbers beside the points: training patches")
    figure.legend(loc="outside lower center", ncols=3)
    return figure
