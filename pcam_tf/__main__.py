"""The command line: parse, call, print."""

import argparse
import sys
import warnings
from pathlib import Path

from pcam_tf.errors import InputError

PRESET_HELP = (
    "smoke (minutes, synthetic patches), cpu (about an hour), cpu-144 (two hours), distilled (an "
    "hour) or gpu (full PCam)"
)
DATA_HELP = (
    "a prepared data directory, holding patch_camelyon/2.0.0; default: PCAM_TF_DATA_DIR, "
    "else synthetic patches"
)

ENGINE_HELP = (
    "litert or tensorflow; default: litert, several times as fast, where the model has an export"
)


def _prepare(arguments):
    from pcam_tf import data
    from pcam_tf.data import hdf5

    data_dir = _needed_dir(arguments)
    if arguments.download:
        data.download(data_dir)
    else:
        hdf5.prepare_from_hdf5(
            arguments.from_hdf5, data_dir, verify_checksums=arguments.verify_checksums
        )
    print(f"prepared {data_dir}: use it by --data-dir {data_dir} or PCAM_TF_DATA_DIR={data_dir}")


def _needed_dir(arguments):
    from pcam_tf import data

    chosen = data.chosen_dir(arguments.data_dir)
    if chosen is None:
        raise InputError("say where to write the prepared data: give --data-dir DIR.")
    return chosen


def _open(arguments):
    from pcam_tf import data

    return data.open_source(data.chosen_dir(arguments.data_dir))


def _audit(arguments):
    from pcam_tf import data
    from pcam_tf.data import audit
    from pcam_tf.files import write_json

    source = _open(arguments)
    found = audit.audit(
        {
            split: data.arrays(data.batches(source, split, batch_size=256))
            for split in data.SPLITS
            if split in source.info.splits
        }
    )
    print(audit.format_audit(found))
    if arguments.output:
        write_json(arguments.output, found)


def _train(arguments):
    import dataclasses

    from pcam_tf import prediction, training
    from pcam_tf.evaluation import reports
    from pcam_tf.models import engines
    from pcam_tf.training import devices, recipes

    recipe = recipes.preset(arguments.preset)
    chosen = {"backbone": arguments.backbone, "weights": arguments.weights, "seed": arguments.seed}
    recipe = dataclasses.replace(
        recipe, **{name: value for name, value in chosen.items() if value is not None}
    )
    run_dir = arguments.run or Path("runs") / recipe.preset
    # First of all, since TensorFlow takes no devices in once it has computed something.
    strategy = devices.open_strategy(arguments.strategy)
    source = _open(arguments)
    try:
        training.train(recipe, source, run_dir, strategy=strategy)
    except KeyboardInterrupt:
        print(
            f"\nstopped: the same command goes on from the last finished epoch. {run_dir} holds "
            "the best model so far, if an epoch was finished.",
            file=sys.stderr,
        )
        return 130
    prediction.predict_run(run_dir, source, test_time_augmentation=recipe.test_time_augmentation)
    print(reports.markdown_table(reports.summary_rows(reports.report_run(run_dir))))
    try:
        engines.export(run_dir)
    except InputError as error:  # the run is whole without
        warnings.warn(str(error), stacklevel=1)
    print(f"run {run_dir}")
    return 0


def _export(arguments):
    from pcam_tf.models import engines

    print(f"exported to {engines.export(arguments.model)}: `predict` and `app` use it by default")


def _predict(arguments):
    from pcam_tf import prediction
    from pcam_tf.models import engines, model_files
    from pcam_tf.prediction import shards

    if arguments.merge:
        merged = shards.merge(arguments.merge, arguments.output)
        print(f"{merged:,} predictions of {len(arguments.merge)} parts in {arguments.output}")
        return
    shard = shards.parse(arguments.shard) if arguments.shard else None
    models = arguments.model or [model_files.SHIPPED_MODEL]
    if arguments.average:
        models = arguments.model or list(model_files.TEACHERS.values())
    if (len(models) > 1) != arguments.average:
        raise InputError("--average takes several models, as in --average --model A.keras B.keras.")
    loaded = [engines.load(model, arguments.engine) for model in models]
    patches, described = _patches(arguments, shard)
    tables = [_predictions(model, patches, arguments) for model in loaded]
    table = prediction.average(tables) if arguments.average else tables[0]
    if shard:
        described |= {
            "models": [model_files.digest(model) for model in models],
            "engines": [engines.name_of(model) for model in loaded],
            "test_time_augmentation": arguments.test_time_augmentation,
        }
        shards.write_part(table, arguments.output, shard, described)
    else:
        prediction.write(table, arguments.output)
    print(f"{len(table):,} predictions in {arguments.output}")


def _patches(arguments, shard):
    """Return what to predict, as `_predictions` takes it, and what that is a shard of."""
    from pcam_tf.prediction import shards

    if arguments.images:
        return shards.of_pictures(arguments.images, shard) if shard else (arguments.images, None)
    source = _open(arguments)
    rows, described = None, None
    if shard:
        rows, described = shards.of_split(source, arguments.split, shard)
    return (source, rows), described


def _predictions(model, patches, arguments):
    from pcam_tf import prediction

    augmented = arguments.test_time_augmentation
    if arguments.images:
        return prediction.predict_images(model, patches, test_time_augmentation=augmented)
    source, rows = patches
    return prediction.predict_split(
        model, source, arguments.split, rows=rows, test_time_augmentation=augmented
    )


def _evaluate(arguments):
    from pcam_tf import evaluation
    from pcam_tf.app import reviews
    from pcam_tf.evaluation import report_text
    from pcam_tf.figures import html_report
    from pcam_tf.files import write_json, written_whole

    if arguments.compare:
        return _compare(arguments)
    if arguments.predictions is None:
        raise InputError("give a predictions table, or two of them by --compare A.csv B.csv.")
    if arguments.validation and len(arguments.validation) != 1:
        raise InputError("one predictions table needs one validation table.")
    read = reviews.latest if arguments.latest else evaluation.read_predictions
    predictions = read(arguments.predictions)
    validation = (
        evaluation.read_predictions(arguments.validation[0]) if arguments.validation else None
    )
    report = evaluation.report(predictions, validation=validation)
    output = arguments.output or arguments.predictions.with_suffix(".report.json")
    write_json(output, report)
    with written_whole(output.with_suffix(".html")) as temporary:
        text = html_report.page(report, predictions, title=str(arguments.predictions))
        temporary.write_text(text, encoding="utf-8")
    print(report_text.format_report(report, title=str(arguments.predictions)))
    print(f"report in {output} and, with figures, in {output.with_suffix('.html')}")
    return 0


def _compare(arguments):
    from pcam_tf import evaluation
    from pcam_tf.evaluation import comparison, report_text, reports
    from pcam_tf.files import write_json

    if arguments.predictions is not None:
        raise InputError("--compare takes two tables and no other: leave out the first one.")
    if arguments.validation and len(arguments.validation) != 2:
        raise InputError("--compare needs two validation tables, one for each model, or none.")
    first, second = (evaluation.read_predictions(path) for path in arguments.compare)
    thresholds = tuple(
        evaluation.operating_points(evaluation.read_predictions(path))[reports.MAIN_OPERATING_POINT]
        for path in arguments.validation or []
    )
    found = comparison.compare(first, second, thresholds=thresholds or (0.5, 0.5))
    print(report_text.format_comparison(found, names=tuple(map(str, arguments.compare))))
    if arguments.output:
        write_json(arguments.output, found)
        print(f"comparison in {arguments.output}")
    return 0


def _errors(arguments):
    from pcam_tf import data, evaluation, figures
    from pcam_tf.evaluation import reports
    from pcam_tf.figures import study_plots
    from pcam_tf.studies import hard_tissue

    predictions = evaluation.read_predictions(arguments.predictions)
    threshold = 0.5
    if arguments.validation:
        validation = evaluation.read_predictions(arguments.validation)
        threshold = evaluation.operating_points(validation)[reports.MAIN_OPERATING_POINT]
    batches = data.batches(_open(arguments), arguments.split, batch_size=256)
    measures = hard_tissue.measure(data.arrays(batches))
    found = hard_tissue.by_measure(predictions, measures, threshold)
    print(f"share of each class that is wrong at the threshold {threshold:.3f}, by thirds")
    print(reports.markdown_table(hard_tissue.summary_rows(found)))
    confident = hard_tissue.confident(predictions, measures, threshold)
    print("\nthe more confident half of the errors, and the patches of their class that are right")
    print(confident.to_string(index=False, float_format="{:.3f}".format))
    if arguments.figure:
        figures.save(study_plots.errors_by_measure(found), arguments.figure)


def _robustness(arguments):
    from pcam_tf import data, figures
    from pcam_tf.evaluation import reports
    from pcam_tf.figures import study_plots
    from pcam_tf.files import written_whole
    from pcam_tf.models import classifier
    from pcam_tf.studies import robustness

    models = {"model" if arguments.model else "shipped": classifier.load(arguments.model)}
    if arguments.baseline:
        models["baseline"] = classifier.load(arguments.baseline)
    patches = data.read_patches(_open(arguments), arguments.split)
    predicted = robustness.probabilities_under_shift(models, patches["image"])
    found = robustness.auc_under_shift(patches["label"], predicted)
    with written_whole(arguments.output) as temporary:
        found.to_csv(temporary, index=False, float_format="%.5f")
    lost = robustness.losses(patches["label"], predicted)
    print(reports.markdown_table(robustness.summary_rows(lost)))
    if arguments.figure:
        figures.save(study_plots.under_shift(found), arguments.figure)
    print(f"AUC at each level in {arguments.output}")


def _novelty(arguments):
    from pcam_tf import data
    from pcam_tf.evaluation import reports
    from pcam_tf.files import write_json
    from pcam_tf.studies import novelty

    source, reference = _open(arguments), None
    if arguments.fit:
        reference = novelty.fit(
            *(
                data.arrays(data.batches(source, split, batch_size=256))
                for split in ("train", "validation")
            )
        )
        write_json(arguments.fit, reference)
    patches = data.read_patches(source, arguments.split)["image"]
    found = novelty.detection(novelty.changed(patches), reference)
    print(reports.markdown_table(novelty.summary_rows(found)))


def _protocols(arguments):
    from pcam_tf.evaluation import reports
    from pcam_tf.studies import protocols

    run_dir = arguments.run or Path("runs") / f"protocols-{arguments.preset}"
    source = protocols.source_of(
        arguments.preset, None if arguments.preset == "smoke" else _open(arguments)
    )
    recipe = protocols.recipe_of(arguments.preset)
    protocols.study(recipe, source, run_dir, protocols.conditions_of(arguments.preset))
    print(reports.markdown_table(protocols.summary_rows(protocols.results(run_dir))))
    print(f"study {run_dir}")


def _app(arguments):
    from pcam_tf.app import serve

    # Before the model is loaded, which takes a while.
    auth = serve.login(arguments.auth, arguments.host)

    from pcam_tf.app import findings, page

    blocks = page.build(findings.load_reader(arguments.model, arguments.engine), arguments.reviews)
    serve.serve(blocks, host=arguments.host, port=arguments.port, auth=auth)


def _reproduce(arguments):
    from pcam_tf import data, reproduce

    print(reproduce.reproduce(arguments.preset, data.chosen_dir(arguments.data_dir)))


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m pcam_tf",
        description="Detect breast-cancer metastasis in histopathology patches (PatchCamelyon). "
        "For research only, not a medical device.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name, function, text):
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(function=function)
        added.add_argument("--debug", action="store_true", help="show tracebacks")
        return added

    added = command(
        "prepare", _prepare, "Make a data directory from official HDF5 files or by download."
    )
    source = added.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--from-hdf5",
        type=Path,
        metavar="DIR",
        help="the folder of camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5, plain or .gz",
    )
    source.add_argument("--download", action="store_true", help="download 7.5 GB by TFDS")
    added.add_argument("--data-dir", help="the folder to make patch_camelyon/2.0.0 in")
    added.add_argument(
        "--verify-checksums", action="store_true", help="compare .gz files to the published SHA-256"
    )

    added = command("audit", _audit, "Count classes, duplicates, leaks and blank patches.")
    added.add_argument("--data-dir", help=DATA_HELP)
    added.add_argument("--output", type=Path, help="also write the audit as JSON")

    added = command("train", _train, "Train a classifier, or go on with a training.")
    added.add_argument("--preset", default="smoke", help=PRESET_HELP + "; default: smoke")
    added.add_argument("--data-dir", help=DATA_HELP)
    added.add_argument("--run", type=Path, help="the folder of the run; default: runs/PRESET")
    added.add_argument("--backbone", help="in place of the preset's, such as MobileNetV2")
    added.add_argument("--weights", help="a Keras weights file (.weights.h5) of the backbone")
    added.add_argument("--seed", type=int, help="of everything drawn at random; default: 0")

    added.add_argument(
        "--strategy",
        default="one",
        help="one device, or mirrored: all GPUs of this machine (default: one)",
    )

    added = command(
        "export", _export, "Write a run's model.litert, which predicts several times as fast."
    )
    added.add_argument(
        "--model", required=True, help="a .keras file or a run's folder; `train` has exported its"
    )

    added = command("predict", _predict, "Write a predictions table: id,label,probability.")
    added.add_argument("--data-dir", help=DATA_HELP)
    added.add_argument(
        "--split", default="test", help="train, validation, test or test[:100]; default: test"
    )
    added.add_argument(
        "--images",
        nargs="+",
        metavar="FILE|DIR",
        help="picture files instead: PNG, JPEG or TIFF, 96×96 px at about 0.97 microns per pixel",
    )
    added.add_argument(
        "--model", nargs="+", help="a .keras file or a run's folder; default: the shipped one"
    )
    added.add_argument("--engine", help=ENGINE_HELP)
    added.add_argument(
        "--average",
        action="store_true",
        help="average the log-odds of several models: those of --model, else the two that the "
        "shipped model has learnt from, at more than three times the cost",
    )
    parts = added.add_mutually_exclusive_group()
    parts.add_argument(
        "--shard",
        metavar="I/N",
        help="predict only part I of N, such as 2/4, and write beside it what it is a part of",
    )
    parts.add_argument(
        "--merge",
        nargs="+",
        type=Path,
        metavar="PART",
        help="predict nothing: check and join the parts that --shard wrote",
    )
    added.add_argument("--output", type=Path, default=Path("predictions.csv"))
    added.add_argument(
        "--test-time-augmentation",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="average over the eight symmetric views, as the model card's numbers do; without, "
        "eight times as fast (default: with)",
    )

    added = command("evaluate", _evaluate, "Report on a predictions table, with 95 %% intervals.")
    added.add_argument("predictions", type=Path, nargs="?", help="a CSV of id,label,probability")
    added.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("A", "B"),
        help="two tables of the same patches instead: DeLong, McNemar, paired bootstrap",
    )
    added.add_argument(
        "--validation",
        type=Path,
        nargs="+",
        metavar="TABLE",
        help="the table of the validation split, to choose thresholds on; with --compare, two",
    )
    added.add_argument(
        "--latest",
        action="store_true",
        help="of rows with one id take the last, as in a file of reviews that the app wrote",
    )
    added.add_argument(
        "--output", type=Path, help="the JSON; default: beside the table, with --compare none"
    )

    added = command("errors", _errors, "Say what the misclassified patches have in common.")
    added.add_argument("predictions", type=Path, help="a CSV of id,label,probability")
    added.add_argument("--data-dir", help=DATA_HELP)
    added.add_argument("--split", default="test", help="that the predictions are of; default: test")
    added.add_argument(
        "--validation",
        type=Path,
        help="the table of the validation split, to choose a threshold on",
    )
    added.add_argument("--figure", type=Path, help="also draw it, as PNG")

    added = command(
        "robustness", _robustness, "Measure how much a model loses when stain or scanner shift."
    )
    added.add_argument("--data-dir", help=DATA_HELP)
    added.add_argument("--split", default="test", help="a split or a slice of it; default: test")
    added.add_argument("--model", help="a .keras file or a run's folder; default: the shipped one")
    added.add_argument("--baseline", help="another, to compare with")
    added.add_argument("--output", type=Path, default=Path("robustness.csv"))
    added.add_argument("--figure", type=Path, help="also draw it, as PNG")

    added = command(
        "novelty", _novelty, "Count how many patches are noticed as unlike the training data."
    )
    added.add_argument("--data-dir", help=DATA_HELP)
    added.add_argument("--split", default="test", help="a split or a slice of it; default: test")
    added.add_argument(
        "--fit",
        type=Path,
        metavar="JSON",
        help="first learn from train and validation what is ordinary, and write that; default: "
        "what the shipped model learnt from",
    )

    added = command(
        "protocols", _protocols, "Judge one recipe by protocols that leak more or less."
    )
    added.add_argument("--preset", default="smoke", help="smoke (synthetic slides), cpu or gpu")
    added.add_argument("--data-dir", help=DATA_HELP)
    added.add_argument(
        "--run", type=Path, help="the study's folder; default: runs/protocols-PRESET"
    )

    added = command("app", _app, "Serve the pathologists' page, on this machine alone.")
    added.add_argument("--model", help="a .keras file or a run's folder; default: the shipped one")
    added.add_argument("--engine", help=ENGINE_HELP)
    added.add_argument("--host", default="127.0.0.1", help="to listen on; default: 127.0.0.1")
    added.add_argument("--port", type=int, default=7860, help="0 for any; default: 7860")
    added.add_argument(
        "--auth",
        metavar="USER:FILE",
        help="ask for this user and the password in FILE; needed for a host that others can reach",
    )
    added.add_argument(
        "--reviews", type=Path, metavar="CSV", help="add what reviewers accept and disagree with"
    )

    added = command("reproduce", _reproduce, "Execute all notebooks and print their results.")
    added.add_argument("--preset", default="smoke", help=PRESET_HELP + "; default: smoke")
    added.add_argument("--data-dir", help=DATA_HELP)
    return parser


def main(words: list[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        words: the arguments; None for those of the process.
    """
    arguments = _parser().parse_args(words)
    warnings.filterwarnings("ignore", category=UserWarning, module="keras|tensorflow_datasets")
    warnings.showwarning = _one_line_warning
    try:
        return arguments.function(arguments) or 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except InputError as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if arguments.debug:
            raise
        lines = str(error).strip().splitlines() or [""]
        reason = lines[-1] if "Traceback" in str(error) else lines[0]
        print(
            f"error: {type(error).__name__}: {reason} (--debug shows where)",
            file=sys.stderr,
        )
        return 1


def _one_line_warning(message, *_, **__):
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
