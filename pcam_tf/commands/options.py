"""Options that several commands share.

A command is a typed function. Its parameters are its options, its docstring is its help, and the
text that it returns is printed on stdout. It imports rooms inside, so that `--help` and
`predict --images` start without TensorFlow.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from pcam_tf.errors import InputError
from pcam_tf.task import Task

log = logging.getLogger(__name__)
# Weights that are no file.
RANDOM = "random"

DataDir = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="A prepared data directory, which contains patch_camelyon/2.0.0. Default: "
        "PCAM_TF_DATA_DIR, or synthetic patches if that is not set.",
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="smoke (minutes, synthetic patches), cpu (about an hour), strong (two hours) or gpu "
        "(full PCam).",
    ),
]
Split = Annotated[
    str,
    typer.Option(
        metavar="SPLIT", help="train, validation or test, or a part of one, such as test[:100]."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="PATH",
        help="A .keras file or the folder of a run. Default: the model in the package.",
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="litert or tensorflow. Default: litert, which is several times as fast, if the model "
        "has been exported.",
    ),
]
Figure = Annotated[
    Path | None, typer.Option(metavar="PNG", help="Also draw the result, in this file.")
]


def open_source(data_dir: str | None):
    """Return the TFDS builder that `--data-dir` and PCAM_TF_DATA_DIR choose."""
    from pcam_tf import data

    return data.open_source(data.chosen_dir(data_dir))


def input_files(*, models: Iterable[str | None] = (), source=None) -> list[Path]:
    """Return the files that a command reads, which no output may replace.

    Args:
        models: `.keras` files or folders of runs; None for the model in the package.
        source: a TFDS builder whose files are read.

    Raises:
        InputError: there is no such model.
    """
    from pcam_tf.models import engines, field_engines, model_files

    files = [model_files.model_file(each or model_files.SHIPPED_MODEL) for each in models]
    exports = [each.export_file(file) for file in files for each in (engines, field_engines)]
    return files + exports + (list(Path(source.data_dir).iterdir()) if source else [])


def refuse_more_classes(task: Task) -> None:
    """Refuse patches of more than two classes, for a command that measures one AUC.

    Raises:
        InputError: the task has more than two classes.
    """
    if not task.is_binary:
        raise InputError(
            f"the patches are of {len(task.classes)} classes ({', '.join(task.classes)}): this "
            "command is for two."
        )
