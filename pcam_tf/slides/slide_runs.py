"""The heat map of a slide in a folder of its own: it resumes, and says how it stands.

The folder holds `state.json` and, once finished, `cells.csv` and `run.json`. None of them holds a
time, so that the same slide by the same command gives the same bytes.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pcam_tf import files
from pcam_tf.errors import InputError
from pcam_tf.slides import fields, heat_maps, journal, reader, tissue
from pcam_tf.slides.field_predictors import FieldPredictor
from pcam_tf.slides.grid import grid_over
from pcam_tf.slides.heat_maps import HeatMap
from pcam_tf.slides.reader import Slide

STATE, UNFINISHED, LOCK = "state.json", "cells.unfinished", ".lock"
RUNNING, FINISHED, FAILED = "running", "finished", "failed"
_LIBRARIES = (
    "pcam_tf", "numpy", "pillow", "scipy", "scikit-image", "openslide-python", "openslide-bin",
    "tifffile", "imagecodecs", "ai-edge-litert", "tensorflow", "keras",
)  # fmt: skip
_END_BYTES = 1_000_000
log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # cells done, and all


def run(
    path: str | Path,
    folder: str | Path,
    predictor: FieldPredictor,
    model: dict,
    *,
    mpp: float | None = None,
    mask: str | Path | None = None,
    progress: Progress | None = None,
) -> HeatMap:
    """Return the heat map of a slide as the folder holds it, predicted if it is not there yet.

    Args:
        path: of the slide.
        folder: for the results, which is made; a heat map of other settings in it is replaced.
        predictor: what predicts the cells.
        model: what `run.json` says of the model, its digest at least.
        mpp: microns per pixel of level 0; None: as the file states.
        mask: GeoJSON whose polygons are the tissue; None: it is found.
        progress: called with the cells done and their total, also before the first.

    Raises:
        InputError: the slide cannot be read or holds no tissue, the folder cannot be written or is
            in use by another process. What was found is kept, and the same call goes on there.
    """
    path, folder = Path(path), Path(folder)
    files.check_outputs([folder / heat_maps.CELLS], [path, *([mask] if mask else [])])
    with files.locked(folder / LOCK, f"{folder} is in use by another process."):
        try:
            with reader.opened(path, mpp) as slide:
                about = described(slide, predictor, model, mask)
                if is_finished(folder, about):
                    finished = _read_finished(folder, progress)
                    _write_state(folder, FINISHED)  # after a call that failed, or a kill
                    return finished
                _write_state(folder, RUNNING)
                _find(slide, folder, predictor, about, mask, progress)
            _write_state(folder, FINISHED)
            (folder / UNFINISHED).unlink(missing_ok=True)
        except InputError as error:
            with contextlib.suppress(InputError):  # a full disk, say
                _write_state(folder, FAILED, error=str(error))
            raise
    return heat_maps.read(folder)


def _read_finished(folder, progress):
    (folder / UNFINISHED).unlink(missing_ok=True)  # left by a kill just before
    heat_map = heat_maps.read(folder)
    cells = int(np.isfinite(heat_map.probabilities).sum())
    if progress:
        progress(cells, cells)
    return heat_map


def _find(slide, folder, predictor, about, mask, progress):
    """Predict what is missing of a heat map, and write it."""
    grid = grid_over(slide.size, slide.mpp, predictor.step_um)
    found = tissue.of_outlines(mask, slide) if mask else tissue.find(slide)
    wanted = found.cells(grid)
    if not wanted.any():
        raise InputError(
            f"no tissue was found on {files.printable(slide.path)}: if there is some, give its "
            "outlines by --mask."
        )
    probabilities = np.full(wanted.shape, np.nan, "float32")
    about_cells = about | {"cells": hashlib.sha256(np.packbits(wanted)).hexdigest()}
    units, place = fields.units_of(slide, wanted, predictor), folder / UNFINISHED
    before = journal.read(place, about_cells, [unit.count for unit in units])
    for number, values in before.items():
        fields.put(probabilities, units[number], values)
    done, total = sum(map(len, before.values())), int(wanted.sum())
    if done:
        log.info("%s: %s of %s cells are there already.", slide.name, f"{done:,}", f"{total:,}")
    if progress:
        progress(done, total)
    numbers = [number for number in range(len(units)) if number not in before]
    with journal.appended(place, about_cells, anew=not before) as record:
        missing = [units[number] for number in numbers]
        with contextlib.closing(fields.predicted(slide, missing, predictor)) as results:
            for number, (unit, values) in zip(numbers, results, strict=True):
                record(number, values)
                fields.put(probabilities, unit, values)
                done += unit.count
                if progress:
                    progress(done, total)
    area_mm2 = total * (predictor.step_um / 1000) ** 2
    settings = about | {"tissue": {"cells": total, "area_mm2": round(area_mm2, 4)}}
    (folder / heat_maps.RUN).unlink(missing_ok=True)  # it is of another table
    heat_maps.write(folder, HeatMap(slide.name, grid, probabilities, settings))


def described(
    slide: Slide, predictor: FieldPredictor, model: dict, mask: str | Path | None = None
) -> dict:
    """Return what `run.json` says of a heat map that does not depend on what is found.

    Raises:
        InputError: a file cannot be read.
    """
    task, backend = predictor.task, slide.backend
    installed = {dist: _version(dist) for dist in _LIBRARIES}
    return {
        "slide": {
            "file": files.printable(slide.path.name),
            "bytes": slide.path.stat().st_size,
            "sha256_of_ends": _digest(slide.path),
            "format": backend.format,
            "size_px": list(slide.size),
            "level_widths_px": [width for width, _ in backend.sizes],
            "mpp": slide.mpp,
            "origin_px": list(backend.origin),
            "notes": list(slide.notes),
        },
        "task": task.to_json(),
        "model": model,
        "method": {"name": predictor.name, "step_px": predictor.step_px},
        "mask": {"file": files.printable(Path(mask).name), "sha256": _digest(mask)}
        if mask else None,
        "versions": {dist: version for dist, version in installed.items() if version},
    }  # fmt: skip


def _digest(path):
    """Return the SHA-256 of a file's size and of its first and last megabyte."""
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.sha256(b"%d " % size + file.read(_END_BYTES))
            file.seek(max(size - _END_BYTES, 0))
            digest.update(file.read())
    except OSError as error:
        raise InputError(f"cannot read {files.printable(path)}: {error.strerror}.") from error
    return digest.hexdigest()


def _version(distribution):
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def is_finished(folder: Path, about: dict) -> bool:
    """Return whether a folder holds the finished heat map that a description is of.

    `run.json` is written last, so what it is of is whole, whatever happened to later calls.
    """
    try:
        settings = heat_maps.read(folder).settings
    except InputError:
        return False
    return {name: settings.get(name) for name in about} == about


def read_state(folder: str | Path) -> dict:
    """Return what `state.json` says: `state`, and `error` where it failed; {} if there is none."""
    try:
        content = json.loads((Path(folder) / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_state(folder, state, **more):
    files.write_json(folder / STATE, {"state": state} | more)
