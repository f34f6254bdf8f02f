"""Square millimetres of tissue a second: `slide`, a loop that a user would write, the bare engine.

The loop reads each cell's patch by OpenSlide, rescales it, and predicts batches of 32 by Keras. The
bare engine predicts patches that are in memory. The slide is drawn at half the task's microns per
pixel, as a scanner's 20×, with levels.
"""

import functools
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from benchmarks.rows import interleaved, row
from pcam_tf.models import classifier, engines, model_files
from pcam_tf.slides import heat_maps
from pcam_tf.slides.heat_maps import HeatMap
from pcam_tf.synthetic import slide_files, slide_plan
from pcam_tf.task import PCAM

SIDES_PX = {"smoke": 320, "full": 2048}
_BATCH = 32
_LARGEST_MEAN_DIFFERENCE = 0.1  # of probabilities: the two rescale with different filters


def rows(size: str, model: str | Path | None = None) -> list[dict]:
    """Return rows of the benchmarks' table, see `benchmarks.rows.row`.

    Args:
        size: "smoke" or "full".
        model: a `.keras` file or the folder of a run; None: the shipped one. If it was trained to
            predict whole fields, one pass is also compared with patch by patch.

    Raises:
        RuntimeError: the command, patch by patch, and the loop do not agree.
    """
    path = model_files.model_file(model or model_files.SHIPPED_MODEL)
    keras_model, engine = classifier.load(path), engines.load(path)
    patches = np.random.default_rng(0).integers(0, 256, (512, *PCAM.shape), dtype="uint8")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "drawn.tif"
        plan = slide_plan.plan_slide(SIDES_PX[size], radii_px=(180, 60), seed=1)
        slide_files.write_slide(plan, file, mpp=PCAM.mpp / 2)
        names = (Path(folder) / f"output-{number}" for number in itertools.count())
        exact = functools.partial(run_command, file, path, names, "--exact")
        heat = exact()
        is_tissue, cell_mm2 = np.isfinite(heat.probabilities), (heat.grid.step_um / 1000) ** 2
        centres, found = heat.grid.centres_px()[is_tissue], []

        def rate(cells, task):
            started = time.perf_counter()
            task()
            return cells * cell_mm2 / (time.perf_counter() - started)

        def loop():
            found.append(patch_by_patch(file, centres, keras_model))

        def bare():
            for first in range(0, len(patches), _BATCH):
                engines.probabilities(engine, patches[first : first + _BATCH])

        tasks = {
            "exact": lambda: rate(len(centres), exact),
            "loop": lambda: rate(len(centres), loop),
            "engine": lambda: rate(len(patches), bare),
        }
        if model_files.is_for_fields(path):
            one_pass = functools.partial(run_command, file, path, names)
            tasks["one pass"] = lambda: rate(len(centres), one_pass)
        rates = interleaved(tasks, 1 if size == "smoke" else 3)
    away = float(np.abs(found[-1] - heat.probabilities[is_tissue]).mean())
    if away > _LARGEST_MEAN_DIFFERENCE:
        raise RuntimeError(f"`slide` strays by {away:.3f} on average from the loop")
    return list(_rows_of(rates, away, f"{len(centres) * cell_mm2:.2f} mm² of tissue"))


def _rows_of(rates, away, note):
    what = "heat map of a slide, command to report"
    unit = "mm²/s"
    yield row(
        f"{what}, patch by patch; baseline: OpenSlide and `model.predict`", unit,
        rates["exact"], rates["loop"], limit=rates["engine"], note=note,
    )  # fmt: skip
    if "one pass" in rates:
        yield row(
            f"{what}, in one pass; baseline: patch by patch", unit,
            rates["one pass"], rates["exact"], note=note,
        )  # fmt: skip
    yield row("mean difference of a cell's probability from that loop", "", [away])


def run_command(file: Path, model: Path, names: Iterator[Path], *options: str) -> HeatMap:
    """Run `slide` in a process of its own, and return the heat map."""
    output = next(names)
    words = ["slide", str(file), "--model", str(model), "--output", str(output), *options]
    subprocess.run([sys.executable, "-m", "pcam_tf", *words], check=True, capture_output=True)
    return heat_maps.read(output / file.stem)


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
