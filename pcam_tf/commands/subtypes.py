"""The command about tumour subtypes: all folds of BreakHis, split by case."""

from pathlib import Path
from typing import Annotated

import typer

from pcam_tf.commands import options
from pcam_tf.errors import InputError


def subtypes(
    task: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="breakhis, breakhis-5, breakhis-4 or breakhis-malignant."
        ),
    ] = "breakhis-5",
    data_dir: options.DataDir = None,
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only these methods. Default: all but fine-tuned ones."),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT",
            help="Splits of others: eva, a folder with dsfold1.txt to dsfold5.txt, or a CSV with "
            "patient and fold.",
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
    from pcam_tf.studies import subtype_folds, subtype_methods, subtype_tables, subtypes

    described = subtypes.task_of(task)
    chosen = data.chosen_dir(data_dir)
    if chosen is None:
        raise InputError("no fields: give the --data-dir that `prepare --breakhis DIR` has made.")
    run_dir = run or Path("runs") / task
    check_outputs([run_dir / "study.json"])
    fields, table = subtypes.load(chosen, described)
    known = subtype_methods.methods()
    names = list(method or [name for name in known if not known[name].is_slow])
    cut = subtype_folds.cut_cases(table, subtype_folds.published(table, folds)) if folds else []
    tables = subtypes.study(described, fields, table, run_dir, names=names, published=folds)
    parts = [
        subtype_tables.summary_rows(tables),
        [] if folds else subtype_tables.gap_rows(tables),
        subtype_tables.magnification_rows(tables, names[-1]),
        subtype_tables.test_rows(tables, names[0]),
    ]
    texts = [reports.markdown_table(rows) for rows in parts if rows]
    if cut:
        texts.append(
            f"Warning: the split cuts through {len(cut)} cases ({', '.join(cut)}): their fields "
            "are on both sides, so the numbers are too high."
        )
    return "\n\n".join([*texts, f"study {run_dir}"])
