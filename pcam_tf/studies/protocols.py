"""Where a claimed accuracy comes from: one recipe, judged by protocols that leak more or less.

A *condition* is a seed and a number of training patches. Each is fine-tuned on that many patches of
the training split and predicts others of the same slides (leaky), and the validation and test
splits, which share no slide with it. `protocol_results` judges what is predicted.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import tqdm

from pcam_tf import data, prediction, synthetic, training
from pcam_tf.data import audit
from pcam_tf.errors import InputError
from pcam_tf.files import written_whole
from pcam_tf.models import classifier, engines
from pcam_tf.studies import shared_tissue
from pcam_tf.task import PCAM
from pcam_tf.training import recipes, runs

HELD_OUT = "held out"
PHASES = ("frozen", "unfrozen")
# A tenth of the training split is held out; each seed holds out another tenth.
HELD_OUT_SHARE = 10
SIZES = (18000, 2000, 5000, 10000)


def recipe_of(preset: str) -> recipes.Recipe:
    """Return the recipe of the study: that of "cpu", with as many steps for every size.

    Epochs of 250 steps of 64, six with the frozen backbone and five with all weights, are what
    eleven conditions can have in an hour and a half on two cores. BatchNormalization's statistics
    are estimated anew before each validation: the running ones follow about a hundred steps behind,
    and after 160 steps on 2,000 patches they cost 0.08 of AUC (docs/experiments.md).

    At "smoke" the model sees nothing but the centre 32×32 px of drawn tissue: a task that is hard
    enough for a leak to help.

    Raises:
        InputError: there is no such preset.
    """
    chosen = recipes.preset(preset)
    plain = dataclasses.replace(
        recipes.preset("cpu"),
        preset=preset,
        mixed_precision=chosen.mixed_precision,
        epoch_steps=250,
        reestimated_batches=16,
        frozen_views=1,
        frozen_epochs=6,
        unfrozen_epochs=5,
        test_time_augmentation=False,
    )
    if preset != "smoke":
        return plain
    return dataclasses.replace(
        plain,
        crop_px=PCAM.centre_px,
        batch_size=32,
        epoch_steps=20,
        frozen_epochs=2,
        unfrozen_epochs=3,
        reestimated_batches=3,
        averaging=0.9,
    )


def conditions_of(preset: str) -> list[tuple[int, int]]:
    """Return the conditions of the study: pairs of seed and number of training patches.

    One seed after the other, since the study may be interrupted; two have the largest number.
    """
    if preset == "smoke":
        return [(0, 800), (0, 200)]
    seeds_of = {SIZES[0]: 2}
    return [(seed, size) for seed in range(3) for size in SIZES if seed < seeds_of.get(size, 3)]


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

    Writes into `run_dir`: `overlaps.csv`, `blank.csv`, and a folder for each condition, with
    predictions tables of each phase (of the test split also after each unfrozen epoch) and the ids
    of its training patches. After a kill, the same call goes on after the last finished epoch.

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
        trained_on, _ = splits_of(total, seed=seed, size=size)
        folder = run_dir / f"seed{seed}-{size}"
        of_seed = dataclasses.replace(recipe, seed=seed)
        runs.refuse_other(runs.Run(of_seed, source, folder, trained_on))
    _describe_patches(recipe, source, run_dir)
    for number, (seed, size) in enumerate(conditions, start=1):
        print(f"[{number}/{len(conditions)}] seed {seed}, {size:,} training patches", flush=True)
        _condition(recipe, source, run_dir / f"seed{seed}-{size}", seed, size)


def finished(run_dir: str | Path) -> list[Path]:
    """Return the folders of a study's finished conditions."""
    return sorted(path.parent for path in Path(run_dir).glob("seed*-*/training.csv"))


def _condition(recipe, source, folder, seed, size):
    recipe = dataclasses.replace(recipe, seed=seed)
    trained_on, held_out = splits_of(data.count(source, "train"), seed=seed, size=size)
    if (folder / "training.csv").is_file():
        return

    def keep(model, epoch):
        classifier.save(model, folder / f"epoch{epoch}.keras")
        table = prediction.predict_split(model, source, "test")
        prediction.write(table, folder / f"epoch{epoch}-test.csv")

    training.train(recipe, source, folder, training_split=trained_on, after_epoch=keep)
    for phase in PHASES:
        model = classifier.load(folder / _best(folder, phase))
        for name, split in ((HELD_OUT, held_out), ("validation",) * 2, ("test",) * 2):
            table = prediction.predict_split(model, source, split)
            prediction.write(table, folder / f"{phase}-{name}.csv")
    ids = np.concatenate([batch["id"] for batch in _batches(source, trained_on)])
    # Written last: it is what makes a condition done.
    with written_whole(folder / "training.csv") as temporary:
        pd.DataFrame({"id": ids}).to_csv(temporary, index=False)
    for file in folder.glob("*.keras"):
        file.unlink()


def _best(folder, phase):
    """Return the file of the model with the best validation AUC of a phase.

    The run's own is the best of both phases: not of what was fine-tuned, if that made it worse.
    """
    if phase == "frozen":
        return "model-frozen.keras"
    history = training.history(folder)
    unfrozen = history[history["phase"] == phase]
    return f"epoch{unfrozen.loc[unfrozen['validation_auc'].idxmax(), 'epoch']}.keras"


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
    pairs = shared_tissue.overlapping(np.concatenate(grey), np.concatenate(features))
    with written_whole(run_dir / "overlaps.csv") as temporary:
        pd.DataFrame({"first": ids[pairs[:, 0]], "second": ids[pairs[:, 1]]}).to_csv(
            temporary, index=False
        )
    with written_whole(run_dir / "blank.csv") as temporary:
        pd.DataFrame({"id": np.concatenate(blank)}).to_csv(temporary, index=False)
