"""A place of a region or slide as a patch of its own, with the heat map's probability."""

import dataclasses

import numpy as np

from pcam_tf import slides
from pcam_tf.app import findings
from pcam_tf.app.findings import Reader
from pcam_tf.app.results import PatchResult, RegionResult
from pcam_tf.app.reviews import Origin
from pcam_tf.app.viewed import Viewed, patch_at
from pcam_tf.errors import InputError


def place_of_region(reader: Reader, region: RegionResult, row: int, column: int) -> PatchResult:
    """Return the patch around a cell of a region; its probability is the heat map's own.

    Raises:
        InputError: there is no such cell, or no tissue in it.
    """
    task, step = reader.task, region.stride_px
    patch = slides.patch_around(region.pixels(), row, column, step, task)
    x_um, y_um = ((each + 0.5) * step * task.mpp for each in (column, row))
    origin = Origin(
        region.name, region.sha256, x_um, y_um, x_um / region.mpp, y_um / region.mpp
    )  # fmt: skip
    found = _place(reader, patch, region.probabilities[row, column], (row, column), origin)
    return dataclasses.replace(found, notice="") if region.is_drawn else found


def place_of_slide(
    reader: Reader, viewed: Viewed, sha256: str, row: int, column: int
) -> PatchResult:
    """Return the patch around a cell of a slide's heat map, see `place_of_region`.

    Args:
        reader: the model.
        viewed: the slide.
        sha256: of its file.
        row, column: of the cell.
    """
    patch = patch_at(viewed, reader, row, column)
    um, px = viewed.grid.centres_um()[row, column], viewed.grid.centres_px()[row, column]
    origin = Origin(viewed.name, sha256, *map(float, (*um, *px)))
    return _place(reader, patch, viewed.probabilities[row, column], (row, column), origin)


def _place(reader, patch, probabilities, cell, origin):
    if np.isnan(probabilities).any():
        raise InputError("there is no tissue at this place.")
    notice = findings.novelty_notice(reader, patch[None])
    name = place_name(origin.file, origin.x_um, origin.y_um)
    probabilities = probabilities.astype("float64")
    return PatchResult(name, patch, probabilities, notice, cell=cell, origin=origin)


def place_name(name: str, x_um: float, y_um: float) -> str:
    """Return what a place of a region or slide is called: by its centre, from the top left."""
    return f"{name}, x {x_um:.0f} µm, y {y_um:.0f} µm"
