"""What a transformer is worth on few patches, beside a convolutional network.

An *attempt* is a network, where its weights start, and a number of training patches. Each is
trained by the same recipe and judged on validation and test. The convolutional network that it is
held against is the shipped model, which is also the teacher of those that are distilled. Those that
are pretrained have learnt to draw what was hidden of all training patches, without their labels.
"""

import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pcam_tf import data, evaluation, prediction, training
from pcam_tf.errors import InputError
from pcam_tf.evaluation import comparison
from pcam_tf.files import claim, write_json
from pcam_tf.models import classifier, cost, engines
from pcam_tf.training import distillation, masked, recipes

STORED_RESULTS = Path(__file__).parent / "transformers.csv"
SPLITS = ("validation", "test")
SHIPPED = "shipped CNN"
# Passes over the training patches, by their number, at "cpu". Fewer patches are seen more often,
# but not so often that every attempt costs the same. The ends of the range come first.
EPOCHS = {1000: 20, 20000: 4, 5000: 6}
LONG_EPOCHS = 12  # of those that are "distilled longer"
PRETRAINING_EPOCHS = 6  # over all training patches
CNN = "EfficientNetLite0"
MEASURED_PATCHES = 128


class Attempt(NamedTuple):
    """What is trained.

    Attributes:
        network: a key of `backbones.BACKBONES`.
        start: "scratch", "ImageNet", "pretrained" (see `masked.pretrain`), or "distilled" and
            "distilled longer" (from random weights, learning the outputs of the shipped model in
            place of the labels).
        patches: how many it is trained on.
    """

    network: str
    start: str
    patches: int

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.network}-{self.start}-{self.patches}"

    @property
    def is_distilled(self) -> bool:
        """Whether it learns from the shipped model."""
        return self.start.startswith("distilled")

    @property
    def epochs(self) -> int:
        """Passes over its training patches at "cpu"."""
        return LONG_EPOCHS if self.start.endswith("longer") else EPOCHS[self.patches]


def attempts_of(preset: str) -> list[Attempt]:
    """Return the attempts of the study, in the order in which they are trained."""
    if preset == "smoke":
        return [Attempt("CCT", "scratch", 512)]
    attempts = [
        Attempt(network, start, patches)
        for patches in EPOCHS
        for network, start in (
            ("CCT", "scratch"),
            ("CCT", "distilled"),
            (CNN, "ImageNet"),
            ("CCT", "pretrained"),
            ("DeiTTiny", "scratch"),
            (CNN, "scratch"),
        )
    ]
    return [*attempts, Attempt("CCT", "distilled longer", max(EPOCHS))]


def recipe_of(attempt: Attempt, preset: str, pretrained: Path | None = None) -> recipes.Recipe:
    """Return the recipe of an attempt: one phase, in which all weights are trained.

    It is the same for every network but for the rate, at which a transformer would diverge, and
    for what distillation adds: patches are mixed. None ends early, so that all of a number of
    patches take the same steps.

    Args:
        attempt: what is trained.
        preset: of the study.
        pretrained: the file of weights that a pretrained attempt starts from.

    Raises:
        InputError: there is no such preset.
    """
    smoke = recipes.preset(preset).preset == "smoke"
    epochs = 1 if smoke else attempt.epochs
    weights = {"ImageNet": "imagenet", "pretrained": str(pretrained)}.get(attempt.start)
    return recipes.Recipe(
        preset=preset,
        backbone=attempt.network,
        weights=weights,
        stochastic_depth=0.1,
        batch_size=32,
        teachers=(distillation.SHIPPED,) if attempt.is_distilled else (),
        start_from_teacher=False,
        weight_decay=0.05,
        frozen_epochs=0,
        unfrozen_epochs=epochs,
        patience=epochs,
        unfrozen_learning_rate=1e-3 if attempt.network == CNN else 5e-4,
        warm_up=0.15,
        averaging=0.9 if smoke else 0.98,
        test_time_augmentation=False,
    )


def study(attempts: list[Attempt], source, run_dir: str | Path, preset: str) -> None:
    """Train and predict every attempt; what is done is not done again.

    Writes into `run_dir` the predictions tables of the shipped model, and a folder for each attempt
    with its run, its predictions tables and `cost.json`.

    Args:
        attempts: see `attempts_of`.
        source: a prepared source of patches.
        run_dir: the study's folder.
        preset: of the recipes.

    Raises:
        InputError: the folder holds another study, or the source is of another task than the
            shipped model.
    """
    run_dir = Path(run_dir)
    claim(run_dir / "study.json", data.described(source) | {"preset": preset}, "study")
    shipped = engines.load()
    for split in SPLITS:
        path = run_dir / f"shipped-{split}.csv"
        if not path.is_file():
            prediction.write(prediction.predict_split(shipped, source, split), path)
    if not (run_dir / "shipped.json").is_file():
        write_json(run_dir / "shipped.json", _cost(classifier.load()) | {"views": None})
    for number, attempt in enumerate(attempts, start=1):
        print(f"[{number}/{len(attempts)}] {attempt.folder}", flush=True)
        _attempt(attempt, source, run_dir / attempt.folder, preset)


def _attempt(attempt, source, folder, preset):
    if (folder / "cost.json").is_file():
        return
    pretraining = folder.parent / f"pretraining-{attempt.network}"
    recipe, pretraining_views = recipe_of(attempt, preset, pretraining / masked.WEIGHTS), 0
    if attempt.start == "pretrained":
        epochs = 1 if preset == "smoke" else PRETRAINING_EPOCHS
        masked.pretrain(masked.Pretraining(attempt.network, epochs), source, pretraining)
        pretraining_views = epochs * data.count(source, "train")
    model = training.train(recipe, source, folder, training_split=f"train[:{attempt.patches}]")
    for split in SPLITS:
        table = prediction.predict_split(model, source, split)
        prediction.write(table, folder / f"predictions-{split}.csv")
    views = len(training.history(folder)) * attempt.patches
    # Written last: it is what makes an attempt done.
    counts = {"views": views, "pretraining_views": pretraining_views}
    write_json(folder / "cost.json", _cost(model) | counts)


def _cost(model):
    """Return weights, multiply-adds and speed of a classifier."""
    engine = engines.converted(model)
    patches = engines.probe(model.input_shape[1])
    patches = np.concatenate([patches] * (MEASURED_PATCHES // len(patches)))
    engine.predict_on_batch(patches)  # the first call allocates
    # The processor's time, not the clock's: others may use the machine as well.
    started = time.process_time()
    engine.predict_on_batch(patches)
    seconds = time.process_time() - started
    return {
        "weights": model.count_params(),
        "multiply_adds": cost.multiply_adds(model),
        "patches_a_second": len(patches) / seconds,
    }


def results(run_dir: str | Path) -> pd.DataFrame:
    """Judge what is done of a study.

    Returns:
        A row for the shipped model and for each attempt: `network`, `start`, `patches` (how many it
        was trained on), `views` (patches seen in training), `pretraining_views`, `weights`,
        `multiply_adds` (of one patch), `patches_a_second` (LiteRT, of one core), `training_flops`;
        `validation`, `test`:
        AUC, with `validation_low` and so on (95 %); `difference`, `difference_low`,
        `difference_high`, `p`: test AUC minus the shipped model's, paired.

    Raises:
        InputError: the folder holds no study.
    """
    run_dir = Path(run_dir)
    if not (run_dir / "shipped.json").is_file():
        raise InputError(f"{run_dir} holds no study of transformers: run it first.")
    cnn = {split: evaluation.read_predictions(run_dir / f"shipped-{split}.csv") for split in SPLITS}
    teacher = json.loads((run_dir / "shipped.json").read_text(encoding="utf-8"))
    rows = [{"network": SHIPPED, "start": ""} | teacher | _aucs(cnn)]
    names = (path.parent.name.split("-") for path in run_dir.glob("*/cost.json"))
    done = [Attempt(network, start, int(patches)) for network, start, patches in names]
    for attempt in sorted(done):
        path = run_dir / attempt.folder / "cost.json"
        found = json.loads(path.read_text(encoding="utf-8"))
        tables = {
            split: evaluation.read_predictions(path.parent / f"predictions-{split}.csv")
            for split in SPLITS
        }
        compared = comparison.compare(tables["test"], cnn["test"])
        paired = compared["bootstrap"]["auc"]
        row = attempt._asdict() | found | _aucs(tables)
        row |= {
            "training_flops": _training_flops(attempt, found, teacher),
            "difference": paired["value"],
            "difference_low": paired["low"],
            "difference_high": paired["high"],
            "p": compared["auc"]["p"],
        }
        rows.append(row)
    return pd.DataFrame(rows)


def stored_results() -> pd.DataFrame:
    """Return `results` of the study at "cpu" on the real patches, as stored with the package."""
    return pd.read_csv(STORED_RESULTS).fillna({"start": ""})


def _aucs(tables):
    found = {}
    for split, table in tables.items():
        labels, scores = table["label"].to_numpy(), table["probability"].to_numpy()
        found[split], low, high = evaluation.auc_interval(labels, scores)
        found |= {f"{split}_low": low, f"{split}_high": high, f"{split}_patches": len(table)}
    return found


def _training_flops(attempt, found, teacher):
    """Return the FLOPs of a training: a forward and twice as much backward, and the teacher's.

    The pretraining that an attempt starts from counts as a whole.
    """
    each = 3 * found["multiply_adds"]
    taught = teacher["multiply_adds"] * found["views"] if attempt.is_distilled else 0
    return 2 * (each * (found["views"] + found["pretraining_views"]) + taught)


def summary_rows(found: pd.DataFrame) -> list[dict[str, str]]:
    """Return a row for each row of `results`, as text, for `reports.markdown_table`."""
    return [
        {
            "network": row.network,
            "start": row.start or "–",
            "training patches": f"{row.patches:,.0f}" if row.start else "–",
            "weights": f"{row.weights / 1e6:.2f} M",
            "MB": f"{4 * row.weights / 1e6:.1f}",
            "M multiply-adds": f"{row.multiply_adds / 1e6:.0f}",
            "patches/s": f"{row.patches_a_second:.0f}",
            "validation AUC": _interval(row.validation, row.validation_low, row.validation_high),
            "test AUC": _interval(row.test, row.test_low, row.test_high),
            "minus the CNN": _interval(row.difference, row.difference_low, row.difference_high)
            if row.start
            else "–",
        }
        for row in found.itertuples()
    ]


def _interval(value, low, high):
    return f"{value:.3f} ({low:.3f} to {high:.3f})"
