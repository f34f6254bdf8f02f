"""How well heat maps of synthetic slides agree with what was drawn.

    python -m benchmarks.synthetic_slides MODEL OUTPUT [--slides N] [--side PX] [--mpp MPP ...]

MODEL is a run's folder or a `.keras` file, of synthetic patches, since a model of real tissue does
not know drawn tissue. Slides, results and their annotations are kept in OUTPUT; called again, what
is there is not computed again. Every third slide holds no tumour.
"""

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pcam_tf import evaluation
from pcam_tf.commands.command_line import main as command
from pcam_tf.evaluation import reports
from pcam_tf.slides import annotations, froc, heat_maps, outputs
from pcam_tf.synthetic import slide_files, slide_plan

STAINS = ("usual", "pale", "dark")


def main(words: list[str] | None = None) -> int:
    """Draw slides, predict them, and print a table of their agreement and their FROC."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("output", type=Path)
    parser.add_argument("--slides", type=int, default=6)
    parser.add_argument("--side", type=int, default=3072, help="pixels at the scale of the task")
    parser.add_argument("--mpp", type=float, nargs="+", default=[0.4961])
    arguments = parser.parse_args(words)
    found, summary = measure(
        arguments.model,
        arguments.output,
        slides=arguments.slides,
        side_px=arguments.side,
        mpps=arguments.mpp,
    )
    print(reports.markdown_table([as_text(row) for row in found]))
    shown = ("sensitivities", "mean", "lesions", "lesions_found", "itc", "false_positives")
    print(json.dumps({name: summary[name] for name in shown}, indent=2))
    return 0


def measure(
    model: str | Path, output: str | Path, *, slides: int, side_px: int, mpps: Sequence[float]
) -> tuple[list[dict], dict]:
    """Draw slides, predict them by the command, and compare with what was drawn.

    Args:
        model: of synthetic patches, a run's folder or a `.keras` file.
        output: the folder for slides and results.
        slides: how many.
        side_px: of a slide, at the scale of the task.
        mpps: microns per pixel of the slides, in turn.

    Returns:
        A row for each slide, see `row_of`, and their FROC, see `froc.summary`.

    Raises:
        RuntimeError: the command failed.
    """
    plans, files, results = {}, [], Path(output) / "results"
    for number in range(slides):
        # The whole plan is in the name: what is there already is of the same one.
        name = f"drawn_{number}_{side_px}px_{mpps[number % len(mpps)]:g}"
        plans[name] = plan_of(number, side_px)
        files.append(Path(output) / "slides" / f"{name}.tif")
        if not files[-1].is_file():
            slide_files.write_slide(
                plans[name],
                files[-1],
                mpp=mpps[number % len(mpps)],
                levels=1 if number % 2 else 3,
                unit="INCH" if number % 2 else "CENTIMETER",
            )
    words = ["slide", *map(str, files), "--model", str(model), "--output", str(results)]
    if command(words):
        raise RuntimeError("the command failed")
    return (
        [row_of(name, plan, results) for name, plan in plans.items()],
        froc.summary(list(judged(plans, results))),
    )


def plan_of(number: int, side_px: int) -> slide_plan.SlidePlan:
    """Return the plan of a slide: stains alternate, two of three hold tumour, some pen or folds."""
    radii = () if number % 3 == 2 else slide_plan.RADII_PX
    return slide_plan.plan_slide(
        side_px,
        radii_px=radii,
        stain=STAINS[number // 3 % len(STAINS)],
        pen=number % 2 == 1,
        fold=number % 4 == 3,
        seed=100 + number,
    )


def row_of(name: str, plan: slide_plan.SlidePlan, results: Path) -> dict:
    """Return how a heat map agrees with what was drawn.

    Returns:
        `slide`, `mpp`, `stain`, `cells` with tissue, `auc` of them and `dice` of the called ones
        (None without tumour), `offset`: rows and columns by which the map would have to move to
        agree best (None likewise), `tumour_mm2`, `called_mm2`.
    """
    heat = heat_maps.read(results / name)
    rings = [[ring] for ring in plan.tumour_outlines(heat.grid.level0_mpp)]
    touched = annotations.touched_cells(annotations.Outlines(rings, []), heat.grid)
    tissue = np.isfinite(heat.probabilities)
    found = json.loads((results / name / outputs.FINDINGS).read_text(encoding="utf-8"))
    called = heat.probabilities >= found["threshold"]
    auc = dice = offset = None
    if plan.islands:
        labels, probabilities = touched[tissue].astype(int), heat.probabilities[tissue]
        auc = evaluation.auc_interval(labels, probabilities)[0]
        dice = 2 * (called & touched).sum() / (called.sum() + touched[tissue].sum())
        offset = best_offset(np.nan_to_num(heat.probabilities), touched)
    cell_mm2 = heat.grid.step_um**2 / 1e6
    return {
        "slide": name, "mpp": heat.grid.level0_mpp, "stain": plan.strength, "cells": tissue.sum(),
        "auc": auc, "dice": dice, "offset": offset,
        "tumour_mm2": touched[tissue].sum() * cell_mm2, "called_mm2": found["tumour_mm2"],
    }  # fmt: skip


def best_offset(heat: np.ndarray, truth: np.ndarray, most: int = 3) -> tuple[int, int]:
    """Return the rows and columns by which a map is moved to correlate best with the truth."""
    moves = itertools.product(range(-most, most + 1), repeat=2)
    centred = truth - truth.mean()
    return max(moves, key=lambda move: float((np.roll(heat, move, axis=(0, 1)) * centred).sum()))


def as_text(row: dict) -> dict[str, str]:
    """Return a row for `reports.markdown_table`."""
    has_tumour = row["auc"] is not None
    return {
        "slide": row["slide"],
        "µm per px": f"{row['mpp']:.4g}",
        "stain": f"{row['stain']:g}",
        "cells": f"{row['cells']:,}",
        "AUC of cells": f"{row['auc']:.3f}" if has_tumour else "",
        "Dice of called cells": f"{row['dice']:.2f}" if has_tumour else "",
        "offset, cells": "{}, {}".format(*row["offset"]) if has_tumour else "",
        "tumour, mm²": f"{row['tumour_mm2']:.2f}",
        "called, mm²": f"{row['called_mm2']:.2f}",
    }


def judged(plans: dict[str, slide_plan.SlidePlan], results: Path):
    """Yield the verdicts on the lesion candidates of each slide."""
    table = froc.read_slides(results / outputs.SLIDES).set_index("slide")
    for name, plan in plans.items():
        width, height, mpp = table.loc[name]
        rings = [[ring] for ring in plan.tumour_outlines(mpp)]
        regions = froc.region_map(annotations.Outlines(rings, []), width, height, mpp)
        points = froc.read_detections(results / name / "lesions.csv", width, height)
        yield froc.judge(name, points, *regions)


if __name__ == "__main__":
    raise SystemExit(main())
