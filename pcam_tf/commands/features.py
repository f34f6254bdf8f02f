"""Commands about backbones: a linear probe of its features, and pretraining without labels."""

from pathlib import Path
from typing import Annotated

import typer

from pcam_tf.commands import options


def features(
    weights: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="The file of a pathology encoder, of PyTorch or safetensors. With --backbone: a "
            "Keras weights file, imagenet, preset or random.",
        ),
    ],
    backbone: Annotated[
        str, typer.Option(metavar="NAME", help="A backbone instead of an encoder's own network.")
    ] = "ViT",
    data_dir: options.DataDir = None,
    run: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder for features and predictions.")
    ] = Path("runs/features"),
) -> str:
    """Compute frozen features and predict by logistic regression on them (a linear probe).

    An interrupted command resumes.
    """
    from pcam_tf import data, evaluation
    from pcam_tf.evaluation import reports
    from pcam_tf.files import check_outputs
    from pcam_tf.models import classifier
    from pcam_tf.studies import linear_probe

    is_file = weights not in ("imagenet", "preset", options.RANDOM)
    check_outputs(
        [run / "probe.json", *(run / f"predictions-{split}.csv" for split in data.SPLITS[1:])],
        [weights] if is_file else [],
    )
    source = options.open_source(data_dir)
    chosen = None if weights == options.RANDOM else weights
    model = classifier.build(data.task_of(source), backbone=backbone, weights=chosen)
    found = linear_probe.probe(classifier.feature_extractor(model), source, run)
    validation, test = (
        evaluation.read_predictions(run / f"predictions-{split}.csv") for split in data.SPLITS[1:]
    )
    report = reports.report_on_test(test, validation, data.task_of(source))
    table = reports.markdown_table(reports.summary_rows({"linear probe": report}))
    return (
        f"{table}\n{found['features']} features a patch, C = {found['strength']:g} chosen on "
        f"validation; features and predictions in {run}"
    )


def pretrain(
    backbone: Annotated[
        str, typer.Option(metavar="NAME", help="A transformer of the registry, such as CCT.")
    ] = "CCT",
    data_dir: options.DataDir = None,
    run: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder for the weights and the history.")
    ] = Path("runs/pretraining"),
    epochs: Annotated[
        int, typer.Option(min=1, metavar="NUMBER", help="Passes over the training patches.")
    ] = 10,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, metavar="NUMBER", help="The random seed.")
    ] = 0,
) -> str:
    """Pretrain a transformer without labels: it learns to draw what is hidden of patches.

    An interrupted command resumes.
    """
    from pcam_tf.files import check_outputs
    from pcam_tf.training import masked

    weights = run / masked.WEIGHTS
    check_outputs([weights])
    settings = masked.Pretraining(backbone, epochs, seed=seed)
    history = masked.pretrain(settings, options.open_source(data_dir), run)
    losses = ", ".join(f"{loss:.3f}" for loss in history.loss)
    return (
        f"loss of the hidden pixels by epoch: {losses}\n"
        f"train with --backbone {backbone} --weights {weights}"
    )
