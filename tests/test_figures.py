import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from test_evaluation import drawn

from pcam_tf import evaluation, figures

GENERATOR = np.random.default_rng(0)
PATCHES = GENERATOR.integers(0, 256, (10, 96, 96, 3), dtype="uint8")
VIEWS = PATCHES[:8].reshape(2, 4, 96, 96, 3)
LABELS = np.array([0, 1] * 5)
HISTORY = pd.DataFrame(
    {
        "phase": ["frozen"] * 3 + ["unfrozen"] * 2,
        "epoch": [1, 2, 3, 1, 2],
        "loss": [0.6, 0.5, 0.4, 0.35, 0.3],
        "validation_loss": [0.6, 0.55, 0.5, 0.45, 0.5],
        "validation_auc": [0.7, 0.75, 0.8, 0.9, 0.85],
    }
)
COUNTS = pd.DataFrame({"normal": [30, 5], "tumour": [20, 6]}, index=["train", "test"])
ERRORS = evaluation.confident_errors(drawn(200), 10)


def drawings() -> dict[str, Figure]:
    """Return one figure of each kind."""
    table = drawn(200)
    return {
        "patch_grid": figures.patch_grid(PATCHES, LABELS, title="patches"),
        "error_gallery": figures.error_gallery(PATCHES, ERRORS),
        "no_errors": figures.error_gallery(PATCHES[:0], ERRORS.iloc[:0]),
        "augmentation_sheet": figures.augmentation_sheet(PATCHES[:2], VIEWS),
        "class_balance": figures.class_balance(COUNTS),
        "channel_histograms": figures.channel_histograms({"train": np.ones((3, 256))}),
        "learning_curves": figures.learning_curves(HISTORY),
        "roc": figures.roc_and_precision_recall({"one": evaluation.curves(table, resamples=5)}),
        "reliability": figures.reliability({"one": evaluation.calibration_bins(table)}),
        "confusion": figures.confusion_matrices(np.array([[90, 10], [1, 4]]), title="confusion"),
        "probabilities": figures.probability_histogram(table, 0.4),
        "model": figures.model_diagram(crop_px=64, backbone="Tiny", features=16, dropout=0.2),
    }  # fmt: skip


@pytest.fixture(scope="module")
def drawn_figures():
    return drawings()


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_every_figure_is_returned_and_saved_the_same_each_time(drawn_figures, tmp_path):
    again = drawings()
    for name, figure in drawn_figures.items():
        assert isinstance(figure, Figure)
        for version, each in (("one", figure), ("other", again[name])):
            figures.save(each, tmp_path / f"{version}.png")
        first = (tmp_path / "one.png").read_bytes()
        assert first[:4] == b"\x89PNG"
        assert (tmp_path / "other.png").read_bytes() == first, name
    assert plt.get_fignums() == []


def test_the_callers_style_is_left_alone():
    before = dict(plt.rcParams)
    figures.class_balance(COUNTS)
    assert dict(plt.rcParams) == before


def test_the_confusion_matrix_shows_counts_and_shares_of_each_row(drawn_figures):
    counts, shares = drawn_figures["confusion"].axes
    assert texts(counts) == ["90", "10", "1", "4"]
    assert texts(shares) == ["0.900", "0.100", "0.200", "0.800"]
    assert counts.get_ylabel() == "truth"
    assert counts.get_xlabel() == "predicted"


def test_an_empty_row_of_the_confusion_matrix_is_no_division_by_zero():
    figure = figures.confusion_matrices(np.array([[0, 0], [1, 3]]), title="no normal patch")
    assert texts(figure.axes[1]) == ["0.000", "0.000", "0.250", "0.750"]


def test_the_centre_square_is_the_labelled_one(drawn_figures):
    axes = drawn_figures["patch_grid"].axes[0]
    for square in axes.patches:
        np.testing.assert_allclose(square.get_bbox().extents, (31.5, 31.5, 63.5, 63.5))
    assert len(axes.patches) == 2
    assert [each.get_title() for each in drawn_figures["patch_grid"].axes[:2]] == [
        "normal",
        "tumour",
    ]


def test_bars_are_as_high_as_the_counts(drawn_figures):
    axes = drawn_figures["class_balance"].axes[0]
    assert [bar.get_height() for bar in axes.patches] == [30, 5, 20, 6]
    assert texts(axes) == ["30", "5", "20", "6"]


def test_learning_curves_mark_the_phases_and_the_kept_epoch(drawn_figures):
    loss, auc = drawn_figures["learning_curves"].axes
    assert texts(loss) == ["frozen phase", "unfrozen phase"]
    np.testing.assert_allclose(loss.lines[0].get_ydata(), HISTORY.loss)
    kept = auc.lines[1]
    assert (kept.get_xdata()[0], kept.get_ydata()[0]) == (4, 0.9)


def test_histograms_are_shares_of_pixels_per_grey_level(drawn_figures):
    for axes in drawn_figures["channel_histograms"].axes:
        np.testing.assert_allclose(axes.lines[0].get_ydata(), 1 / 256)


def test_the_error_gallery_says_truth_and_probability(drawn_figures):
    title = drawn_figures["error_gallery"].axes[0].get_title()
    first = ERRORS.iloc[0]
    assert title == f"{first['error']}\np(tumour) {first['probability']:.2f}"


def test_an_augmentation_sheet_has_a_row_a_patch_and_a_column_a_view(drawn_figures):
    assert len(drawn_figures["augmentation_sheet"].axes) == 2 * 5
