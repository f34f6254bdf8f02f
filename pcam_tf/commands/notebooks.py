"""The command that executes all notebooks."""

from pcam_tf.commands import options


def reproduce(preset: options.Preset = "smoke", data_dir: options.DataDir = None) -> str:
    """Execute all notebooks and print their results."""
    from pcam_tf import data, reproduce

    return reproduce.reproduce(preset, data.chosen_dir(data_dir))
