"""Where models lie and what a patch measures: what is known of a classifier without Keras."""

import hashlib
from pathlib import Path

from pcam_tf.errors import InputError

PATCH_PX = 96
SHIPPED_MODEL = Path(__file__).parent.parent / "shipped" / "model.keras"
# The shipped model has learnt from these two, by the presets of their names; better together.
TEACHERS = {
    name: SHIPPED_MODEL.parent / "teachers" / name / "model.keras" for name in ("cpu", "cpu-144")
}


def model_file(model: str | Path) -> Path:
    """Return the `.keras` file that is meant.

    Args:
        model: a `.keras` file or the folder of a run.

    Raises:
        InputError: there is no such file.
    """
    path = Path(model)
    if path.is_dir():
        path = path / "model.keras"
    if not path.is_file():
        raise InputError(
            f"there is no model at {path}: give a .keras file or the folder of a finished run."
        )
    return path


def digest(model: str | Path) -> str:
    """Return the SHA-256 of a model's file, which tells it from any other.

    Args:
        model: a `.keras` file or the folder of a run.

    Raises:
        InputError: there is no such file.
    """
    with model_file(model).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
