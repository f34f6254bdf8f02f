"""The command about tumour subtypes: all folds of BreakHis, split by patient."""

from pathlib import Path
from typing import Annotated

import typer

from pcam_tf.commands import options
from pcam_tf.errors import InputError


def subtypes(
    task: Annotated[
        str, typer.Option(metavar="NAME", help="breakhis, breakhis-5 or breakhis-malignant.")
    ] = "breakhis-5",
    data_dir: options.DataDir = None,
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only these methods. Default: all frozen ones."),
    ] = None,
    folds: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Columns patient and fold: others' folds, such as the official ones.",
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder of the study. Default: runs/TASK."),
    ] = None,
) -> str:
    """Tell tumour subtypes apart on BreakHis, split by case and at random."""
    from pcam_tf import data
    from pcam_tf.evaluation import reports
    from pcam_tf.files import check_outputs
    from pcam_tf.studies import subtype_tables, subtypes

    described = subtypes.task_of(task)
    chosen = data.chosen_dir(data_dir)
    if chosen is None:
        raise InputError("no fields: give the --data-dir that `prepare --breakhis DIR` has made.")
    run_dir = run or Path("runs") / task
    check_outputs([run_dir / "study.json"])
    fields, table = subtypes.load(chosen, described)
    names = list(method or subtypes.methods())
    tables = subtypes.study(described, fields, table, run_dir, names=names, folds_file=folds)
    parts = [
        subtype_tables.summary_rows(tables),
        subtype_tables.gap_rows(tables),
        subtype_tables.magnification_rows(tables, names[-1]),
        subtype_tables.test_rows(tables, names[0]),
    ]
    texts = [reports.markdown_table(rows) for rows in parts if rows]
    return "\n\n".join([*texts, f"study {run_dir}"])
