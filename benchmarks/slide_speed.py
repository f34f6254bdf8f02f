"""Square millimetres of tissue a second: `slide`, a loop that a user would write, the bare engine.

The loop reads each cell's patch by OpenSlide, rescales it, and predicts batches of 32 by Keras. The
bare engine predicts patches that are in memory. The slide is drawn at half the task's microns per
pixel, as a scanner's 20×, with levels.
"""

import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from benchmarks.rows import interleaved, row
from pcam_tf.models import classifier, engines
from pcam_tf.slides import heat_maps
from pcam_tf.synthetic import slide_files, slide_plan
from pcam_tf.task import PCAM

SIDES_PX = {"smoke": 320, "full": 3072}
_BATCH = 32
_LARGEST_MEAN_DIFFERENCE = 0.1  # of probabilities: the two rescale with different filters


def rows(size: str) -> list[dict]:
    """Return rows of the benchmarks' table, see `benchmarks.rows.row`.

    Raises:
        RuntimeError: the command and the loop do not agree.
    """
    model, engine = classifier.load(), engines.load()
    patches = np.random.default_rng(0).integers(0, 256, (512, *PCAM.shape), dtype="uint8")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "drawn.tif"
        plan = slide_plan.plan_slide(SIDES_PX[size], radii_px=(180, 60), seed=1)
        slide_files.write_slide(plan, file, mpp=PCAM.mpp / 2)
        run_command(file, Path(folder) / "first")
        heat = heat_maps.read(Path(folder) / "first" / "drawn")
        is_tissue, cell_mm2 = np.isfinite(heat.probabilities), (heat.grid.step_um / 1000) ** 2
        centres, numbers, found = heat.grid.centres_px()[is_tissue], itertools.count(), []

        def timed(cells, task):
            started = time.perf_counter()
            task()
            return cells * cell_mm2 / (time.perf_counter() - started)

        def command():
            run_command(file, Path(folder) / f"output-{next(numbers)}")

        def loop():
            found.append(patch_by_patch(file, centres, model))

        def bare():
            for first in range(0, len(patches), _BATCH):
                engines.probabilities(engine, patches[first : first + _BATCH])

        tasks = {
            "slide": lambda: timed(len(centres), command),
            "loop": lambda: timed(len(centres), loop),
            "engine": lambda: timed(len(patches), bare),
        }
        rates = interleaved(tasks, 1 if size == "smoke" else 3)
    away = float(np.abs(found[-1] - heat.probabilities[is_tissue]).mean())
    if away > _LARGEST_MEAN_DIFFERENCE:
        raise RuntimeError(f"`slide` strays by {away:.3f} on average from the loop")
    what = "heat map of a slide, command to report; baseline: OpenSlide and `model.predict`"
    note = f"{len(centres) * cell_mm2:.2f} mm² of tissue; upper limit: the engine alone"
    return [
        row(what, "mm²/s", rates["slide"], rates["loop"], limit=rates["engine"], note=note),
        row("mean difference of a cell's probability from that baseline", "", [away]),
    ]


def run_command(file: Path, output: Path) -> None:
    """Run `slide` in a process of its own."""
    words = ["slide", str(file), "--output", str(output)]
    subprocess.run([sys.executable, "-m", "pcam_tf", *words], check=True, capture_output=True)


def patch_by_patch(file: Path, centres_px: np.ndarray, model) -> np.ndarray:
    """Return the probability of each cell as a loop over patches finds it, float32 (n,).

    Args:
        file: of the slide.
        centres_px: (n, 2), x and y of the cells in level-0 pixels.
        model: a Keras classifier.
    """
    found = []
    with openslide.OpenSlide(file) as slide:
        mpp = float(slide.properties["openslide.mpp-x"])
        side = round(PCAM.side_px * PCAM.mpp / mpp)
        for first in range(0, len(centres_px), _BATCH):
            batch = []
            for x, y in centres_px[first : first + _BATCH]:
                corner = round(x - side / 2), round(y - side / 2)
                patch = slide.read_region(corner, 0, (side, side)).convert("RGB")
                size = (PCAM.side_px, PCAM.side_px)
                batch.append(np.asarray(patch.resize(size, Image.Resampling.BILINEAR)))
            found.append(model.predict(np.stack(batch).astype("float32"), verbose=0)[:, 0])
    return np.concatenate(found)
