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
        help="Predict these pictures instead: PNG, JPEG or TIFF of the model's patch size and "
        f"scale (PCam: {PCAM.side_px}×{PCAM.side_px} px, about {PCAM.mpp:.2f} microns per "
        "pixel).",
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
        help="Average the log-odds of the models of --model. Default models: the two teachers "
        "of the model in the package, which take more than three times as long.",
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
    model: Models = None,
    engine: options.Engine = None,
    average: Average = False,
    shard: Shard = None,
    merge_parts: MergedParts = None,
    output: Output = Path("predictions.csv"),
    test_time_augmentation: TestTimeAugmentation = True,
) -> str:
    """Write a predictions table: id, label, probability."""
    from pcam_tf import prediction
    from pcam_tf.models import engines
    from pcam_tf.prediction import shards

    if merge_parts and shard:
        raise InputError("give --shard or --merge, not both.")
    if merge_parts:
        return merge(merge_parts, output)
    engines.check_name(engine)
    part = shards.parse(shard) if shard else None
    models = _models(model, average)
    source = None if images else options.open_source(data_dir)
    _check_output(output, part, models, images, source)
    loaded = [engines.load(each, engine) for each in models]
    views = {"test_time_augmentation": test_time_augmentation}
    if images:
        patches, described = shards.of_pictures(images, part) if part else (images, None)
        tables = [prediction.predict_images(each, patches, **views) for each in loaded]
    else:
        rows, described = shards.of_split(source, split, part) if part else (None, None)
        tables = [
            prediction.predict_split(each, source, split, rows=rows, **views) for each in loaded
        ]
    table = prediction.average(tables) if average else tables[0]
    if part:
        shards.write_part(table, output, part, described | _record(models, loaded) | views)
    else:
        prediction.write(table, output)
    return f"{len(table):,} predictions in {output}"


def _check_output(output, part, models, images, source):
    """Refuse a table that cannot be written or would replace an input, before anything is read."""
    from pcam_tf import files
    from pcam_tf.prediction import pictures, shards

    if part and not files.is_ordinary(output):
        raise InputError(f"the record of a part lies beside it: {output} is no ordinary file.")
    record = shards.record_path(output) if part else None
    read = options.input_files(models=models, source=source)
    read += pictures.picture_files(images) if images else []
    files.check_outputs([output, record], read)


def _models(given, average):
    from pcam_tf.models import model_files

    default = model_files.TEACHERS.values() if average else [model_files.SHIPPED_MODEL]
    models = given or list(default)
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
