"""Rows of the benchmarks' table: ours, the baseline, the upper limit, and the speed-up."""

from collections.abc import Callable, Mapping

import numpy as np
import tqdm


def interleaved(tasks: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run tasks in turn, `repeats` times, and return their figures.

    The tasks alternate, so that other load on the machine affects all of them.

    Args:
        tasks: name -> a function that returns a figure, such as patches per second.
        repeats: how often each is run.
    """
    found = {name: [] for name in tasks}
    for _ in tqdm.trange(repeats, desc=", ".join(tasks), unit="round"):
        for name, task in tasks.items():
            found[name].append(float(task()))
    return found


def row(
    what: str,
    unit: str,
    ours: list[float],
    plain: list[float] | None = None,
    *,
    limit: list[float] | None = None,
    lower_is_better: bool = False,
    note: str = "",
) -> dict:
    """Return a row of the table.

    Args:
        what: what was measured.
        unit: of `ours`, `plain` and `limit`.
        ours: one figure per repeat.
        plain: the baseline, repeats in the same order.
        limit: the upper limit.
        lower_is_better: for seconds and bytes; a ratio above 1 always means that ours is better.
        note: for the reader.

    Returns:
        `what`, `unit`, medians `ours`, `plain`, `limit`, and `ratio` with `ratio_low` and
        `ratio_high`, the median, least and largest of the repeats' ratios; None where not measured.
    """
    ratios = None
    if plain is not None:
        pairs = zip(ours, plain, strict=True)
        ratios = [b / a if lower_is_better else a / b for a, b in pairs]
    return {
        "what": what,
        "unit": unit,
        "ours": float(np.median(ours)),
        "plain": None if plain is None else float(np.median(plain)),
        "limit": None if limit is None else float(np.median(limit)),
        "ratio": None if ratios is None else float(np.median(ratios)),
        "ratio_low": None if ratios is None else float(min(ratios)),
        "ratio_high": None if ratios is None else float(max(ratios)),
        "repeats": len(ours),
        "note": note,
    }
