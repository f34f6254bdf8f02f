"""Commands about training: train a classifier, export one."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

from pcam_tf.commands import options
from pcam_tf.errors import InputError

RunDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The folder of the run. Default: runs/PRESET."),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Replaces the preset's backbone, such as MobileNetV2. ViT is the vision transformer "
        "in the file of --weights.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="A Keras weights file (.weights.h5) of the backbone, or random: trained from scratch, "
        "without a frozen phase. With --backbone ViT: the file of a pathology encoder, of PyTorch "
        "or safetensors.",
    ),
]
FrozenOnly = Annotated[
    bool,
    typer.Option(
        "--frozen-only", help="Train the head on the features of the backbone, and end there."
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(min=0, max=2**32 - 1, metavar="NUMBER", help="The random seed. Default: 0."),
]
Prevalence = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Train on a part of the patches in which tumour has this prevalence, such as 0.05. "
        "--seed chooses the part.",
    ),
]
Add = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DIR:WEIGHT",
        help="Add the training patches of another data directory, such as generated ones, as this "
        "share of all: generated:0.3.",
    ),
]
Strategy = Annotated[
    str,
    typer.Option(metavar="NAME", help="one (one device) or mirrored (all GPUs of this machine)."),
]


def train(
    preset: options.Preset = "smoke",
    data_dir: options.DataDir = None,
    run: RunDir = None,
    backbone: Backbone = None,
    weights: Weights = None,
    frozen_only: FrozenOnly = False,
    seed: Seed = None,
    prevalence: Prevalence = None,
    add: Add = None,
    strategy: Strategy = "one",
) -> str:
    """Train a classifier, or resume an interrupted training.

    The run's folder contains the recipe, the history, the model, the predictions and the report.
    """
    from pcam_tf import data, prediction, training
    from pcam_tf.evaluation import reports
    from pcam_tf.files import check_outputs
    from pcam_tf.slides import field_predictors
    from pcam_tf.training import devices, recipes

    recipes.check_patches(preset, real=bool(data.chosen_dir(data_dir)))
    recipe = _recipe(preset, backbone, weights, frozen_only, seed)
    if frozen_only and recipe.teachers:
        raise InputError(f"the preset {preset} has no frozen phase: leave out --frozen-only.")
    run_dir = run or Path("runs") / recipe.preset
    written = [run_dir / name for name in ("recipe.json", "model.keras", "model-frozen.keras")]
    check_outputs(written, [weights] if weights not in (None, options.RANDOM) else [])
    # First of all: TensorFlow accepts no other devices after its first computation.
    devices_together = devices.open_strategy(strategy)
    source = _source(options.open_source(data_dir), prevalence, add or (), recipe.seed)
    try:
        training.train(recipe, source, run_dir, strategy=devices_together)
    except KeyboardInterrupt:
        options.log.info(
            "\nThe same command resumes after the last finished epoch. If there is one, "
            "%s contains the best model so far.",
            run_dir,
        )
        raise
    prediction.predict_run(run_dir, source, test_time_augmentation=recipe.test_time_augmentation)
    table = reports.markdown_table(reports.summary_rows(reports.report_run(run_dir)))
    try:
        field_predictors.export(run_dir)
    except InputError as error:  # the run is complete without an export
        warnings.warn(str(error), stacklevel=1)
    return f"{table}\nrun {run_dir}"


def _source(source, prevalence, additions, seed):
    """Return a source, or the mixture of it that the options ask for."""
    from pcam_tf import data
    from pcam_tf.data import sampling

    if prevalence is None and not additions:
        return source
    ids = None if prevalence is None else sampling.ids_at_prevalence(source, prevalence, seed)
    parsed = [sampling.parse_addition(text) for text in additions]
    added = [sampling.Addition(data.open_source(folder), weight) for folder, weight in parsed]
    return sampling.Mixture(source, ids, added, seed)


def _recipe(preset, backbone, weights, frozen_only, seed):
    import dataclasses

    from pcam_tf.training import recipes

    given = {"backbone": backbone, "weights": weights, "seed": seed}
    replaced = {name: value for name, value in given.items() if value is not None}
    if weights == options.RANDOM:
        # A head on features of random weights teaches nothing, but as a baseline.
        replaced |= {"weights": None} | ({} if frozen_only else {"frozen_epochs": 0})
    if frozen_only:
        replaced["unfrozen_epochs"] = 0
    return dataclasses.replace(recipes.preset(preset), **replaced)


def export(
    model: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="A .keras file or the folder of a run. `train` exports its model itself.",
        ),
    ],
) -> str:
    """Write a model for LiteRT, several times as fast; also for fields, if it is made for them."""
    from pcam_tf.files import check_outputs
    from pcam_tf.slides import field_predictors

    file, *exports = options.input_files(models=[model])
    check_outputs(exports, [file])
    written = " and ".join(map(str, field_predictors.export(model)))
    return f"exported to {written}: `predict`, `slide` and `app` use it by default"
