"""Where a claimed accuracy comes from: one recipe, judged by protocols that leak more or less.

A *condition* is a seed and a number of training patches. Each is trained on that many patches of
the training split and judged on others of the same slides (leaky), and on the validation and test
splits, which share no slide with it.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.ndimage
import scipy.optimize
import scipy.signal
import sklearn.metrics
import sklearn.neighbors
import tqdm

from pcam_tf import data, evaluation, prediction, synthetic, training
from pcam_tf.data import audit
from pcam_tf.errors import InputError
from pcam_tf.files import written_whole
from pcam_tf.models import classifier, engines
from pcam_tf.task import PCAM, Task
from pcam_tf.training import recipes, runs
from pcam_tf.user_tables import read_csv_as_text

HELD_OUT = "held out"
APART = "held out, no overlap"
PROTOCOLS = (HELD_OUT, APART, "validation", "test")
PHASES = {"frozen": "model-frozen.keras", "unfrozen": "model.keras"}
# A tenth of the training split is held out; each seed holds out another tenth.
HELD_OUT_SHARE = 10
# Of unrelated patches hardly any pair correlates so well at any shift; of one and the same tissue,
# compressed twice, nearly every pair does.
OVERLAP_CORRELATION = 0.8
NEIGHBOURS = 5
FEATURELESS_STD = 5.0  # grey levels


def recipe_of(preset: str, task: Task = PCAM) -> recipes.Recipe:
    """Return the recipe of the study: short, and plain, as tutorials have it.

    On a processor, a head on frozen features alone: thirteen of them take minutes, and a network
    that is fine-tuned on 1,000 patches for a few epochs has not yet met enough of them for its
    BatchNormalization to fit. At "smoke" the model sees nothing but the centre 32×32 px of drawn
    tissue: a task that is hard enough for a leak to help.

    Raises:
        InputError: there is no such preset.
    """
    return dataclasses.replace(
        recipes.preset(preset),
        teachers=(),
        crop_px=PCAM.centre_px if preset == "smoke" else task.side_px,
        resize_px=None,
        dropout=0.2,
        stochastic_depth=0.0,
        stain_strength=0.25,
        rotation_degrees=0.0,
        scaling=1.0,
        surroundings=0.0,
        brightness=0.0,
        blur_px=0.0,
        jpeg_quality=100,
        weight_decay=1e-4,
        frozen_views=1,
        frozen_epochs=6 if preset == "smoke" else recipes.preset(preset).frozen_epochs,
        unfrozen_epochs=6 if preset == "gpu" else 0,
        test_time_augmentation=False,
    )


def conditions_of(preset: str) -> list[tuple[int, int]]:
    """Return the conditions of the study: pairs of seed and number of training patches."""
    if preset == "smoke":
        return [(0, 200), (0, 800), (1, 800)]
    return [(seed, size) for size in (1000, 2000, 5000, 10000) for seed in range(3)] + [(0, 18000)]


def source_of(preset: str, source):
    """Return what the study is of: `source`, or at "smoke" drawn slides of its own.

    On those, as on real ones, most slides hold hardly any tumour or hardly anything else: to know
    a slide is nearly to know the label.
    """
    if preset != "smoke":
        return source
    config = synthetic.config_of(seed=0, train=1200, validation=256, test=512, sorted_slides=True)
    return synthetic.builder(data.SYNTHETIC_DIR, config)


def splits_of(total: int, *, seed: int, size: int) -> tuple[str, str]:
    """Return what a condition is trained on and what it holds out, as slices of "train".

    TFDS stores patches in an order that has nothing to do with their slides, so a run of them is a
    random sample. The tenth that is held out moves with the seed; training patches follow it, so
    those of a smaller size are among those of a larger one.

    Raises:
        InputError: more patches than there are, or a seed beyond 0..9.
    """
    held_out = total // HELD_OUT_SHARE
    if not 0 <= seed < HELD_OUT_SHARE:
        raise InputError(f"seed {seed}: the study has a tenth to hold out for each of 0..9.")
    if not 1 <= size <= total - held_out:
        raise InputError(
            f"{size:,} training patches: choose 1 to {total - held_out:,}, since {held_out:,} of "
            f"{total:,} are held out."
        )
    first = seed * held_out
    return _window(total, first + held_out, size), _window(total, first, held_out)


def _window(total, first, length):
    """Return `length` patches from number `first` on, going round at the end, as a TFDS slice."""
    first %= total
    beyond = first + length - total
    if beyond <= 0:
        return f"train[{first}:{first + length}]"
    return f"train[{first}:{total}]+train[:{beyond}]"


def study(
    recipe: recipes.Recipe, source, run_dir: str | Path, conditions: Iterable[tuple[int, int]]
) -> None:
    """Train and predict every condition; what is done is not done again.

    Writes into `run_dir`: a folder for each condition, with predictions tables and the ids of its
    training patches, `overlaps.csv` and `blank.csv`.

    Args:
        recipe: of every condition, but for its seed.
        source: a prepared source of patches.
        run_dir: the study's folder.
        conditions: pairs of seed (0..9) and number of training patches.

    Raises:
        InputError: an impossible condition, or the folder holds another study.
    """
    run_dir, conditions = Path(run_dir), list(conditions)
    total = data.count(source, "train")
    for seed, size in conditions:
        splits_of(total, seed=seed, size=size)
    for number, (seed, size) in enumerate(conditions, start=1):
        print(f"[{number}/{len(conditions)}] seed {seed}, {size:,} training patches", flush=True)
        _condition(recipe, source, run_dir / f"seed{seed}-{size}", seed, size)
    _describe_patches(recipe, source, run_dir)


def _condition(recipe, source, folder, seed, size):
    recipe = dataclasses.replace(recipe, seed=seed)
    trained_on, held_out = splits_of(data.count(source, "train"), seed=seed, size=size)
    runs.refuse_other(runs.Run(recipe, source, folder, trained_on))
    if (folder / "training.csv").is_file():
        return
    training.train(recipe, source, folder, training_split=trained_on)
    phases = PHASES if recipe.unfrozen_epochs else ("frozen",)
    for phase in phases:
        model = classifier.load(folder / PHASES[phase])
        for name, split in ((HELD_OUT, held_out), ("validation",) * 2, ("test",) * 2):
            table = prediction.predict_split(model, source, split)
            prediction.write(table, folder / f"{phase}-{name}.csv")
    ids = np.concatenate([batch["id"] for batch in _batches(source, trained_on)])
    # Written last: it is what makes a condition done.
    with written_whole(folder / "training.csv") as temporary:
        pd.DataFrame({"id": ids}).to_csv(temporary, index=False)
    for file in PHASES.values():
        (folder / file).unlink()


def _batches(source, split):
    return data.arrays(data.batches(source, split, batch_size=256))


def _describe_patches(recipe, source, run_dir):
    """Write which training patches overlap, and which patches of any split are blank."""
    if (run_dir / "blank.csv").is_file():
        return
    task = data.task_of(source)
    model = classifier.build(task, backbone=recipe.backbone, weights=recipe.weights)
    extractor = engines.fastest(classifier.feature_extractor(model), data.count(source, "train"))
    blank, ids, grey, features = [], [], [], []
    for split in data.SPLITS:
        bar = tqdm.tqdm(total=data.count(source, split), desc=f"reading {split}", unit="patch")
        for batch in _batches(source, split):
            blank.append(batch["id"][audit.is_blank(batch["image"])])
            if split == "train":
                ids.append(batch["id"])
                grey.append(batch["image"].mean(axis=-1, dtype="float32"))
                features.append(extractor.predict_on_batch(batch["image"].astype("float32")))
            bar.update(len(batch["id"]))
        bar.close()
    ids = np.concatenate(ids)
    pairs = overlapping(np.concatenate(grey), np.concatenate(features))
    with written_whole(run_dir / "overlaps.csv") as temporary:
        pd.DataFrame({"first": ids[pairs[:, 0]], "second": ids[pairs[:, 1]]}).to_csv(
            temporary, index=False
        )
    with written_whole(run_dir / "blank.csv") as temporary:
        pd.DataFrame({"id": np.concatenate(blank)}).to_csv(temporary, index=False)


def overlapping(grey: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the pairs of patches that show the same tissue, shifted by up to a quarter side.

    Each patch is held against its nearest neighbours by features: the centre half of the one is
    sought in the other by normalised cross-correlation. Turned copies are not found, and
    featureless patches, which resemble each other anyway, are left out.

    Args:
        grey: (n, side, side) float, grey levels 0..255.
        features: (n, d) of any network; cosine similarity chooses the candidates.

    Returns:
        (pairs, 2) int64, the smaller row first.
    """
    neighbours = sklearn.neighbors.NearestNeighbors(n_neighbors=min(NEIGHBOURS + 1, len(grey)))
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    found = neighbours.fit(unit).kneighbors(unit, return_distance=False)
    first, second = np.repeat(np.arange(len(grey)), found.shape[1]), found.ravel()
    candidates = np.unique(np.sort(np.stack([first, second], axis=1), axis=1), axis=0)
    candidates = candidates[candidates[:, 0] != candidates[:, 1]]
    same = [
        _shows_the_same(grey[one], grey[other])
        for one, other in tqdm.tqdm(candidates, desc="comparing", unit="pair")
    ]
    return candidates[np.array(same, bool)]


def _shows_the_same(one, other):
    quarter = len(one) // 4
    centre = one[quarter : len(one) - quarter, quarter : len(one) - quarter]
    if min(centre.std(), other.std()) < FEATURELESS_STD:
        return False
    return _largest_correlation(centre, other) >= OVERLAP_CORRELATION


def _largest_correlation(template, image):
    """Return the largest normalised cross-correlation of a square template within an image.

    The same values as `skimage.feature.match_template`, in a third of its time (0.4 against 1.1 ms
    of processor time a pair; a study compares up to 100,000 pairs).
    """
    side = len(template)
    template, image = template - template.mean(), image - image.mean()
    products = scipy.signal.fftconvolve(image, template[::-1, ::-1], mode="valid")
    # Mean and variance of the image under the template at each place, as a moving window has them.
    inside = slice(side // 2, side // 2 + len(products))
    mean, square = (
        scipy.ndimage.uniform_filter(values, side)[inside, inside] for values in (image, image**2)
    )
    spread = np.sqrt(np.maximum(square - mean**2, 1.0)) * np.sqrt((template**2).mean())
    return (products / (side**2 * spread)).max()


def results(run_dir: str | Path) -> pd.DataFrame:
    """Judge every condition of a study by every protocol.

    Returns:
        A row for each `phase`, `seed`, `size` and `protocol` (one of `PROTOCOLS`): `patches`,
        `auc`, `low`, `high` (DeLong), `accuracy` (at 0.5), `accuracy_validation` (at the threshold
        with the largest sensitivity + specificity on validation), `accuracy_own` (at the threshold
        that is best on the evaluated patches themselves, which no honest protocol knows) and
        `accuracy_not_blank` (at 0.5, blank patches left out).

    Raises:
        InputError: the folder holds no finished study.
    """
    run_dir = Path(run_dir)
    folders = sorted(path.parent for path in run_dir.glob("seed*-*/training.csv"))
    if not folders or not (run_dir / "blank.csv").is_file():
        raise InputError(f"{run_dir} holds no finished study: run it first.")
    blank = set(read_csv_as_text(run_dir / "blank.csv")["id"])
    pairs = read_csv_as_text(run_dir / "overlaps.csv")
    rows = []
    for folder in folders:
        seed, size = (int(part) for part in folder.name.removeprefix("seed").split("-"))
        trained_on = set(read_csv_as_text(folder / "training.csv")["id"])
        leaked = set(pairs["first"][pairs["second"].isin(trained_on)])
        leaked |= set(pairs["second"][pairs["first"].isin(trained_on)])
        for phase in PHASES:
            if not (folder / f"{phase}-test.csv").is_file():
                continue
            tables = {
                name: evaluation.read_predictions(folder / f"{phase}-{name}.csv")
                for name in (HELD_OUT, "validation", "test")
            }
            held_out = tables[HELD_OUT]
            tables[APART] = held_out[~held_out["id"].isin(leaked)]
            threshold = evaluation.operating_points(tables["validation"])["youden"]
            for protocol in PROTOCOLS:
                judged = _judged(tables[protocol], threshold, blank)
                rows.append(
                    {"phase": phase, "seed": seed, "size": size, "protocol": protocol, **judged}
                )
    return pd.DataFrame(rows).sort_values(["phase", "size", "seed"], ignore_index=True)


def _judged(table, threshold, blank):
    labels, scores = table["label"].to_numpy(), table["probability"].to_numpy()
    auc, low, high = evaluation.auc_interval(labels, scores)
    rates, sensitivities, _ = sklearn.metrics.roc_curve(labels, scores)
    share = labels.mean()
    shown = ~table["id"].isin(blank).to_numpy()
    return {
        "patches": len(table),
        "auc": auc,
        "low": low,
        "high": high,
        "accuracy": np.mean((scores >= 0.5) == labels),
        "accuracy_validation": np.mean((scores >= threshold) == labels),
        "accuracy_own": np.max(sensitivities * share + (1 - rates) * (1 - share)),
        "accuracy_not_blank": np.mean((scores >= 0.5) == labels, where=shown),
    }


def extrapolate(found: pd.DataFrame, size: int, resamples: int = 500) -> dict[str, float]:
    """Fit 1 - AUC = b · size^-c to a learning curve and carry it on.

    The interval is from refitting AUCs drawn anew. All models are judged on the same patches, so
    that the error from these patches is shared: one draw moves all AUCs together, each by its
    standard error. The error of each training is drawn independently, with the standard deviation
    of the residuals of the fit. The interval says how well the curve is known if it is a power law
    without a floor; where the law breaks, it says nothing.

    Args:
        found: rows of `results` of one phase and one protocol, of two sizes or more.
        size: the number of training patches to carry the curve to.
        resamples: how many curves to refit.

    Returns:
        `b`, `c`, `auc` at `size`, and its 95 % `low` and `high`.

    Raises:
        InputError: fewer than two sizes.
    """
    if found["size"].nunique() < 2:
        raise InputError("a learning curve needs two sizes or more.")
    sizes, aucs = found["size"].to_numpy(float), found["auc"].to_numpy()
    errors = ((found["high"] - found["low"]) / (2 * 1.96)).to_numpy()

    def fitted(values):
        # In logarithms, the law is a straight line.
        wrong = np.log(np.clip(1 - values, 1e-6, None))
        (slope, level), _ = scipy.optimize.curve_fit(
            lambda x, slope, level: level + slope * x, np.log(sizes), wrong
        )
        return np.exp(level), -slope

    generator = np.random.default_rng(0)
    b, c = fitted(aucs)
    residuals = aucs - (1 - b * sizes**-c)
    deviation = np.sqrt((residuals**2).sum() / max(len(aucs) - 2, 1))
    again = [
        fitted(aucs + generator.normal() * errors + generator.normal(0, deviation, len(aucs)))
        for _ in range(resamples)
    ]
    reached = [1 - level * size**-power for level, power in again]
    low, high = np.percentile(reached, evaluation.PERCENTILES)
    return {"b": b, "c": c, "auc": 1 - b * size**-c, "low": low, "high": high}


def main_size(found: pd.DataFrame) -> int:
    """Return the largest number of training patches that has the most seeds."""
    seeds = found.groupby("size")["seed"].nunique()
    return int(seeds.index[seeds == seeds.max()].max())


def summary_rows(found: pd.DataFrame) -> list[dict[str, str]]:
    """Return a row for each phase and protocol at `main_size`: means over seeds, and their range.

    For `reports.markdown_table`.
    """
    found = found[found["size"] == main_size(found)]
    rows = []
    for phase in sorted(found["phase"].unique()):
        for protocol in PROTOCOLS:
            of = found[(found["phase"] == phase) & (found["protocol"] == protocol)]
            row = {"model": phase, "judged on": protocol, "patches": f"{of['patches'].mean():,.0f}"}
            for column, name in (
                ("auc", "AUC"),
                ("accuracy", "accuracy at 0.5"),
                ("accuracy_validation", "threshold of validation"),
                ("accuracy_own", "threshold of its own"),
                ("accuracy_not_blank", "at 0.5 without blanks"),
            ):
                row[name] = (
                    f"{of[column].mean():.3f} ({of[column].min():.3f}–{of[column].max():.3f})"
                )
            rows.append(row)
    return rows
