"""Figures of a training: its history, and what the two phases do differently."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pcam_tf.figures.style import GREEN, NEUTRAL, SERIES, new_figure, styled


@styled
def phases(
    learning_rates: Mapping[str, Sequence[float]], trainable_parameters: Mapping[str, int]
) -> Figure:
    """Draw the learning rate during each phase and the number of parameters that it trains.

    Args:
        learning_rates: name of a phase -> rates at even distances from its first to its last step.
        trainable_parameters: name of a phase -> how many numbers it trains.
    """
    figure = new_figure(10, 3)
    rate, parameters = figure.subplots(1, 2)
    for (name, rates), (colour, dashes) in zip(learning_rates.items(), SERIES, strict=False):
        shares = np.linspace(0, 1, len(rates))
        rate.plot(shares, rates, color=colour, linestyle=dashes, label=f"{name} phase")
        bars = parameters.barh(name, trainable_parameters[name], color=colour, height=0.6)
        parameters.bar_label(bars, [f"{trainable_parameters[name]:,}"], padding=4)
    rate.set(xlim=(0, 1), ylim=(0, None), xlabel="share of the phase", title="Learning rate")
    rate.xaxis.set_major_formatter("{x:.0%}")
    rate.legend()
    parameters.set(xscale="log", xlim=(100, 1e8), title="Trainable parameters")
    parameters.grid(axis="y", visible=False)
    parameters.invert_yaxis()
    return figure


@styled
def learning_curves(history: pd.DataFrame) -> Figure:
    """Draw a run's history, its two phases marked.

    Columns: `phase` ("frozen" or "unfrozen"), `epoch`, `loss`, `validation_loss`,
    `validation_auc`; a row an epoch.
    """
    figure = new_figure(10, 3.6)
    loss, auc = figure.subplots(1, 2)
    epochs = np.arange(1, len(history) + 1)
    frozen = int((history["phase"] == "frozen").sum())
    loss.plot(
        epochs,
        history["loss"],
        color=NEUTRAL,
        linestyle="--",
        marker=".",
        label="training",
    )
    loss.plot(epochs, history["validation_loss"], color=GREEN, marker=".", label="validation")
    loss.set_ylabel("cross-entropy")
    loss.set_title("Loss")
    auc.plot(epochs, history["validation_auc"], color=GREEN, marker=".", label="validation")
    _mark_best(auc, history)
    auc.set_ylabel("AUC")
    auc.set_title("Validation AUC")
    for axes in (loss, auc):
        _mark_phases(axes, frozen, len(history))
        axes.legend(loc="best")
    return figure


def _mark_best(auc, history):
    """Circle the epoch whose weights are kept."""
    if not len(history):
        return
    # The first of equals, as training keeps it; an AUC that is not a number is never the best.
    best = int(np.argmax(history["validation_auc"].fillna(-1).to_numpy()))
    best_auc = history["validation_auc"].iloc[best]
    auc.plot(
        best + 1,
        best_auc,
        marker="o",
        markersize=10,
        fillstyle="none",
        color="black",
        linestyle="",
        label=f"kept: {best_auc:.3f}",
    )


def _mark_phases(axes, frozen, epochs):
    """Shade the frozen phase, name both, and set the axis of epochs."""
    axes.axvspan(0.5, frozen + 0.5, color="#f0f0f0", zorder=0)
    axes.margins(y=0.15)
    axes.set_xlim(0.5, max(epochs, 1) + 0.5)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    # At the outer ends, where even phases of one epoch leave room for their names.
    for present, place, side, name in (
        (frozen > 0, 0.01, "left", "frozen phase (grey)"),
        (frozen < epochs, 0.99, "right", "unfrozen phase"),
    ):
        if present:
            axes.text(
                place,
                0.985,
                name,
                transform=axes.transAxes,
                ha=side,
                va="top",
                fontsize=9,
                color="#444444",
            )
