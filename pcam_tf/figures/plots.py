"""Plots of tables: from tables to matplotlib Figures; nothing is shown or written here."""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pcam_tf.figures import style
from pcam_tf.figures.style import NORMAL, SERIES, TUMOUR, new_figure, styled
from pcam_tf.task import PCAM


@styled
def class_balance(counts: pd.DataFrame) -> Figure:
    """Draw the number of patches: index split, a column for each class."""
    classes = list(counts.columns)
    width = 0.8 / len(classes)
    figure = new_figure(max(6.8, 1.1 * len(classes) * max(len(counts), 1)), 3)
    axes = figure.subplots()
    positions = np.arange(len(counts))
    for index, (name, colour, hatch) in enumerate(
        zip(
            classes,
            style.class_colours(len(classes)),
            style.class_hatches(len(classes)),
            strict=True,
        )
    ):
        bars = axes.bar(
            positions + width * (index - (len(classes) - 1) / 2),
            counts[name],
            width=0.95 * width,
            color=colour,
            edgecolor="white",
            hatch=hatch,
            label=name,
        )
        axes.bar_label(bars, [f"{count:,}" for count in counts[name]], fontsize=9, padding=2)
    axes.set_xticks(positions, counts.index)
    axes.set_ylabel("patches")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_title("Patches by split and class")
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.12)
    figure.legend(loc="outside right upper")
    return figure


@styled
def channel_histograms(histograms: dict[str, np.ndarray]) -> Figure:
    """Draw the grey levels of each channel: split -> counts (3, 256)."""
    figure = new_figure(10, 3.2)
    panels = figure.subplots(1, 3, sharey=True)
    for channel, (axes, name) in enumerate(zip(panels, ("red", "green", "blue"), strict=True)):
        for (split, counts), (colour, dashes) in zip(
            histograms.items(), cycle(SERIES), strict=False
        ):
            levels = np.asarray(counts, "float64")[channel].reshape(64, 4).sum(axis=1)
            share = levels / max(levels.sum(), 1) / 4
            axes.plot(np.arange(64) * 4 + 1.5, share, color=colour, linestyle=dashes, label=split)
        axes.set_title(name)
        axes.set_xlabel("grey level")
        axes.set_xlim(0, 255)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("share of pixels per level")
    if histograms:
        panels[0].legend(loc="upper left")
    figure.suptitle("Grey levels of each channel", fontweight="bold", fontsize=11)
    return figure


@styled
def roc_and_precision_recall(curves: dict[str, dict[str, pd.DataFrame]]) -> Figure:
    """Draw ROC and precision–recall curves with their bands, see `evaluation.curves`.

    Args:
        curves: the name of a model -> its curves, `roc` and `precision_recall`.
    """
    figure = new_figure(10, 4.4)
    left, right = figure.subplots(1, 2)
    for (name, curve), (colour, dashes) in zip(curves.items(), cycle(SERIES), strict=False):
        for axes, table, x, y in (
            (left, curve["roc"], "false_positive_rate", "sensitivity"),
            (right, curve["precision_recall"], "recall", "precision"),
        ):
            axes.plot(table[x], table[y], color=colour, linestyle=dashes, label=name)
            axes.fill_between(
                table[x], table["low"], table["high"], color=colour, alpha=0.18, linewidth=0
            )
    left.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=1, linestyle=":", label="guessing")
    left.set(xlabel="1 − specificity", ylabel="sensitivity", title="ROC")
    right.set(xlabel="recall (sensitivity)", ylabel="precision", title="Precision–recall")
    for axes in (left, right):
        axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
        if curves:
            axes.legend(loc="lower right" if axes is left else "lower left", title="95 % bands")
    return figure


@styled
def reliability(bins: dict[str, pd.DataFrame], *, classes: Sequence[str] = PCAM.classes) -> Figure:
    """Draw the observed share of a class against its predicted probability.

    Of two classes it is the second; of more, the most probable class of each patch.

    Args:
        bins: the name of a model -> its bins, see `calibration.bins`.
        classes: names of the classes.
    """
    if len(classes) == 2:
        share, predicted = f"share that is {classes[1]}", f"predicted probability of {classes[1]}"
    else:
        share = "share that is of the predicted class"
        predicted = "probability of the predicted class"
    figure = new_figure(5.2, 5.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    above.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=1, linestyle=":", label="calibrated")
    for (name, table), (colour, dashes) in zip(bins.items(), cycle(SERIES), strict=False):
        fraction = table["fraction"]
        above.errorbar(
            table["mean_probability"],
            fraction,
            # A bound may pass the value by a rounding error, which errorbar refuses.
            yerr=np.clip([fraction - table["low"], table["high"] - fraction], 0, None),
            color=colour,
            linestyle=dashes,
            marker="o",
            markersize=4,
            capsize=2,
            label=name,
        )
        below.plot(
            table["mean_probability"],
            table["count"],
            color=colour,
            linestyle=dashes,
            marker="o",
            markersize=4,
        )
    above.set(
        xlim=(0, 1),
        ylim=(0, 1),
        ylabel=share,
        title="Reliability (95 % intervals)",
    )
    below.set(xlabel=predicted, ylabel="patches", ylim=(0, None))
    above.legend(loc="upper left")
    return figure


@styled
def decision_curve(
    curves: dict[str, pd.DataFrame], *, classes: Sequence[str] = PCAM.classes
) -> Figure:
    """Draw net benefit over the threshold, see `decisions.decision_curve`.

    Args:
        curves: the name of a model -> its curve, all of the same prevalence.
        classes: names of the two classes.
    """
    figure = new_figure(7.4, 3.8)
    axes = figure.subplots()
    highest = 0.0
    for (name, curve), (colour, dashes) in zip(curves.items(), cycle(SERIES), strict=False):
        axes.plot(
            curve["threshold"], curve["net_benefit"], color=colour, linestyle=dashes, label=name
        )
        axes.fill_between(
            curve["threshold"], curve["low"], curve["high"], color=colour, alpha=0.18, linewidth=0
        )
        highest = max(highest, curve["high"].max())
    for curve in list(curves.values())[:1]:
        axes.plot(
            curve["threshold"],
            curve["call_all"],
            color=TUMOUR,
            linewidth=1,
            label=f"call all {classes[1]}",
        )
    axes.axhline(0, color=NORMAL, linewidth=1, label=f"call all {classes[0]}")
    axes.set(
        xlim=(0, 1),
        ylim=(-0.15 * highest or -1, 1.1 * highest or 1),
        xlabel="threshold: a patch at or above it is acted on",
        ylabel="net benefit per patch",
        title="Decision curve",
    )
    figure.legend(loc="outside right upper", title="95 % bands")
    return figure


@styled
def confusion_matrices(
    matrix: np.ndarray, *, title: str, classes: Sequence[str] = PCAM.classes
) -> Figure:
    """Draw a confusion matrix as counts and as shares of each row.

    Args:
        matrix: counts (k, k), rows the truth, columns the prediction.
        title: of the figure.
        classes: names of the k classes.
    """
    matrix = np.asarray(matrix)
    count = len(classes)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    # A cell of a larger matrix needs room for "12,345"; a long name stands at an angle below it.
    side = max(3.0, 0.6 * count)
    letters = max(map(len, classes))
    rotated = letters * count > 28
    margin = 0.08 * letters
    figure = new_figure(2 * (side + 0.9) + margin, side + 0.8 + (0.75 * margin if rotated else 0))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, values, form, name in (
        (panels[0], matrix, "{:,}", "Patches"),
        (panels[1], shares, "{:.3f}" if count < 5 else "{:.2f}", "Share of each row"),
    ):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(values):
            axes.text(
                column,
                row,
                form.format(value),
                ha="center",
                va="center",
                fontsize=(15, 13, 11, 10)[min(count - 2, 3)],
                color="white" if shares[row, column] > 0.55 else "black",
            )
        axes.set_xticks(range(count), classes)
        if rotated:
            axes.tick_params(axis="x", labelrotation=40)
            for label in axes.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), classes)
        axes.set(xlabel="predicted", title=name)
        axes.grid(visible=False)
    panels[0].set_ylabel("truth")
    figure.suptitle(title, fontweight="bold", fontsize=11)
    return figure


@styled
def probability_histogram(
    predictions: pd.DataFrame, threshold: float, *, classes: Sequence[str] = PCAM.classes
) -> Figure:
    """Draw the probabilities of two classes of a predictions table, and the threshold.

    Args:
        predictions: a predictions table of two classes.
        threshold: from which on a patch is predicted to be of the second class.
        classes: names of the two classes.
    """
    figure = new_figure(8, 3.4)
    axes = figure.subplots()
    edges = np.linspace(0, 1, 41)
    for label, (colour, hatch) in enumerate(zip((NORMAL, TUMOUR), ("", "//"), strict=True)):
        axes.hist(
            predictions.loc[predictions["label"] == label, "probability"],
            bins=edges,
            color=colour,
            alpha=0.55,
            hatch=hatch,
            edgecolor="white",
            label=f"{classes[label]} (truth)",
        )
    axes.axvline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.2f}")
    axes.set(
        xlabel=f"predicted probability of {classes[1]}",
        ylabel="patches",
        title="Predicted probabilities of each class",
        xlim=(0, 1),
        ylim=(0, None),
    )
    # Beside the panel: inside, it would hide bars or the threshold.
    figure.legend(loc="outside right upper")
    return figure
