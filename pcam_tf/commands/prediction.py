"""Commands about prediction: write a predictions table, merge the parts of one."""

from pathlib import Path
from typing import Annotated

import typer

from pcam_tf.commands import options
from pcam_tf.errors import InputError
from pcam_tf.task import PCAM

Output = Annotated[Path, typer.Option(metavar="CSV", help="The table to write.")]


Images = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE|DIR...",
        help="Predict these pictures instead: PNG, JPEG or TIFF files, or folders of them. Each "
        "is rescaled to the model's microns per pixel "
        f"(PCam: {PCAM.mpp}); of what is then larger than a patch ({PCAM.side_px}×{PCAM.side_px} "
        "px) the centre is read.",
    ),
]
Mpp = Annotated[
    float | None,
    typer.Option(
        metavar="FLOAT",
        help="Microns per pixel of the pictures of --images. Default: as each file states, or "
        "else the model's.",
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH...",
        help="A .keras file or the folder of a run; several of them with --average. "
        "Default: the model in the package.",
    ),
]
Average = Annotated[
    bool,
    typer.Option(
        "--average",
        help="Average the log-odds of the models of --model.",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Predict only part I of N, such as 2/4, and write beside the table which part "
        "it is; `merge` joins the parts.",
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="NAME",
        help="table, or kaggle: id,label with the probability as label, for Kaggle's "
        "Histopathologic Cancer Detection.",
    ),
]
MergedParts = Annotated[list[Path] | None, typer.Option("--merge", metavar="PART...", hidden=True)]
TestTimeAugmentation = Annotated[
    bool,
    typer.Option(
        help="Average over the eight symmetric views, as for the numbers in the model card. "
        "One view takes about a fifth of the time."
    ),
]


def predict(
    data_dir: options.DataDir = None,
    split: options.Split = "test",
    images: Images = None,
    mpp: Mpp = None,
    model: Models = None,
    engine: options.Engine = None,
    average: Average = False,
    shard: Shard = None,
    merge_parts: MergedParts = None,
    table_format: Format = "table",
    output: Output = Path("predictions.csv"),
    test_time_augmentation: TestTimeAugmentation = True,
) -> str:
    """Write a predictions table: id, label, probability; and group, where slides are known."""
    from pcam_tf import prediction
    from pcam_tf.models import engines
    from pcam_tf.prediction import pictures, shards

    if merge_parts and shard:
        raise InputError("give --shard or --merge, not both.")
    if merge_parts:
        return merge(merge_parts, output)
    engines.check_name(engine)
    if table_format not in ("table", "kaggle"):
        raise InputError(f"--format {table_format} is unknown: choose table or kaggle.")
    if shard and table_format != "table":
        raise InputError("--format kaggle is of a whole table: give it without --shard.")
    if mpp is not None and not images:
        raise InputError("--mpp is about the pictures of --images: give both.")
    part = shards.parse(shard) if shard else None
    models = _models(model, average)
    options.input_files(models=models)  # before patches are drawn, which takes seconds
    source = None if images else options.open_source(data_dir)
    files = pictures.picture_files(images) if images else []
    _check_output(output, part, models, files, source)
    loaded = [engines.load(each, engine) for each in models]
    columns = [engines.task_of(each).probability_columns for each in loaded]
    if any(each != columns[0] for each in columns):
        raise InputError("the models have different classes: average models of one task.")
    if table_format == "kaggle" and len(columns[0]) > 1:
        raise InputError("--format kaggle is for two classes, the model has more: leave it out.")
    views = {"test_time_augmentation": test_time_augmentation}
    if images:
        tables, described, left_out = _of_pictures(loaded, files, part, mpp, views)
    else:
        rows, described = shards.of_split(source, split, part) if part else (None, None)
        tables = [
            prediction.predict_split(each, source, split, rows=rows, **views) for each in loaded
        ]
        left_out = {}
    table = prediction.average(tables) if average else tables[0]
    if part:
        described = described | _record(models, loaded) | views
        shards.write_part(table, output, part, described, left_out)
    else:
        prediction.write(
            prediction.for_kaggle(table) if table_format == "kaggle" else table, output
        )
    if left_out:
        raise InputError(
            f"{len(left_out)} of {len(left_out) + len(table)} pictures are damaged and left out: "
            f"{', '.join(left_out)}. The other predictions are in {output}."
        )
    return f"{len(table):,} predictions in {output}"


def _of_pictures(loaded, files, part, mpp, views):
    """Return the tables of all models, what is divided, and the damaged pictures by name."""
    from pcam_tf import prediction
    from pcam_tf.prediction import shards

    chosen, described = shards.of_pictures(files, part) if part else (files, {})
    left_out = {}  # the same for every model
    tables = [
        prediction.predict_images(each, chosen, mpp=mpp, left_out=left_out, **views)
        for each in loaded
    ]
    return tables, described | {"mpp": mpp}, left_out


def _check_output(output, part, models, pictures, source):
    """Refuse a table that cannot be written or would replace an input, before anything is read."""
    from pcam_tf import files
    from pcam_tf.prediction import shards

    if part and not files.is_ordinary(output):
        raise InputError(f"the record of a part lies beside it: {output} is no ordinary file.")
    record = shards.record_path(output) if part else None
    read = options.input_files(models=models, source=source)
    files.check_outputs([output, record], [*read, *pictures])


def _models(given, average):
    from pcam_tf.models import model_files

    models = given or [model_files.SHIPPED_MODEL]
    if (len(models) > 1) != average:
        raise InputError("--average takes several models, as in --average --model A.keras B.keras.")
    return models


def _record(models, loaded):
    """Return which models and engines predicted a part: those of all parts must agree."""
    from pcam_tf.models import engines, model_files

    return {
        "models": [model_files.digest(each) for each in models],
        "engines": [engines.name_of(each) for each in loaded],
    }


def merge(
    parts: Annotated[
        list[Path],
        typer.Argument(metavar="PART...", help="The tables that `predict --shard` wrote."),
    ],
    output: Output = Path("predictions.csv"),
) -> str:
    """Join the parts of a predictions table that --shard wrote."""
    from pcam_tf.prediction import shards

    merged = shards.merge(parts, output)
    return f"{merged:,} predictions of {len(parts)} parts in {output}"
