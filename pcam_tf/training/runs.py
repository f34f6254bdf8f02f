"""The folder of a run: what stands in it, and whether a training may go on in it."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import tensorflow_datasets as tfds

from pcam_tf import data, files, task
from pcam_tf.data import sampling
from pcam_tf.errors import InputError
from pcam_tf.models import model_files
from pcam_tf.task import Task
from pcam_tf.training import recipes
from pcam_tf.training.recipes import Recipe

HISTORY_COLUMNS = ["phase", "epoch", "loss", "validation_loss", "validation_auc", "seconds"]


@dataclasses.dataclass(frozen=True)
class Run:
    """What is trained, on which patches, and where the result goes.

    Attributes:
        recipe: everything that decides what the training does.
        source: a prepared source of patches, see `data.open_source`.
        folder: of the run.
        training_split: what to train on, such as "train" or "train[:1000]".
    """

    recipe: Recipe
    source: tfds.core.DatasetBuilder
    folder: Path
    training_split: str

    @property
    def task(self) -> Task:
        """The task of the source."""
        return data.task_of(self.source)

    @property
    def work_dir(self) -> Path:
        """The folder of what only an unfinished run needs: features, checkpoints."""
        return self.folder / "unfinished"

    @property
    def patches(self) -> int:
        """Number of training patches."""
        return data.count(self.source, self.training_split)


def history(run_dir: str | Path) -> pd.DataFrame:
    """Return a run's history: phase, epoch (from 1), losses, validation AUC, seconds.

    Raises:
        InputError: the folder holds no history.
    """
    path = Path(run_dir) / "history.csv"
    if not path.is_file():
        raise InputError(f"{run_dir} holds no run: there is no history.csv in it.")
    return pd.read_csv(path)


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Let one process at a time train in the run's folder.

    Raises:
        InputError: another process does, or the folder cannot be written to.
    """
    busy = (
        f"another process is training in {run.folder}: wait until it has ended, or name another "
        "folder."
    )
    with files.locked(run.work_dir / "lock", busy):
        yield


def finish(run: Run) -> None:
    """Write `finished.json`, then remove what only an unfinished run needs.

    In this order: a run that is killed in between is a finished one.

    Raises:
        InputError: the folder cannot be written to.
    """
    files.write_json(run.folder / "finished.json", {"epochs": len(history(run.folder))})
    remove_leftovers(run)


def remove_leftovers(run: Run) -> None:
    """Remove what only an unfinished run needs, also what a process that was killed has left."""
    shutil.rmtree(run.work_dir, ignore_errors=True)


def has_frozen_phase(recipe: Recipe) -> bool:
    """Return whether a training begins with a frozen phase: not from teachers or from scratch."""
    return not recipe.teachers and recipe.frozen_epochs > 0


def refuse_incomplete(run: Run) -> None:
    """Refuse a folder from which a model was removed that an epoch of its history has written.

    Raises:
        InputError: `model.keras` or, after the frozen phase, `model-frozen.keras` is missing.
    """
    if not (run.folder / "history.csv").is_file():
        return
    names = ["model.keras"]
    if "unfrozen" in set(history(run.folder).phase) and has_frozen_phase(run.recipe):
        names.append("model-frozen.keras")
    for name in names:
        if not (run.folder / name).exists():
            raise model_files.lost(run.folder, name)


def is_finished(run_dir: str | Path) -> bool:
    """Return whether both phases of a run have ended."""
    return (Path(run_dir) / "finished.json").is_file()


def describe(run: Run) -> dict:
    """Return what `recipe.json` holds: the recipe, the task, and the patches of each split."""
    splits = {split: split for split in data.SPLITS} | {"train": run.training_split}
    return {
        "recipe": dataclasses.asdict(run.recipe) | {"teachers": list(run.recipe.teachers)},
        "task": run.task.to_json(),
        "data": {
            "name": run.source.info.name,
            "version": str(run.source.info.version),
            "patches": {name: data.count(run.source, split) for name, split in splits.items()},
            "training_split": run.training_split,
            "bytes": {name: each.num_bytes for name, each in run.source.info.splits.items()},
            **(run.source.described if isinstance(run.source, sampling.Mixture) else {}),
        },
    }


def write_description(run: Run) -> None:
    """Write `recipe.json` into the run's folder, and the ids of a chosen part of the patches.

    Raises:
        InputError: the folder cannot be written to.
    """
    files.write_json(run.folder / "recipe.json", describe(run))
    if isinstance(run.source, sampling.Mixture) and run.source.ids is not None:
        sampling.write_ids(run.folder / "training-ids.csv", run.source.ids)


def refuse_other(run: Run) -> None:
    """Refuse a folder that holds a run of another recipe, another task or other patches.

    Runs of earlier versions are accepted: what their recipe lacks has its default, and what they
    did not note of the patches is not compared.

    Raises:
        InputError: the folder holds another run; the message names the first difference.
    """
    path = run.folder / "recipe.json"
    if not path.is_file():
        return
    try:
        existing = _completed(json.loads(path.read_text(encoding="utf-8")))
        wanted = _completed(describe(run))
        different = [
            f"{part}.{key} {existing[part][key]!r} instead of {value!r}"
            for part, values in wanted.items()
            for key, value in values.items()
            if key in existing[part] and existing[part][key] != value
        ]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"{path} is not a run's recipe: delete the run or name another."
        ) from error
    if different:
        raise InputError(
            f"{run.folder} holds another run ({different[0]}): delete it or name another."
        )


def _completed(described):
    """Return a description in which nothing is left to defaults."""
    of = task.from_json(described.get("task", task.PCAM.to_json()))
    recipe = dataclasses.asdict(recipes.from_json(described["recipe"], of))
    return {"recipe": recipe, "task": of.to_json(), "data": described["data"]}
