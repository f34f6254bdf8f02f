"""Plots about slides: the FROC curve."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pcam_tf.figures.style import NEUTRAL, TUMOUR, new_figure, styled


@styled
def froc(summary: dict) -> Figure:
    """Draw the FROC curve with the six rates and their intervals, see `slides.froc.summary`."""
    points = pd.DataFrame(summary["curve"]).astype(float)
    rates = np.array([float(rate) for rate in summary["sensitivities"]])
    figure = new_figure(5.6, 3.8)
    axes = figure.subplots()
    if summary["lesions"]:
        sensitivities = np.array(list(summary["sensitivities"].values()), float)
        bounds = [summary["intervals"][rate] for rate in summary["sensitivities"]]
        axes.plot(points["false_positives"], points["sensitivity"], color=TUMOUR)
        axes.plot(rates, sensitivities, "o", color=TUMOUR)
        if all(each["low"] is not None for each in bounds):
            low, high = ([each[name] for each in bounds] for name in ("low", "high"))
            axes.vlines(rates, low, high, color=TUMOUR, alpha=0.5)
        axes.axhline(summary["mean"], color=NEUTRAL, linestyle="--", linewidth=1)
        axes.text(
            rates[-1], summary["mean"], f"mean {summary['mean']:.3f}", va="bottom", ha="right"
        )
    axes.set_xscale("log", base=2)
    axes.set_xlim(rates[0] / 1.2, rates[-1] * 1.2)
    axes.set_ylim(0, 1.02)
    axes.set_xticks(rates, list(summary["sensitivities"]))
    axes.minorticks_off()
    axes.set_xlabel("false positives a slide")
    axes.set_ylabel("sensitivity (lesions)")
    slides = "slide" if summary["slides"] == 1 else "slides"
    axes.set_title(f"FROC: {summary['lesions']} lesions, {summary['slides']} {slides}")
    return figure
