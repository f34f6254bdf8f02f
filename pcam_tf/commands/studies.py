"""Commands about studies: questions asked of a trained model, or of a protocol."""

from pathlib import Path
from typing import Annotated

import typer

from pcam_tf.commands import options


def robustness(
    data_dir: options.DataDir = None,
    split: options.Split = "test",
    model: options.Model = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Another model to compare with."),
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="CSV", help="The table to write: AUC at each level.")
    ] = Path("robustness.csv"),
    figure: options.Figure = None,
) -> str:
    """Measure the AUC that a model loses if stain or scanner change."""
    from pcam_tf import data, figures
    from pcam_tf.evaluation import reports
    from pcam_tf.figures import study_plots
    from pcam_tf.files import check_outputs, written_whole
    from pcam_tf.models import classifier
    from pcam_tf.studies import robustness

    source = options.open_source(data_dir)
    options.refuse_more_classes(data.task_of(source))
    given = [model, baseline] if baseline else [model]
    check_outputs([output, figure], options.input_files(models=given, source=source))
    models = {"model" if model else "shipped": classifier.load(model)}
    if baseline:
        models["baseline"] = classifier.load(baseline)
    batches = data.arrays(data.batches(source, split, batch_size=256))
    labels, predicted = robustness.probabilities_under_shift(models, batches)
    levels = robustness.auc_under_shift(labels, predicted)
    with written_whole(output) as temporary:
        levels.to_csv(temporary, index=False, float_format="%.5f")
    losses = robustness.losses(labels, predicted)
    if figure:
        figures.save(study_plots.under_shift(levels), figure)
    table = reports.markdown_table(robustness.summary_rows(losses))
    return f"{table}\nAUC at each level in {output}"


def novelty(
    data_dir: options.DataDir = None,
    split: options.Split = "test",
    fit: Annotated[
        Path | None,
        typer.Option(
            metavar="JSON",
            help="First learn from train and validation what is usual, and write it to this "
            "file. Default: the statistics of the model in the package.",
        ),
    ] = None,
) -> str:
    """Count the patches flagged as unlike the training data; about 10 patches a second."""
    from pcam_tf import data
    from pcam_tf.evaluation import reports
    from pcam_tf.files import check_outputs, write_json
    from pcam_tf.studies import novelty

    source = options.open_source(data_dir)
    check_outputs([fit], options.input_files(source=source))
    reference = None
    if fit:
        batches = [data.batches(source, each, batch_size=256) for each in ("train", "validation")]
        reference = novelty.fit(*map(data.arrays, batches))
        write_json(fit, reference)
    batches = data.arrays(data.batches(source, split, batch_size=256))
    detection = novelty.detection(batches, reference)
    return reports.markdown_table(novelty.summary_rows(detection))


def protocols(
    preset: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="smoke (synthetic slides), cpu or gpu; the others are as cpu."
        ),
    ] = "smoke",
    data_dir: options.DataDir = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The folder of the study. Default: runs/protocols-PRESET."
        ),
    ] = None,
) -> str:
    """Evaluate one recipe by protocols that leak more or less; about 90 minutes at cpu.

    The study resumes; the table is of what is done.
    """
    from pcam_tf import data
    from pcam_tf.evaluation import reports
    from pcam_tf.files import check_outputs, written_whole
    from pcam_tf.studies import protocol_results, protocols
    from pcam_tf.training import recipes

    recipes.check_patches(preset, real=bool(data.chosen_dir(data_dir)))
    run_dir = run or Path("runs") / f"protocols-{preset}"
    check_outputs([run_dir / "results.csv"])
    source = protocols.source_of(
        preset, None if preset == "smoke" else options.open_source(data_dir)
    )
    options.refuse_more_classes(data.task_of(source))
    conditions = protocols.conditions_of(preset)
    try:
        protocols.study(protocols.recipe_of(preset), source, run_dir, conditions)
    finally:  # an interrupted study has results as well
        if protocols.finished(run_dir):
            found = protocol_results.results(run_dir)
            with written_whole(run_dir / "results.csv") as temporary:
                found.to_csv(temporary, index=False, float_format="%.6g")
    return f"{reports.markdown_table(protocol_results.summary_rows(found))}\nstudy {run_dir}"


def normalization(
    data_dir: options.DataDir = None,
    fine_tuned: Annotated[
        bool,
        typer.Option(
            "--fine-tuned",
            help="Train four whole networks, 20 to 45 minutes, instead of heads on frozen "
            "features.",
        ),
    ] = False,
    patches: Annotated[
        int | None,
        typer.Option(
            min=64, metavar="N", help="Patches of training. Default: 4000, or 10000 fine-tuned."
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder of the study, in which it resumes. Default: runs/normalization, or "
            "runs/normalization-fine-tuned.",
        ),
    ] = None,
) -> str:
    """Measure whether stain normalisation helps, and stain augmentation, and both."""
    from pcam_tf import data
    from pcam_tf.evaluation import reports
    from pcam_tf.files import check_outputs
    from pcam_tf.studies import fine_tuned_normalization, normalization

    study = fine_tuned_normalization if fine_tuned else normalization
    run_dir = run or Path("runs") / f"normalization{'-fine-tuned' * fine_tuned}"
    source = options.open_source(data_dir)
    options.refuse_more_classes(data.task_of(source))
    check_outputs([run_dir / "settings.json"], options.input_files(source=source))
    settings = normalization.Settings(study.recipe_of("cpu"), patches=patches or study.PATCHES)
    found = study.study(source, run_dir, settings)
    table = reports.markdown_table(normalization.summary_rows(*found))
    return f"{table}\nstudy {run_dir}"


def transformers(
    preset: Annotated[
        str, typer.Option(metavar="NAME", help="smoke (synthetic patches) or cpu (real ones).")
    ] = "smoke",
    data_dir: options.DataDir = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The folder of the study. Default: runs/transformers-PRESET."
        ),
    ] = None,
    figure: options.Figure = None,
) -> str:
    """Train transformers from scratch and distilled, beside a CNN; about three hours at cpu.

    The study resumes; the table is of what is done.
    """
    from pcam_tf import data, figures
    from pcam_tf.evaluation import reports
    from pcam_tf.figures import transformer_plots
    from pcam_tf.files import check_outputs, written_whole
    from pcam_tf.studies import transformers
    from pcam_tf.training import recipes

    recipes.check_patches(preset, real=bool(data.chosen_dir(data_dir)))
    run_dir = run or Path("runs") / f"transformers-{preset}"
    check_outputs([run_dir / "results.csv", figure])
    source = options.open_source(data_dir)
    options.refuse_more_classes(data.task_of(source))
    try:
        transformers.study(transformers.attempts_of(preset), source, run_dir, preset)
    finally:  # an interrupted study has results as well
        if (run_dir / "shipped.json").is_file():
            found = transformers.results(run_dir)
            with written_whole(run_dir / "results.csv") as temporary:
                found.to_csv(temporary, index=False, float_format="%.6g")
    if figure:
        figures.save(transformer_plots.auc_by_compute(found), figure)
    return f"{reports.markdown_table(transformers.summary_rows(found))}\nstudy {run_dir}"
