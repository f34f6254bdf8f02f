"""The command that executes all notebooks."""

from pathlib import Path
from typing import Annotated

import typer

from pcam_tf.commands import options

Preset = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="smoke (minutes, synthetic patches), cpu (about three hours) or gpu (full PCam).",
    ),
]


def reproduce(preset: Preset = "smoke", data_dir: options.DataDir = None) -> str:
    """Execute all notebooks and print their results."""
    from pcam_tf import data, reproduce
    from pcam_tf.files import check_outputs

    check_outputs([Path("runs", preset, "recipe.json"), Path("figures", preset, "figure.png")])
    return reproduce.reproduce(preset, data.chosen_dir(data_dir))
