"""Figures of a training: what the two phases do differently."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from pcam_tf.figures.style import SERIES, new_figure, styled


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
