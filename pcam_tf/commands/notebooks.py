"""The command that executes all notebooks."""

from pathlib import Path

from pcam_tf.commands import options


def reproduce(preset: options.Preset = "smoke", data_dir: options.DataDir = None) -> str:
    """Execute all notebooks and print their results."""
    from pcam_tf import data, reproduce
    from pcam_tf.files import check_outputs

    check_outputs([Path("runs", preset, "recipe.json"), Path("figures", preset, "figure.png")])
    return reproduce.reproduce(preset, data.chosen_dir(data_dir))
