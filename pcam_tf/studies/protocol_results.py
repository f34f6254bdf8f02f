"""What a study of protocols has found: accuracies by protocol, learning curves, tables of both."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.optimize
import sklearn.metrics

from pcam_tf import evaluation
from pcam_tf.errors import InputError
from pcam_tf.studies.protocols import HELD_OUT, PHASES, finished
from pcam_tf.user_tables import read_csv_as_text

STORED_RESULTS = Path(__file__).parent / "protocols.csv"
APART = "held out, no overlap"
PROTOCOLS = (HELD_OUT, APART, "validation", "test")
# Accuracies at the threshold 0.5 and AUCs of one classifier of frozen features, trained on the
# official training split but for a random tenth of its patches. The numbers were handed to this
# project without their source.
REPORTED = {HELD_OUT: 0.978, "validation": 0.886, "test": 0.869}
# Column of `results` -> what it is called in a table.
MEASURES = {
    "auc": "AUC",
    "accuracy": "accuracy at 0.5",
    "accuracy_validation": "threshold of validation",
    "accuracy_own": "threshold of its own",
    "accuracy_epoch": "epoch of its own",
    "accuracy_not_blank": "at 0.5 without blanks",
}


def results(run_dir: str | Path) -> pd.DataFrame:
    """Judge every finished condition of a study by every protocol.

    Returns:
        A row for each `phase`, `seed`, `size` and `protocol` (one of `PROTOCOLS`): `patches`,
        `auc`, `low`, `high` (DeLong), `accuracy` (at 0.5), `accuracy_validation` (at the threshold
        with the largest sensitivity + specificity on validation), `accuracy_not_blank` (at 0.5,
        blank patches left out), and two that no honest protocol knows: `accuracy_own` (at the
        threshold that is best on the evaluated patches themselves) and, for the unfrozen phase on
        test, `accuracy_epoch` (at 0.5, of the epoch that is best on test; NaN elsewhere).

    Raises:
        InputError: the folder holds no finished condition.
    """
    run_dir = Path(run_dir)
    folders = finished(run_dir)
    if not folders:
        raise InputError(f"{run_dir} holds no finished study: run it first.")
    blank = set(read_csv_as_text(run_dir / "blank.csv")["id"])
    pairs = read_csv_as_text(run_dir / "overlaps.csv")
    rows = [row for folder in folders for row in _rows_of(folder, blank, pairs)]
    return pd.DataFrame(rows).sort_values(["phase", "size", "seed"], ignore_index=True)


def stored_results() -> pd.DataFrame:
    """Return `results` of the study at "cpu" on real patches, as stored with the package.

    Raises:
        InputError: none are stored.
    """
    if not STORED_RESULTS.is_file():
        raise InputError(
            f"there is no {STORED_RESULTS}: run `python -m pcam_tf protocols --preset cpu` and "
            "copy the results.csv of its folder there."
        )
    return pd.read_csv(STORED_RESULTS)


def _rows_of(folder, blank, pairs):
    """Return the rows of one condition."""
    seed, size = (int(part) for part in folder.name.removeprefix("seed").split("-"))
    trained_on = set(read_csv_as_text(folder / "training.csv")["id"])
    leaked = set(pairs["first"][pairs["second"].isin(trained_on)])
    leaked |= set(pairs["second"][pairs["first"].isin(trained_on)])
    rows = []
    for phase in PHASES:
        if not (folder / f"{phase}-test.csv").is_file():
            continue
        tables = {
            name: evaluation.read_predictions(folder / f"{phase}-{name}.csv")
            for name in (HELD_OUT, "validation", "test")
        }
        held_out = tables[HELD_OUT]
        tables[APART] = held_out[~held_out["id"].isin(leaked)]
        threshold = evaluation.operating_points(tables["validation"])["youden"]
        for protocol in PROTOCOLS:
            row = {"phase": phase, "seed": seed, "size": size, "protocol": protocol}
            row |= _judged(tables[protocol], threshold, blank)
            if (phase, protocol) == ("unfrozen", "test"):
                row["accuracy_epoch"] = max(map(_accuracy, folder.glob("epoch*-test.csv")))
            rows.append(row)
    return rows


def _accuracy(path):
    table = evaluation.read_predictions(path)
    return np.mean((table["probability"] >= 0.5) == table["label"])


def _judged(table, threshold, blank):
    labels, scores = table["label"].to_numpy(), table["probability"].to_numpy()
    auc, low, high = evaluation.auc_interval(labels, scores)
    rates, sensitivities, _ = sklearn.metrics.roc_curve(labels, scores)
    share = labels.mean()
    shown = ~table["id"].isin(blank).to_numpy()
    return {
        "patches": len(table),
        "auc": auc,
        "low": low,
        "high": high,
        "accuracy": np.mean((scores >= 0.5) == labels),
        "accuracy_validation": np.mean((scores >= threshold) == labels),
        "accuracy_own": np.max(sensitivities * share + (1 - rates) * (1 - share)),
        "accuracy_epoch": np.nan,
        "accuracy_not_blank": np.mean((scores >= 0.5) == labels, where=shown),
    }


class Law(NamedTuple):
    """A learning curve: the error is `floor` + `level` · size^-`power`."""

    floor: float
    level: float
    power: float

    def errors(self, sizes: np.ndarray) -> np.ndarray:
        """Return the errors at numbers of training patches, which may be infinite."""
        return self.floor + self.level * np.asarray(sizes, float) ** -self.power


def fitted_law(sizes: np.ndarray, errors: np.ndarray) -> Law:
    """Fit a power law with a floor to errors (n,) at numbers of training patches (n,).

    Two sizes cannot tell a floor from the rest; it is then 0.

    Raises:
        InputError: fewer than two sizes.
    """
    sizes, errors = np.asarray(sizes, float), np.clip(np.asarray(errors, float), 1e-6, 1.0)
    count = len(np.unique(sizes))
    if count < 2:
        raise InputError("a learning curve needs two sizes or more.")
    if count == 2:
        # In logarithms, the law without a floor is a straight line.
        slope, level = np.polyfit(np.log(sizes), np.log(errors), 1)
        return Law(0.0, float(np.exp(level)), float(-slope))
    unit, first = sizes.min(), errors[sizes == sizes.min()].mean()

    def residuals(law):
        floor, level, power = law
        return np.log(floor + level * (sizes / unit) ** -power) - np.log(errors)

    # A floor is below the smallest error; a power above 2 is a step.
    start = (errors.min() / 2, max(first - errors.min() / 2, 1e-6), 0.5)
    bounds = ([0, 1e-9, 0.01], [errors.min(), 1, 2])
    floor, level, power = scipy.optimize.least_squares(residuals, start, bounds=bounds).x
    return Law(floor, level * unit**power, power)


def learning_curve(
    found: pd.DataFrame, column: str, sizes: np.ndarray, resamples: int = 200
) -> pd.DataFrame:
    """Fit a learning curve and read it at `sizes`, also beyond those that were measured.

    The interval is from refitting values drawn anew, on the scale of the fit: logarithms of 1 - the
    value. On validation and test all models are judged on the same patches, so that the error from
    these patches is shared: one draw moves all values together, each by its standard error (patches
    taken as independent). Of held-out patches each seed has others, and the shared draw makes the
    interval too wide. The error of each training is drawn independently, with the standard
    deviation of the residuals of the fit. Far beyond the measured sizes the interval is too narrow.
    It says how well the curve is known if it is a power law with a floor; of other laws it says
    nothing.

    Args:
        found: rows of `results` of one phase and one protocol, of two sizes or more.
        column: "auc" or "accuracy".
        sizes: numbers of training patches; infinity for what the floor allows.
        resamples: how many curves to refit.

    Returns:
        A row for each of `sizes`: `size`, `value`, and its 95 % `low` and `high`.

    Raises:
        InputError: fewer than two sizes were measured.
    """
    names = ["size", column, "patches", "low", "high"]
    measured, values, patches, low, high = found[names].to_numpy(float).T
    errors = np.maximum(1 - values, 0.5 / patches)  # of none that is wrong, half a patch
    if column == "auc":
        # DeLong's interval is symmetric in logits, which are nearly logarithms of small errors.
        spread = np.log((1 - low) / np.maximum(1 - high, 1e-6)) / (2 * 1.96)
    else:
        spread = np.sqrt((1 - errors) / (errors * patches))
    law = fitted_law(measured, errors)
    residuals = np.log(errors) - np.log(law.errors(measured))
    # The fitted numbers take up a part of the scatter.
    free = len(errors) - min(len(np.unique(measured)), 3)
    deviation = np.sqrt((residuals**2).sum() / free) if free else 0.0
    generator = np.random.default_rng(0)
    read = []
    for _ in range(resamples):
        moved = generator.normal() * spread + generator.normal(0, deviation, len(errors))
        read.append(1 - fitted_law(measured, errors * np.exp(moved)).errors(sizes))
    low, high = np.percentile(read, evaluation.PERCENTILES, axis=0)
    value = 1 - law.errors(sizes)
    return pd.DataFrame({"size": sizes, "value": value, "low": low, "high": high})


def main_size(found: pd.DataFrame) -> int:
    """Return the largest number of training patches with two seeds or more, else the largest."""
    seeds = found.groupby("size")["seed"].nunique()
    repeated = seeds.index[seeds >= 2]
    return int((repeated if len(repeated) else seeds.index).max())


def summary_rows(found: pd.DataFrame) -> list[dict[str, str]]:
    """Return a row for each phase and protocol at `main_size`: means over seeds, and their range.

    The network that is fine-tuned comes first. For `reports.markdown_table`.
    """
    found = found[found["size"] == main_size(found)]
    rows = []
    for phase in sorted(found["phase"].unique(), reverse=True):
        for protocol in PROTOCOLS:
            of = found[(found["phase"] == phase) & (found["protocol"] == protocol)]
            row = {"model": phase, "judged on": protocol, "patches": f"{of['patches'].mean():,.0f}"}
            rows.append(row | {name: _range(of[column]) for column, name in MEASURES.items()})
    return rows


def _range(values):
    if values.isna().all():
        return "–"
    if len(values) == 1:
        return f"{values.iloc[0]:.3f}"
    return f"{values.mean():.3f} ({values.min():.3f}–{values.max():.3f})"


def size_rows(found: pd.DataFrame, phase: str = "unfrozen") -> list[dict[str, str]]:
    """Return a row for each number of training patches: AUC / accuracy at 0.5, means over seeds."""
    of_phase = found[found["phase"] == phase]
    rows = []
    for size, of in of_phase.groupby("size"):
        row = {"training patches": f"{size:,}", "seeds": str(of["seed"].nunique())}
        for protocol in PROTOCOLS:
            mean = of[of["protocol"] == protocol][["auc", "accuracy"]].mean()
            row[protocol] = f"{mean['auc']:.3f} / {mean['accuracy']:.3f}"
        rows.append(row)
    return rows


def gap_rows(found: pd.DataFrame, phase: str = "unfrozen") -> list[dict[str, str]]:
    """Return what each leak adds at `main_size`: means over seeds of paired differences, and range.

    In AUC, and in accuracy at 0.5 unless it is the threshold that leaks.
    """
    of_phase = found[(found["phase"] == phase) & (found["size"] == main_size(found))]
    by_seed = of_phase.pivot(index="seed", columns="protocol")

    def difference(column, protocol, other, less="test"):
        return _range(by_seed[column, protocol] - by_seed[other, less])

    def of_protocols(protocol, less):
        return {
            "AUC": difference("auc", protocol, "auc", less),
            "accuracy": difference("accuracy", protocol, "accuracy", less),
        }

    def of_choices(column, other):
        return {"AUC": "–", "accuracy": difference(column, "test", other)}

    return [
        {"leak": "same tissue"} | of_protocols(HELD_OUT, APART),
        {"leak": "same slides, against validation slides"} | of_protocols(APART, "validation"),
        {"leak": "same slides, against test slides"} | of_protocols(APART, "test"),
        {"leak": "epoch chosen on test"} | of_choices("accuracy_epoch", "accuracy"),
        {"leak": "threshold chosen on test, against validation's"}
        | of_choices("accuracy_own", "accuracy_validation"),
        {"leak": "blank patches counted"} | of_choices("accuracy", "accuracy_not_blank"),
    ]


def curve_rows(found: pd.DataFrame, size: int, phase: str = "unfrozen") -> list[dict[str, str]]:
    """Return what the fitted curves say of `size` training patches and of any number of them."""
    rows = []
    for protocol in PROTOCOLS:
        of = found[(found["phase"] == phase) & (found["protocol"] == protocol)]
        row = {"judged on": protocol}
        for column in ("accuracy", "auc"):
            curve = learning_curve(of, column, np.array([size, np.inf]))
            for name, read in zip((f"at {size:,}", "limit"), curve.itertuples(), strict=True):
                row[f"{MEASURES[column]}, {name}"] = (
                    f"{read.value:.3f} ({read.low:.3f}–{read.high:.3f})"
                )
        rows.append(
            row | {"reported": f"{REPORTED[protocol]:.3f}" if protocol in REPORTED else "–"}
        )
    return rows
