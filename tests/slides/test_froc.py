import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pcam_tf import figures
from pcam_tf.errors import InputError
from pcam_tf.figures import slide_plots
from pcam_tf.slides import annotations, froc
from pcam_tf.slides.grid import Grid

FOLDERS = (each / "shared/froc" for each in Path(__file__).parents)
EXPECTED = next((each for each in FOLDERS if each.is_dir()), None)
MPP = 0.25
SIDE = 8192


def box(x, y, width, height):
    return np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)], float)


def regions_of(*polygons, excluded=()):
    outlines = annotations.Outlines([list(each) for each in polygons], list(excluded))
    return froc.region_map(outlines, SIDE, SIDE, MPP)


@pytest.mark.parametrize(
    ("polygons", "kinds"),
    [
        ([[box(1000, 1000, 1600, 800)]], ["lesion"]),
        ([[box(1000, 1000, 200, 200)]], ["itc"]),
        # 50 µm apart: grown together. 110 µm apart: two.
        ([[box(1000, 1000, 1600, 800)], [box(2800, 1000, 1600, 800)]], ["lesion"]),
        ([[box(1000, 1000, 1600, 800)], [box(3040, 1000, 1600, 800)]], ["lesion", "lesion"]),
        ([[box(0, 0, SIDE, SIDE)]], ["lesion"]),
        ([], []),
    ],
)
def test_regions(polygons, kinds):
    labels, regions = regions_of(*polygons)
    assert list(regions["kind"]) == kinds
    assert labels.max() == len(kinds)
    assert labels.shape == (SIDE // froc.PIXEL, SIDE // froc.PIXEL)


def test_the_length_of_a_region_is_that_of_its_grown_outline():
    _, regions = regions_of([box(1000, 1000, 2000, 400)])
    side_um = 2000 * MPP + 2 * froc.GROWTH_UM
    # 4 standard deviations of an even distribution; the corners are rounded.
    assert regions["major_axis_um"].iloc[0] == pytest.approx(4 * side_um / np.sqrt(12), rel=0.03)
    assert regions[["x", "y"]].iloc[0].to_list() == pytest.approx([2000, 1200], abs=froc.PIXEL)


@pytest.mark.parametrize(
    ("polygons", "excluded", "inside", "outside"),
    [
        ([[box(0, 0, 640, 640)]], [], (10, 10), (25, 10)),
        ([[box(0, 0, 640, 640)[::-1]]], [], (10, 10), (25, 10)),  # either way round
        ([[box(0, 0, 640, 640), box(160, 160, 320, 320)]], [], (2, 2), (10, 10)),
        ([[box(0, 0, 640, 640)]], [box(160, 160, 320, 320)], (2, 2), (10, 10)),
        ([[box(-500, -500, 900, 900)]], [], (0, 0), (20, 20)),  # beyond the slide's border
        # A ring that is drawn twice over itself is filled where it overlaps.
        ([[np.concatenate([box(0, 0, 640, 640)] * 2)]], [], (10, 10), (25, 10)),
    ],
)
def test_masks_of_outlines(polygons, excluded, inside, outside):
    outlines = annotations.Outlines(polygons, excluded)
    mask = annotations.tumour_mask(outlines, (30, 30), 32)
    assert mask[inside]
    assert not mask[outside]


def test_a_mask_pixel_is_tumour_where_its_centre_is():
    outlines = annotations.Outlines([[box(17, 15, 32, 34)]], [])
    mask = annotations.tumour_mask(outlines, (4, 4), 32)
    assert np.argwhere(mask).tolist() == [[0, 1], [1, 1]]


def test_cells_that_an_outline_touches():
    outlines = annotations.Outlines([[box(100, 100, 90, 150)]], [])
    touched = annotations.touched_cells(outlines, Grid(3, 4, 32.0, 0.32))  # cells of 100 px
    assert np.argwhere(touched).tolist() == [[1, 1], [2, 1]]


def test_verdicts():
    labels, regions = regions_of([box(1000, 1000, 1600, 800)], [box(6000, 6000, 200, 200)])
    points = [
        (0.5, 1500, 1500),
        (0.9, 2000, 1200),
        (0.8, 6100, 6100),
        (0.7, 4000, 4000),
        (0, 1500, 1500),
    ]
    detections = pd.DataFrame(points, columns=["confidence", "x", "y"])
    result = froc.judge("a", detections, labels, regions)
    verdicts = ["hit", "hit", "ignored_itc", "false_positive", "hit"]
    assert list(result.detections["verdict"]) == verdicts
    assert result.lesions.tolist() == [0.9]
    assert (result.itc, result.false_positives.tolist()) == (1, [0.7])


@pytest.mark.parametrize(
    ("lesions", "itc", "false_positives", "expected"),
    [
        ([[0.875, 0.5, 0], []], [0, 0], [[], []], [2 / 3] * 6),  # no false positive
        ([[0, 0], []], [0, 0], [[], []], [0] * 6),  # no detection
        ([[], []], [0, 0], [[0.5], [0.25]], [np.nan] * 6),  # no lesion
        # Half of the lesions at 1 false positive a slide; straight lines between the points.
        ([[0.9, 0.3]], [1], [[0.5, 0.4]], [0.5, 0.5, 0.5, 1, 1, 1]),
        # The lowest confidence of all is no threshold: the lesion found by it does not count.
        ([[0.9, 0.1]], [0], [[0.5]], [0.5] * 6),
        ([[0.75, 0.5, 0], [], [0.25]], [1, 0, 0], [[0.75, 0.5, 0.5], [0.5, 0.25], [0.125]],
         [0.1875, 7 / 24, 5 / 12, 0.75, 0.75, 0.75]),
    ],
)  # fmt: skip
def test_curves(lesions, itc, false_positives, expected):
    lesions, false_positives = (
        [np.array(each, float) for each in values] for values in (lesions, false_positives)
    )
    found = froc.sensitivities(froc.curve(lesions, itc, false_positives))
    np.testing.assert_allclose(found, expected)


def test_a_summary_is_the_same_each_time_and_its_intervals_hold_it():
    labels, regions = regions_of([box(1000, 1000, 1600, 800)])
    detections = pd.DataFrame([(0.5, 1500, 1500), (0.6, 10, 10)], columns=["confidence", "x", "y"])
    results = [froc.judge(name, detections, labels, regions) for name in "ab"]
    results.append(froc.judge("c", detections[:0], labels, regions))
    summary = froc.summary(results, resamples=50)
    assert summary == froc.summary(results, resamples=50)
    assert (summary["lesions"], summary["lesions_found"], summary["false_positives"]) == (3, 2, 2)
    bounds = summary["intervals"]["mean"]
    assert bounds["low"] <= summary["mean"] <= bounds["high"]
    json.dumps(summary, allow_nan=False)
    one = froc.summary(results[:1])
    assert one["intervals"]["mean"] == {"low": None, "high": None}
    assert slide_plots.froc(one) is not None


def test_a_summary_without_lesions_is_undefined_and_can_be_drawn(tmp_path):
    labels, regions = regions_of()
    detections = pd.DataFrame([(0.6, 10, 10)], columns=["confidence", "x", "y"])
    summary = froc.summary([froc.judge(name, detections, labels, regions) for name in "ab"])
    assert summary["mean"] is None
    assert set(summary["sensitivities"].values()) == {None}
    json.dumps(summary, allow_nan=False)
    figures.save(slide_plots.froc(summary), tmp_path / "froc.png")


@pytest.mark.skipif(EXPECTED is None, reason="needs the result of the challenge's script")
@pytest.mark.parametrize("kind", ["asap", "qupath"])
def test_equal_to_the_script_of_the_challenge(kind):
    expected = json.loads((EXPECTED / "expected.json").read_text())
    slides = froc.read_slides(EXPECTED / "slides.csv")
    results, _ = froc.judge_folders(
        EXPECTED / "detections", EXPECTED / f"annotations_{kind}", slides
    )
    summary = froc.summary(results, resamples=2)
    for here, there in (("lesions", "lesions"), ("itc", "itc_regions"),
                        ("false_positives", "false_positives")):  # fmt: skip
        assert summary[here] == expected[there]
    assert summary["mean"] == pytest.approx(expected["average"], abs=1e-6)
    assert summary["sensitivities"] == pytest.approx(expected["sensitivity"], abs=1e-6)
    verdicts = pd.read_csv(EXPECTED / "expected_detections.csv")["verdict"]
    assert np.concatenate([each.detections["verdict"] for each in results]).tolist() == list(
        verdicts
    )
    for result, slide in zip(results, expected["per_slide"], strict=True):
        assert len(result.regions) == len(slide["regions"])
        for region in slide["regions"]:
            far = (result.regions[["x", "y"]] - region["centroid_px"]).abs().max(axis=1)
            nearest = result.regions.loc[far.idxmin()]
            assert (far.min() < 100) and (nearest["kind"] == region["kind"])
            assert nearest["major_axis_um"] == pytest.approx(region["major_axis_um"], abs=12)


@pytest.mark.skipif(EXPECTED is None, reason="needs the result of the challenge's script")
def test_equal_to_the_curves_of_the_script():
    for case in json.loads((EXPECTED / "curve_cases.json").read_text())["cases"]:
        slides = case["slides"]
        points = froc.curve(
            [np.array(each["lesion_best"], float) for each in slides],
            [each["itc_regions"] for each in slides],
            [np.array(each["false_positives"], float) for each in slides],
        )
        wanted = np.array(list(case["expected"]["sensitivity"].values()), float)
        np.testing.assert_allclose(froc.sensitivities(points), wanted, err_msg=case["name"])


ASAP = (
    '<ASAP_Annotations><Annotations><Annotation Type="Polygon" PartOfGroup="{}"><Coordinates>'
    '<Coordinate Order="1" X="9" Y="0"/><Coordinate Order="0" X="0" Y="0"/>'
    '<Coordinate Order="2" X="9" Y="9"/></Coordinates></Annotation></Annotations>'
    "</ASAP_Annotations>"
)


@pytest.mark.parametrize(
    ("group", "polygons", "excluded"), [("Tumor", 1, 0), ("_1", 1, 0), ("_2", 0, 1), ("None", 0, 0)]
)
def test_groups_of_asap(group, polygons, excluded, tmp_path):
    (tmp_path / "a.xml").write_text(ASAP.format(group))
    outlines = annotations.read_outlines(tmp_path / "a.xml")
    assert (len(outlines.polygons), len(outlines.excluded)) == (polygons, excluded)
    for ring in [*(each[0] for each in outlines.polygons), *outlines.excluded]:
        assert ring.tolist() == [[0, 0], [9, 0], [9, 9]]


@pytest.mark.parametrize(
    "content", ["", "<a/>", "[1]", '{"type": "x"}', ASAP.format("_0").replace('"9"', '"east"')]
)
@pytest.mark.parametrize("name", ["a.xml", "a.geojson"])
def test_files_without_outlines_are_refused(content, name, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match="holds no outlines"):
        annotations.read_outlines(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.5,10", "line 1: give three numbers"),
        ("0.5,10,10\nx,1,2", "line 2: give three numbers"),
        ("nan,10,10", "confidence has to be"),
        ("-1,10,10", "confidence has to be"),
        ("0.5,100,10", "outside the slide"),
        ("0.5,-1,10", "outside the slide"),
    ],
)
def test_bad_detections_are_refused(text, message, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        froc.read_detections(tmp_path / "a.csv", 100, 100)


def test_a_header_and_empty_files_of_detections_are_read(tmp_path):
    (tmp_path / "a.csv").write_text("confidence,x,y\n0.5,10,10\n")
    (tmp_path / "b.csv").write_text("")
    assert len(froc.read_detections(tmp_path / "a.csv", 100, 100)) == 1
    assert len(froc.read_detections(tmp_path / "b.csv", 100, 100)) == 0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("slide,width,height\na,1,1\n", "no column mpp"),
        ("slide,width,height,mpp\na,1,1,0\n", "mpp is not a number above 0"),
        ("slide,width,height,mpp\na,1,1,1\na,1,1,1\n", "twice"),
    ],
)
def test_bad_tables_of_slides_are_refused(table, message, tmp_path):
    (tmp_path / "slides.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        froc.read_slides(tmp_path / "slides.csv")
