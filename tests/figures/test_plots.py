import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure

from pcam_tf import evaluation, figures
from pcam_tf.evaluation import calibration
from pcam_tf.figures import model_plots, pictures, style
from pcam_tf.task import Task

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
LABELLED = GENERATOR.integers(0, 2, 200)
PREDICTIONS = pd.DataFrame(
    {"label": LABELLED, "probability": np.clip(GENERATOR.normal(0.3 + 0.4 * LABELLED, 0.25), 0, 1)}
)
ERRORS = evaluation.confident_errors(PREDICTIONS, 10)
CURVES = evaluation.curves(PREDICTIONS, resamples=5)
BINS = calibration.bins(PREDICTIONS)


def drawings() -> dict[str, Figure]:
    """Return one figure of each kind."""
    return {
        "patch_grid": pictures.patch_grid(PATCHES, LABELS, title="patches"),
        "error_gallery": pictures.error_gallery(PATCHES, ERRORS),
        "no_errors": pictures.error_gallery(PATCHES[:0], ERRORS.iloc[:0]),
        "augmentation_sheet": pictures.augmentation_sheet(PATCHES[:2], VIEWS),
        "class_balance": figures.class_balance(COUNTS),
        "channel_histograms": figures.channel_histograms({"train": np.ones((3, 256))}),
        "learning_curves": figures.learning_curves(HISTORY),
        "roc": figures.roc_and_precision_recall({"one": CURVES}),
        "reliability": figures.reliability({"one": BINS}),
        "confusion": figures.confusion_matrices(np.array([[90, 10], [1, 4]]), title="confusion"),
        "probabilities": figures.probability_histogram(PREDICTIONS, 0.4),
        "model": model_plots.model_diagram(crop_px=64, backbone="Tiny", features=16, dropout=0.2),
    }  # fmt: skip


@pytest.fixture(scope="module")
def drawn_figures():
    return drawings()


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("figure.png", b"\x89PNG"),
        ("figure.pdf", b"%PDF"),
        ("figure.svg", b"<?xml"),
        ("figure.PNG", b"\x89PNG"),
        ("figure.csv", b"\x89PNG"),
        ("figure", b"\x89PNG"),
        ("v1.2", b"\x89PNG"),
    ],
)
def test_no_ending_of_a_name_loses_the_figure(tmp_path, name, start):
    figures.save(figures.class_balance(COUNTS), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


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


def test_the_callers_style_is_left_alone_and_changes_no_figure(tmp_path):
    figures.save(figures.class_balance(COUNTS), tmp_path / "one.png")
    with plt.style.context(["dark_background", {"xtick.labelsize": 20, "savefig.bbox": "tight"}]):
        before = dict(mpl.rcParams)
        figures.save(figures.class_balance(COUNTS), tmp_path / "other.png")
        assert dict(mpl.rcParams) == before
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def test_a_notebook_shows_a_returned_figure_as_one_picture(drawn_figures):
    # As in a fresh kernel: nothing has been drawn by pyplot, so nothing is known of Figures.
    formatter = DisplayFormatter()
    for name, figure in drawn_figures.items():
        shown, _ = formatter.format(figure)
        assert set(shown) == {"text/plain", "image/png"}, name


def test_tables_without_rows_are_drawn_empty(tmp_path):
    for figure in (
        pictures.patch_grid(PATCHES[:0], LABELS[:0], title="none"),
        pictures.error_gallery(PATCHES[:0], ERRORS.iloc[:0]),
        pictures.augmentation_sheet(PATCHES[:0], VIEWS[:0]),
        figures.class_balance(COUNTS.iloc[:0]),
        figures.channel_histograms({}),
        figures.channel_histograms({"train": np.zeros((3, 256))}),
        figures.learning_curves(HISTORY.iloc[:0]),
        figures.roc_and_precision_recall({}),
        figures.reliability({"one": BINS.iloc[:0]}),
        figures.probability_histogram(PREDICTIONS.iloc[:0], 0.4),
    ):
        figures.save(figure, tmp_path / "empty.png")


def test_the_confusion_matrix_shows_counts_and_shares_of_each_row(drawn_figures):
    counts, shares = drawn_figures["confusion"].axes
    assert texts(counts) == ["90", "10", "1", "4"]
    assert texts(shares) == ["0.900", "0.100", "0.200", "0.800"]
    assert counts.get_ylabel() == "truth"
    assert counts.get_xlabel() == "predicted"


def test_an_empty_row_of_the_confusion_matrix_is_no_division_by_zero():
    figure = figures.confusion_matrices(np.array([[0, 0], [1, 3]]), title="no normal patch")
    assert texts(figure.axes[1]) == ["0.000", "0.000", "0.250", "0.750"]


def test_a_confusion_matrix_of_many_classes_has_long_names_at_an_angle():
    names = [f"a class with a long name {number}" for number in range(8)]
    figure = figures.confusion_matrices(np.arange(64).reshape(8, 8), title="8", classes=names)
    counts, shares = figure.axes
    assert [label.get_text() for label in counts.get_xticklabels()] == names
    assert {label.get_rotation() for label in counts.get_xticklabels()} == {40}
    assert texts(counts)[-1] == "63" and len(texts(shares)) == 64
    figure.canvas.draw()
    # No number is wider than its cell.
    cell = counts.get_window_extent().width / 8
    assert max(text.get_window_extent().width for text in counts.texts) < cell


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


def test_a_bar_for_each_of_many_classes():
    counts = pd.DataFrame({name: [3, 2] for name in "abcdefgh"}, index=["train", "test"])
    figure = figures.class_balance(counts)
    assert len({bar.get_facecolor() for bar in figure.axes[0].patches}) == 8


def test_patches_of_another_task_have_its_classes_and_no_square():
    task = Task("shapes", ("discs", "stripes", "squares"), side_px=96, mpp=1.0)
    figure = pictures.patch_grid(PATCHES[:3], [2, 1, 0], title="shapes", task=task)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["squares", "stripes", "discs"]
    assert not figure.axes[0].patches
    diagram = model_plots.model_diagram(
        crop_px=96, backbone="Tiny", features=16, dropout=0.2, task=task
    )
    said = texts(diagram.axes[0])
    assert "dropout 0.2\n3 units, softmax" in said and "p: probability of each class" in said


def test_learning_curves_mark_the_phases_and_the_kept_epoch(drawn_figures):
    loss, auc = drawn_figures["learning_curves"].axes
    assert texts(loss) == ["frozen phase (grey)", "unfrozen phase"]
    band = loss.patches[0].get_bbox()
    assert (band.x0, band.x1) == (0.5, 3.5)
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


def test_augmented_views_of_another_size_have_no_centre_square():
    views = VIEWS[:, :, 16:80, 16:80].astype("float32") - 0.4
    axes = pictures.augmentation_sheet(PATCHES[:2], views).axes
    np.testing.assert_array_equal(axes[0].images[0].get_array(), PATCHES[0])
    np.testing.assert_array_equal(axes[7].images[0].get_array(), VIEWS[1, 1, 16:80, 16:80])
    assert [len(each.patches) for each in axes[:2]] == [2, 0]


@pytest.mark.parametrize(
    ("phase", "says"), [("frozen", "frozen phase (grey)"), ("unfrozen", "unfrozen phase")]
)
def test_a_run_of_one_phase_names_only_that(phase, says):
    for axes in figures.learning_curves(HISTORY[HISTORY.phase == phase]).axes:
        assert texts(axes) == [says]


def test_an_auc_that_is_not_a_number_is_not_the_kept_one():
    auc = figures.learning_curves(HISTORY.assign(validation_auc=[np.nan, 0.7, 0.9, 0.9, 0.8])).axes[
        1
    ]
    assert (auc.lines[1].get_xdata()[0], auc.lines[1].get_ydata()[0]) == (3, 0.9)


def test_curves_and_bands_are_those_of_the_tables(drawn_figures):
    for axes, table in zip(drawn_figures["roc"].axes, CURVES.values(), strict=True):
        np.testing.assert_array_equal(axes.lines[0].get_xydata(), table.iloc[:, :2])
        band = axes.collections[0].get_paths()[0].vertices
        at_half = band[np.isclose(band[:, 0], 0.5), 1]
        half = table[np.isclose(table.iloc[:, 0], 0.5)].iloc[0]
        np.testing.assert_allclose(sorted(at_half), [half["low"], half["high"]])


def test_no_model_is_left_out_however_many_there_are():
    names = list("abcdef")
    roc = figures.roc_and_precision_recall(dict.fromkeys(names, CURVES)).axes[0]
    reliability = figures.reliability(dict.fromkeys(names, BINS)).axes[0]
    assert roc.get_legend_handles_labels()[1] == [*names, "guessing"]
    assert sorted(reliability.get_legend_handles_labels()[1]) == sorted([*names, "calibrated"])


def test_reliability_shows_fractions_intervals_and_counts(drawn_figures):
    above, below = drawn_figures["reliability"].axes
    bars = np.array([each[:, 1] for each in above.containers[0].lines[2][0].get_segments()], float)
    fractions = above.containers[0].lines[0].get_ydata().astype(float)
    np.testing.assert_allclose(fractions, BINS["fraction"])
    np.testing.assert_allclose(bars, BINS[["low", "high"]], atol=1e-9)
    np.testing.assert_array_equal(below.lines[0].get_ydata(), BINS["count"])


def test_the_probability_histogram_counts_each_class_and_marks_the_threshold(drawn_figures):
    axes = drawn_figures["probabilities"].axes[0]
    for label, bars in enumerate(axes.containers):
        assert sum(bar.get_height() for bar in bars) == (label == LABELLED).sum()
    assert list(axes.lines[0].get_xdata()) == [0.4, 0.4]


def test_the_diagram_says_what_is_frozen_and_what_is_trained(drawn_figures):
    said = texts(drawn_figures["model"].axes[0])
    assert (said.count("frozen"), said.count("trained"), said.count("Tiny")) == (1, 3, 2)
    assert said.count("centre 64×64\nscaling") == 2
    whole = model_plots.model_diagram(crop_px=96, backbone="Tiny", features=16, dropout=0.2)
    assert "whole patch\nscaling" in texts(whole.axes[0])


def test_eight_series_have_styles_of_their_own():
    assert len({colour for colour, _ in style.SERIES}) == len(style.SERIES) == 8
    assert len({dashes for _, dashes in style.SERIES}) == 8
