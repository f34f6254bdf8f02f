"""How well heat maps of synthetic slides agree with what was drawn.

    python -m benchmarks.synthetic_slides MODEL OUTPUT [--slides N] [--side PX] [--mpp MPP ...]

MODEL is a run's folder or a `.keras` file, of synthetic patches, since a model of real tissue does
not know drawn tissue. Slides, results and their annotations are kept in OUTPUT; called again, what
is there is not computed again. Every third slide holds no tumour.
"""

import argparse
import json
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
    plans, files = {}, []
    for number in range(arguments.slides):
        name = f"drawn_{number}"
        plans[name] = plan_of(number, arguments.side)
        mpp = arguments.mpp[number % len(arguments.mpp)]
        files.append(arguments.output / "slides" / f"{name}.tif")
        if not files[-1].is_file():
            slide_files.write_slide(plans[name], files[-1], mpp=mpp)
    results = arguments.output / "results"
    options = ["--model", arguments.model, "--output", str(results)]
    if status := command(["slide", *map(str, files), *options]):
        return status
    print(reports.markdown_table([row_of(name, plan, results) for name, plan in plans.items()]))
    summary = froc.summary(list(judged(plans, results)))
    print(
        json.dumps(
            {
                key: value
                for key, value in summary.items()
                if key
                in ("sensitivities", "mean", "lesions", "lesions_found", "itc", "false_positives")
            },
            indent=2,
        )
    )
    return 0


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


def row_of(name: str, plan: slide_plan.SlidePlan, results: Path) -> dict[str, str]:
    """Return how a heat map agrees with the plan: AUC of cells, tumour area, Dice."""
    heat = heat_maps.read(results / name)
    rings = [[ring] for ring in plan.tumour_outlines(heat.grid.level0_mpp)]
    touched = annotations.touched_cells(annotations.Outlines(rings, []), heat.grid)
    tissue = np.isfinite(heat.probabilities)
    found = json.loads((results / name / outputs.FINDINGS).read_text(encoding="utf-8"))
    called = heat.probabilities >= found["threshold"]
    labels, probabilities = touched[tissue].astype(int), heat.probabilities[tissue]
    auc = None
    if labels.any():
        auc = evaluation.auc_interval(labels, probabilities)[0]
    overlap = 2 * (called & touched).sum() / max(called.sum() + touched[tissue].sum(), 1)
    return {
        "slide": name,
        "stain": str(plan.strength),
        "cells": f"{tissue.sum():,}",
        "AUC of cells": "" if auc is None else f"{auc:.3f}",
        "Dice of cells": "" if auc is None else f"{overlap:.2f}",
        "tumour, mm²": f"{touched[tissue].sum() * heat.grid.step_um**2 / 1e6:.2f}",
        "called, mm²": f"{found['tumour_mm2']:.2f}",
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
