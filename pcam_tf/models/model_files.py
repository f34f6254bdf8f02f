"""Where models lie, and what is known of a classifier without Keras: its task, its digest."""

import hashlib
import json
import zipfile
from pathlib import Path

from pcam_tf import task
from pcam_tf.errors import InputError, first_line
from pcam_tf.files import check_no_pointer

# Name of the task's description within a `.keras` archive.
TASK_ENTRY = "task.json"

SHIPPED_MODEL = Path(__file__).parent.parent / "shipped" / "model.keras"


def model_file(model: str | Path) -> Path:
    """Return the `.keras` file that is meant.

    Args:
        model: a `.keras` file or the folder of a run.

    Raises:
        InputError: there is no such file, or a Git LFS pointer in its place.
    """
    path = Path(model)
    if path.is_dir():
        folder, path = path, path / "model.keras"
        if (folder / "history.csv").is_file() and not path.exists():
            raise lost(folder, path.name)
    if not path.is_file():
        raise InputError(
            f"there is no model at {path}: give a .keras file or the folder of a finished run."
        )
    check_no_pointer(path)
    return path


def is_frozen_only(run_dir: str | Path) -> bool:
    """Return whether the recipe of a run has no unfrozen phase; False where there is no recipe."""
    return _recipe(run_dir).get("unfrozen_epochs") == 0


def is_for_fields(model: str | Path) -> bool:
    """Return whether a model was trained to predict whole fields, by the recipe beside it.

    Args:
        model: a `.keras` file or the folder of a run.

    Raises:
        InputError: there is no such file, or the recipe is damaged.
    """
    return _recipe(model_file(model).parent).get("mosaic", 1) > 1


def _recipe(run_dir):
    recipe = Path(run_dir) / "recipe.json"
    if not recipe.is_file():
        return {}
    try:
        return dict(json.loads(recipe.read_text(encoding="utf-8")).get("recipe", {}))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{recipe} is not a recipe ({first_line(error)}).") from error


def lost(folder: Path, name: str) -> InputError:
    """Return the error for a run whose model `name` was written and is no longer there."""
    return InputError(
        f"the run in {folder} has lost its {name}: restore that file, or delete the folder and "
        "train anew."
    )


def digest(model: str | Path) -> str:
    """Return the SHA-256 of a model's file, which tells it from any other.

    Args:
        model: a `.keras` file or the folder of a run.

    Raises:
        InputError: there is no such file.
    """
    with model_file(model).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def task_of(model: str | Path) -> task.Task:
    """Return the task of a `.keras` file; PatchCamelyon's where the file holds none.

    Args:
        model: a `.keras` file or the folder of a run.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    path = model_file(model)
    try:
        with zipfile.ZipFile(path) as archive:
            if TASK_ENTRY not in archive.namelist():
                return task.PCAM
            return task.from_json(json.loads(archive.read(TASK_ENTRY)))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no .keras file that can be read: give another.") from error
