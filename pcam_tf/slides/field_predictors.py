"""What predicts the cells of a field: a square of cells with the margin that a model looks at."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pcam_tf.errors import InputError
from pcam_tf.models import engines, field_engines, model_files, outputs
from pcam_tf.models.engines import Engine
from pcam_tf.task import Task

# A side of a field's core, 0.5 mm for PCam. More need more memory and are hardly faster.
_CELLS = 16
_PATCHES_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class FieldPredictor:
    """Predicts fields, which are windows of a slide at the task's scale.

    Attributes:
        name: of the method.
        task: that the probabilities are of.
        step_px: side of a cell in pixels at the task's scale.
        cells: cells along a side of a field's core.
        field_px: side of a field: its core with as much margin on all sides.
        predict: from fields, uint8 (n, field_px, field_px, 3), and which cells are wanted, bool (n,
            cells, cells), to probabilities of the second class, float32 (n, cells, cells). Cells
            that are not wanted may be anything.
        engine: name of what predicts, see `engines.ENGINES`.
    """

    name: str
    task: Task
    step_px: float
    cells: int
    field_px: int
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray]
    engine: str

    @property
    def step_um(self) -> float:
        """Side of a cell in microns."""
        return self.step_px * self.task.mpp


def default_step_px(task: Task) -> int:
    """Return the side of a cell for a task: its labelled centre, or half a patch without one."""
    return task.centre_px or task.side_px // 2


def load(
    model: str | Path, *, engine: str | None = None, step_px: int | None = None, exact: bool = False
) -> tuple[FieldPredictor, str]:
    """Return what predicts fields, and the name of its engine, see `engines.ENGINES`.

    A model that was trained to predict whole fields does so in one pass, unless the step is that of
    patches side by side, which share nothing.

    Args:
        model: a `.keras` file or the folder of a run.
        engine: a name of `engines.ENGINES`; None for the fastest.
        step_px: as in `patch_by_patch`.
        exact: patch by patch in any case.

    Raises:
        InputError: as `engines.load` and `patch_by_patch` do.
    """
    if (
        exact
        or not is_in_one_pass(model, engine)
        or step_px == model_files.task_of(model).side_px  # side by side
    ):
        predictor = patch_by_patch(engines.load(model, engine), step_px)
    else:
        predictor = one_pass(model, step_px)
    return predictor, predictor.engine


def export(model: str | Path, *, small: bool = False) -> list[Path]:
    """Write the exports of a model beside it: for patches and, where it is made for it, for fields.

    Args:
        model: a `.keras` file or the folder of a run.
        small: see `engines.export`.

    Returns:
        The files.

    Raises:
        InputError: as `engines.export` does.
    """
    written = [engines.export(model, small=small)]
    if model_files.is_for_fields(model):
        step_px = default_step_px(model_files.task_of(model))
        written.append(field_engines.export(model, _CELLS, step_px, small=small))
    return written


def is_in_one_pass(model: str | Path, engine: str | None = None) -> bool:
    """Return whether fields are predicted in one pass: by models trained for it, in LiteRT.

    Args:
        model: a `.keras` file or the folder of a run.
        engine: as in `load`.
    """
    return engine != "tensorflow" and model_files.is_for_fields(model)


def patch_by_patch(engine: Engine, step_px: int | None = None) -> FieldPredictor:
    """Return what predicts each cell from the patch around it, exactly as `predict` does.

    Neighbours overlap and share the pixels of the field, so that these are read once.

    Args:
        engine: a classifier of two classes.
        step_px: side of a cell in pixels at the task's scale; None: see `default_step_px`.

    Raises:
        InputError: a task of more classes or without a scale, or a step that is larger than a
            patch or below an eighth of it.
    """
    task = engines.task_of(engine)
    _refuse_task(task)
    step_px = _checked_step(task, step_px)
    side_px = task.side_px

    def predict(fields, wanted):
        windows = np.lib.stride_tricks.sliding_window_view(fields, (side_px, side_px), (1, 2))
        patches = np.moveaxis(windows[:, ::step_px, ::step_px], 3, -1)
        found = np.full(wanted.shape, np.nan, "float32")
        places = np.nonzero(wanted)
        for first in range(0, len(places[0]), _PATCHES_AT_ONCE):
            part = tuple(each[first : first + _PATCHES_AT_ONCE] for each in places)
            found[part] = engines.probabilities(engine, patches[part])[:, 0]
        return found

    field_px = (_CELLS - 1) * step_px + side_px
    name = engines.name_of(engine)
    return FieldPredictor("patch by patch", task, step_px, _CELLS, field_px, predict, name)


def one_pass(model: str | Path, step_px: int | None = None) -> FieldPredictor:
    """Return what predicts all cells of a field from one pass of the backbone over it.

    It costs about a ninth of `patch_by_patch`. The model has to be trained for it, see
    `models.dense`.

    Args:
        model: a `.keras` file or the folder of a run, of two classes.
        step_px: as in `patch_by_patch`.

    Raises:
        InputError: as `patch_by_patch` does, or the network cannot predict fields.
    """
    task = model_files.task_of(model)
    _refuse_task(task)
    step_px = _checked_step(task, step_px)
    engine, field_px = field_engines.load(model, _CELLS, step_px)

    def predict(fields, _):
        # Two at a time, one a core: more need more memory and are no faster.
        parts = [fields[first : first + 2] for first in range(0, len(fields), 2)]
        found = [engine.predict_on_batch(part.astype("float32")) for part in parts]
        values = np.concatenate(found).reshape(-1, 1)
        values = outputs.checked(values, len(values), task, engines.described(engine))
        return values.reshape(-1, _CELLS, _CELLS)

    name = engines.name_of(engine)
    return FieldPredictor("one pass", task, step_px, _CELLS, field_px, predict, name)


def _checked_step(task, step_px):
    step_px = default_step_px(task) if step_px is None else step_px
    if not task.side_px / 8 <= step_px <= task.side_px:
        raise InputError(
            f"a step of {step_px} px: give {-(-task.side_px // 8)} to {task.side_px} px, pixels "
            f"of {task.mpp} microns."
        )
    return step_px


def _refuse_task(task):
    """Refuse tasks whose answer is no heat map of one probability at a known scale."""
    if not task.is_binary:
        raise InputError(
            f"the model tells {len(task.classes)} classes ({', '.join(task.classes)}): heat maps "
            "of slides are for two."
        )
    if task.mpp is None:
        raise InputError(
            f"the model's task, {task.name}, states no microns per pixel: slides cannot be "
            "rescaled to it."
        )
