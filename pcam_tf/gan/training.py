"""The training of a generator: steps, checks, checkpoints; a killed one continues."""

import dataclasses
import hashlib
import io
import logging
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from PIL import Image

from pcam_tf import files
from pcam_tf.data import sampling
from pcam_tf.errors import InputError
from pcam_tf.files import claim, write_json, written_whole
from pcam_tf.gan import alarms, augmentation, distances, networks, steps
from pcam_tf.gan.features import Features
from pcam_tf.gan.patches import BalancedOrder, Patches, check_classes
from pcam_tf.gan.recipes import Recipe
from pcam_tf.task import Task

log = logging.getLogger(__name__)
# Patches of each class at a check; the sheet shows some of them.
CHECKED, SHOWN = 250, 16


@dataclasses.dataclass(frozen=True)
class Run:
    """What is trained, on which patches, and where the result goes.

    Attributes:
        recipe: everything that decides the training.
        task: of the patches.
        patches: centres of the training patches, `recipe.side_px` wide.
        folder: of the run.
        features: of patches, for the checks.
    """

    recipe: Recipe
    task: Task
    patches: Patches
    folder: Path
    features: Features

    @property
    def checkpoint(self) -> Path:
        """The file of the state of an unfinished run."""
        return self.folder / "unfinished" / "checkpoint.npz"

    def describe(self) -> dict:
        """Return what `generator.json` holds."""
        ids = "\n".join(sorted(self.patches.id))
        return {
            "recipe": dataclasses.asdict(self.recipe),
            "task": self.task.to_json(),
            "training_patches": {
                name: int((self.patches.label == label).sum())
                for label, name in enumerate(self.task.classes)
            },
            "training_ids_sha256": hashlib.sha256(ids.encode()).hexdigest(),
            "training_pixels_sha256": self.patches.digest,
        }


def train(run: Run) -> pd.DataFrame:
    """Train a generator, or continue a training, or return the history of a finished one.

    Writes into the folder: `generator.json` (recipe, task, number and digest of the patches),
    `training-ids.csv`, `history.csv` (a row a check), `samples/` (a sheet a check) and
    `generator.keras` (the running average). A killed training goes on from its last check and ends
    with the same weights as one that was not.

    Returns:
        The history.

    Raises:
        InputError: a class is missing, the side does not fit, ImageNet weights cannot be had, the
            training diverges, or the folder holds another run, is trained in by another process or
            cannot be written to.
    """
    shape = run.recipe.shape_for(run.task)
    if run.patches.image.shape[1] != run.recipe.side_px:
        raise InputError(
            f"the patches are {run.patches.image.shape[1]} px wide and the generator's are "
            f"{run.recipe.side_px} px."
        )
    check_classes(run.patches, run.task)
    _claim(run)
    if (run.folder / "finished.json").is_file():
        return pd.read_csv(run.folder / "history.csv")
    busy = f"another process is training in {run.folder}: wait for it, or name another folder."
    with files.locked(run.checkpoint.with_name("lock"), busy):
        _claim(run)  # another process may have begun, or ended, meanwhile
        if (run.folder / "finished.json").is_file():
            return pd.read_csv(run.folder / "history.csv")
        sampling.write_ids(run.folder / "training-ids.csv", run.patches.id)
        history = _train(run, steps.State(run.recipe, shape))
        write_json(run.folder / "finished.json", {"kimg": run.recipe.kimg})
    shutil.rmtree(run.checkpoint.parent, ignore_errors=True)
    return history


def _claim(run):
    """Note in the folder what is trained; refuse one that holds anything else."""
    path, others = run.folder / "generator.json", ("recipe.json", "history.csv")
    if not path.is_file() and any((run.folder / name).exists() for name in others):
        raise InputError(f"{run.folder} holds a run that is no generator's: name another.")
    if (run.folder / "generator.keras").is_file() and not (run.folder / "history.csv").is_file():
        raise InputError(
            f"{run.folder} holds a generator without its training, such as the shipped one: name "
            "another folder."
        )
    claim(path, run.describe(), "run")


def _train(run, state):
    """Take the steps that are still to do, with a check every so many of them."""
    tf.config.experimental.enable_op_determinism()
    recipe, order = run.recipe, BalancedOrder(run.patches.label, run.recipe.batch_size,
                                              run.recipe.seed)  # fmt: skip
    checks, first, history = Checks(run), 0, pd.DataFrame()
    if run.checkpoint.is_file():
        stored = state.load(run.checkpoint)
        first, history = int(stored["steps"]), _unpacked(str(stored["history"]))
        log.info("continues at %.1f of %.1f kimg", recipe.kimg_of(first), recipe.kimg)
    started, measured = time.perf_counter(), []
    for number in range(first, recipe.steps):
        rows = order.batch(number)
        measured.append(state.step(number, run.patches.image[rows], run.patches.label[rows]))
        done = number + 1
        if done % recipe.steps_between_checks and done < recipe.steps:
            continue
        means = _means(measured)
        if not np.isfinite(list(means.values())).all():
            raise InputError(
                f"the training diverged before {recipe.kimg_of(done):g} kimg: a loss is no number. "
                "Take another seed."
            )
        state.set_statistics()
        row = {"kimg": recipe.kimg_of(done), **means, **checks.check(state, done)}
        spent = time.perf_counter() - started
        row["seconds"] = round(spent, 1)
        history, measured = pd.concat([history, pd.DataFrame([row])], ignore_index=True), []
        state.save(run.checkpoint, steps=np.array(done), history=np.array(history.to_json()))
        _write(history, run.folder / "history.csv")
        left = spent / (done - first) * (recipe.steps - done)
        _report(row, recipe, left, alarms.alarms(history))
        started, first = time.perf_counter(), done
    state.average.save(run.folder / "generator-whole.keras")
    (run.folder / "generator-whole.keras").replace(run.folder / "generator.keras")
    return history


def _means(measured):
    """Return the means over the steps since the last check."""
    return {name: float(np.mean([each[name] for each in measured])) for name in measured[0]}


def _unpacked(text):
    return pd.read_json(io.StringIO(text)).reset_index(drop=True)


def _write(history, path):
    with written_whole(path) as temporary:
        history.to_csv(temporary, index=False)


def _report(row, recipe, seconds_left, found):
    kids = ", ".join(f"{name} {row[name]:.4f}" for name in row if name.startswith("kid_"))
    minutes = seconds_left / 60
    log.info("%.1f of %.1f kimg, %s, %.1f minutes left", row["kimg"], recipe.kimg, kids, minutes)
    for line in found:
        log.warning("%s", line)


class Checks:
    """What is measured of the running average at a check, and the sheet of samples."""

    def __init__(self, run: Run):
        """Compute the features of real patches, and draw the latents of all checks."""
        self.run = run
        rng = np.random.default_rng([run.recipe.seed, 2])
        shape = run.recipe.shape_for(run.task)
        self.latents = rng.standard_normal((CHECKED, shape.latents), "float32")
        # Turned patches have no layout in common, so they are turned after it is measured.
        self.coins = self.latents[:, : networks.TURNS].T > 0
        self.latents[:, : networks.TURNS] = -1
        self.real = []
        for label in range(len(run.task.classes)):
            rows = rng.permutation(np.flatnonzero(run.patches.label == label))[: 2 * CHECKED]
            self.real.append(run.features(run.patches.image[rows]))

    def check(self, state: steps.State, done: int) -> dict:
        """Return KID, diversity and shared layout of each class, and write `samples/<kimg>.png`."""
        row, sheet = {}, []
        for label, (name, real) in enumerate(zip(self.run.task.classes, self.real, strict=True)):
            labels = np.full(CHECKED, label)
            unturned = steps.generate(state.average, self.latents, labels)
            images = np.asarray(augmentation.turned(unturned, self.coins))
            features = self.run.features(images)
            row[f"kid_{name}"] = distances.kid(real, features) if len(real) > 1 else np.nan
            count = min(len(real), CHECKED)
            row[f"diversity_{name}"] = (
                distances.diversity(features[:count]) / distances.diversity(real[:count])
                if count > 1
                else np.nan
            )
            row[f"layout_{name}"] = distances.shared_layout(unturned)
            sheet.append(images[:SHOWN])
        kimg = f"{self.run.recipe.kimg_of(done):08.3f}"
        write_sheet(np.concatenate(sheet), self.run.folder / "samples" / f"{kimg}.png")
        return row


def write_sheet(images: np.ndarray, path: str | Path, columns: int = SHOWN // 2) -> None:
    """Write patches (n, side, side, 3) as one picture, row by row, whole or not at all."""
    side = images.shape[1]
    whole = images[: len(images) // columns * columns]
    rows = whole.reshape(-1, columns, side, side, 3).swapaxes(1, 2)
    with written_whole(path) as temporary:
        Image.fromarray(rows.reshape(-1, columns * side, 3)).save(temporary)
