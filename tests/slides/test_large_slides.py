"""Memory and speed of whole commands on slides as large as scanners make them."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

SIDE_PX, MPP, TILE_PX, STRIP_ROWS = 40_000, 0.25, 256, 16
TISSUE_PX = (4096, 9216)  # from and to, in both directions
MOST_BYTES = 1.5 * 2**30


def write_tiles(path, block):
    """Write a slide whose tissue is one tile again and again, JPEG, one level."""
    import imagecodecs
    import tifffile

    glass, tissue = (
        imagecodecs.jpeg8_encode(tile, level=85)
        for tile in (np.full((TILE_PX, TILE_PX, 3), 240, "uint8"), block)
    )
    first, last = (edge // TILE_PX for edge in TISSUE_PX)
    count = -(-SIDE_PX // TILE_PX)
    tiles = (
        tissue if first <= row < last and first <= column < last else glass
        for row in range(count) for column in range(count)
    )  # fmt: skip
    tifffile.imwrite(
        path, tiles, shape=(SIDE_PX, SIDE_PX, 3), dtype="uint8", photometric="rgb",
        compression="jpeg", tile=(TILE_PX, TILE_PX), metadata=None, software=False,
        resolution=(10_000 / MPP,) * 2, resolutionunit="CENTIMETER", bigtiff=True,
    )  # fmt: skip


def write_strips(path, block):
    """Write the same slide in strips of whole rows."""
    import tifffile

    rows = np.full((TILE_PX, SIDE_PX, 3), 240, "uint8")
    glass = zlib.compress(rows[:STRIP_ROWS].tobytes(), 1)
    first, last = TISSUE_PX
    rows[:, first:last] = np.tile(block, (1, (last - first) // TILE_PX, 1))
    parts = rows.reshape(-1, STRIP_ROWS, SIDE_PX, 3)
    tissue = [zlib.compress(part.tobytes(), 1) for part in parts]
    strips = (
        tissue[number % len(tissue)] if first <= number * STRIP_ROWS < last else glass
        for number in range(SIDE_PX // STRIP_ROWS)
    )
    tifffile.imwrite(
        path, strips, shape=(SIDE_PX, SIDE_PX, 3), dtype="uint8", photometric="rgb",
        compression="deflate", rowsperstrip=STRIP_ROWS, metadata=None, software=False,
        resolution=(25_400 / MPP,) * 2, resolutionunit="INCH", bigtiff=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="memory of a child is not told here")
@pytest.mark.parametrize("write", [write_tiles, write_strips])
def test_memory_is_bounded_on_a_slide_of_40_000_px_of_one_level(tmp_path, drawing, write):
    block = np.asarray(Image.fromarray(drawing[280:344, 280:344]).resize((TILE_PX, TILE_PX)))
    write(tmp_path / "large.tif", block)
    command = [sys.executable, "-m", "pcam_tf", "slide", "large.tif", "--output", "out"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    print(f"{usage.ru_maxrss / 2**20:.2f} GiB")
    assert usage.ru_maxrss * 1024 < MOST_BYTES
    cells = pd.read_csv(tmp_path / "out/large/cells.csv")
    # The square of tissue, give or take a cell.
    assert cells["x_px"].min() == pytest.approx(TISSUE_PX[0], abs=130)
    assert cells["x_px"].max() == pytest.approx(TISSUE_PX[1], abs=130)
    assert cells["y_px"].min() == pytest.approx(TISSUE_PX[0], abs=130)
    assert cells["y_px"].max() == pytest.approx(TISSUE_PX[1], abs=130)
