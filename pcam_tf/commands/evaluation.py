"""Commands about predictions tables: evaluate one, compare two, describe the errors."""

from pathlib import Path
from typing import Annotated

import typer

from pcam_tf.commands import options
from pcam_tf.errors import InputError
from pcam_tf.task import PCAM

Predictions = Annotated[
    Path | None, typer.Argument(metavar="PREDICTIONS", help="A predictions table.")
]
Compared = Annotated[
    tuple[Path, Path] | None, typer.Option("--compare", metavar="A B", hidden=True)
]
Validation = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="TABLE",
        help="The predictions table of the validation split, which thresholds are chosen on.",
    ),
]
Latest = Annotated[
    bool,
    typer.Option(
        "--latest",
        help="If several rows have the same id, use the last one, as in a file of reviews "
        "from the web page.",
    ),
]
Classes = Annotated[
    tuple[str, str] | None,
    typer.Option(
        metavar="FIRST SECOND",
        help="The names of the two classes, which a table of two does not hold. Default: those "
        f"of the run in whose folder the table is, else {' '.join(PCAM.classes)}.",
    ),
]
ReportFile = Annotated[
    Path | None,
    typer.Option(metavar="JSON", help="The report to write. Default: beside the table."),
]


def evaluate(
    predictions: Predictions = None,
    compared: Compared = None,
    validation: Validation = None,
    latest: Latest = False,
    classes: Classes = None,
    output: ReportFile = None,
) -> str:
    """Write a report on a predictions table, with 95 % intervals."""
    from pcam_tf import evaluation, files
    from pcam_tf.app import reviews
    from pcam_tf.evaluation import report_text

    validation = validation or []
    if compared:
        _check_comparison(predictions, validation)
        return compare(*compared, tuple(validation) or None, output)
    if predictions is None:
        raise InputError(
            "give a predictions table, before the options: `evaluate PREDICTIONS --validation "
            "TABLE`."
        )
    if len(validation) > 1:
        raise InputError("one predictions table needs one validation table.")
    if output is None and not files.is_ordinary(predictions):
        raise InputError(
            f"{predictions} is no ordinary file to write a report beside: give --output."
        )
    output = output or predictions.with_suffix(".report.json")
    page = _page_beside(output)
    files.check_outputs([output, page], [predictions, *validation])
    table = (reviews.latest if latest else evaluation.read_predictions)(predictions)
    chosen_on = evaluation.read_predictions(validation[0]) if validation else None
    names, group = _classes_and_group(predictions, table, classes)
    report = evaluation.report(table, validation=chosen_on, classes=names, group=group)
    if latest:
        report["agreement"] = reviews.agreements(predictions)
    files.write_json(output, report)
    if page:
        _write_page(page, report, table, title=str(predictions))
    text = report_text.format_report(report, title=str(predictions))
    if report.get("agreement"):
        text += _agreement_text(report["agreement"])
    return f"{text}\nreport in {output}{f' and, with figures, in {page}' if page else ''}"


def _agreement_text(found):
    from pcam_tf.evaluation import agreement

    lines = [f"  {agreement.sentence(pair, each)}" for pair, each in found.items()]
    return "\n".join(["\nagreement:", *lines, f"  {agreement.CHOSEN_BY_READERS}"])


def _classes_and_group(path, table, given):
    """Return the names of a table's classes and what its patches come in, None if not known."""
    from pcam_tf import evaluation
    from pcam_tf.evaluation import predictions_table

    if given:
        if not predictions_table.is_binary(table):
            raise InputError(f"{path} names its classes in its columns: leave out --classes.")
        if len(set(given)) < 2 or not all(given):
            raise InputError("--classes takes two different names.")
        return given, None
    task = predictions_table.task_of(path)
    if predictions_table.is_binary(table):
        task = task or PCAM
        if not task.is_binary:
            raise InputError(
                f"{path} is of two classes, but the run in its folder is of {len(task.classes)} "
                f"({', '.join(task.classes)}): name the two with --classes."
            )
        return task.classes, task.group
    names = evaluation.classes_of(table)
    return names, task.group if task and task.classes == names else None


def _check_comparison(predictions, validation):
    if predictions is not None:
        raise InputError("--compare takes two tables and no other: leave out the first one.")
    if len(validation) not in (0, 2):
        raise InputError("--compare needs two validation tables, one for each model, or none.")


def _page_beside(output):
    """Return where the HTML page of a report lies; None if the report goes to a pipe or device."""
    from pcam_tf.files import is_ordinary

    if not is_ordinary(output):
        return None
    page = output.with_suffix(".html")
    if output == page:
        raise InputError(f"the HTML report is written to {page}: give --output another name.")
    return page


def _write_page(path, report, predictions, *, title):
    from pcam_tf.figures import html_report
    from pcam_tf.files import written_whole

    with written_whole(path) as temporary:
        text = html_report.page(report, predictions, title=title)
        temporary.write_text(text, encoding="utf-8")


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A predictions table.")],
    second: Annotated[
        Path, typer.Argument(metavar="B", help="Another model's, of the same patches.")
    ],
    validation: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="VA VB",
            help="The tables of the validation split, to choose each model's threshold on. "
            "Default: the threshold 0.5 for both.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="JSON", help="Also write the comparison as JSON.")
    ] = None,
) -> str:
    """Compare two models on the same patches, with 95 % intervals.

    The intervals are from a paired bootstrap. Where a table has groups, such as slides,
    they are resampled whole, and the p-values of that bootstrap are those to go by. DeLong's test
    of AUC and McNemar's of accuracy take patches as independent.
    """
    from pcam_tf import evaluation
    from pcam_tf.evaluation import comparison, report_text
    from pcam_tf.files import check_outputs, write_json

    check_outputs([output], [first, second, *(validation or ())])
    tables = [evaluation.read_predictions(path) for path in (first, second)]
    thresholds = tuple(_threshold(path) for path in validation or (None, None))
    compared = comparison.compare(*tables, thresholds=thresholds)
    text = report_text.format_comparison(compared, names=(str(first), str(second)))
    if output:
        write_json(output, compared)
        text += f"\ncomparison in {output}"
    return text


def _threshold(validation):
    """Return the main operating point of a validation table, or 0.5 without one."""
    from pcam_tf import evaluation
    from pcam_tf.evaluation import reports

    if validation is None:
        return 0.5
    table = evaluation.read_predictions(validation)
    return evaluation.operating_points(table)[reports.MAIN_OPERATING_POINT]


def errors(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="A predictions table of the split.")
    ],
    data_dir: options.DataDir = None,
    split: options.Split = "test",
    validation: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE",
            help="The predictions table of the validation split, which the threshold is chosen "
            "on. Default: the threshold 0.5.",
        ),
    ] = None,
    figure: options.Figure = None,
) -> str:
    """Describe what the misclassified patches have in common."""
    from pcam_tf import data, evaluation, figures
    from pcam_tf.evaluation import reports
    from pcam_tf.figures import study_plots
    from pcam_tf.files import check_outputs
    from pcam_tf.studies import hard_tissue

    table = evaluation.read_predictions(predictions)
    source = options.open_source(data_dir)
    tables = [predictions, validation] if validation else [predictions]
    check_outputs([figure], [*tables, *options.input_files(source=source)])
    task = data.task_of(source)
    options.refuse_more_classes(task)
    threshold = _threshold(validation)
    batches = data.batches(source, split, batch_size=256)
    measures = hard_tissue.measure(data.arrays(batches), task)
    by_measure = hard_tissue.by_measure(table, measures, threshold, task.classes)
    confident = hard_tissue.confident(table, measures, threshold, classes=task.classes)
    if figure:
        figures.save(study_plots.errors_by_measure(by_measure), figure)
    return "\n".join(
        [
            f"share of each class that is wrong at the threshold {threshold:.3f}, by thirds",
            reports.markdown_table(hard_tissue.summary_rows(by_measure)),
            "\nthe more confident half of the errors, and the correct patches of their class",
            "none: a class without errors, or without correct patches, is left out"
            if confident.empty
            else confident.to_string(index=False, float_format="{:.3f}".format),
        ]
    )
