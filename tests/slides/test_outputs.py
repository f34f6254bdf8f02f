import json
import shutil
import uuid
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from pcam_tf.errors import InputError
from pcam_tf.figures import slide_pictures
from pcam_tf.slides import (
    annotations,
    froc,
    heat_map_files,
    heat_maps,
    lesions,
    outputs,
    reader,
    tissue,
)
from pcam_tf.slides.grid import Grid, grid_over
from pcam_tf.slides.heat_maps import HeatMap
from pcam_tf.synthetic import slide_plan
from pcam_tf.task import PCAM

STEP_UM = PCAM.centre_px * PCAM.mpp
THRESHOLD = 0.5


def heat_map(probabilities, mpp=0.25, step_um=32.0):
    probabilities = np.asarray(probabilities, "float32")
    return HeatMap("drawn", Grid(*probabilities.shape, step_um, mpp), probabilities)


@pytest.fixture(scope="module")
def results(slide_file, plan, tmp_path_factory):
    """Return the slide's file, the heat map of its truth, and the folder of what was written."""
    folder = tmp_path_factory.mktemp("results") / "drawn"
    file = slide_file(mpp=0.4961)
    with reader.opened(file) as slide:
        heat = truth_of(plan, grid_over(slide.size, slide.mpp, STEP_UM))
        heat_maps.write(folder, heat)
        found = outputs.write_all(folder, slide, heat, tissue.find(slide), THRESHOLD, asap=True)
    return file, heat, folder, found


def truth_of(plan, grid):
    """Return the heat map of a model that knows the truth, but is not sure near a border."""
    x, y = np.moveaxis(grid.centres_um() / PCAM.mpp, -1, 0)
    depth = np.max([blob.depth(y, x) for blob in plan.islands], axis=0)
    is_tissue = np.max([blob.depth(y, x) for blob in plan.tissue], axis=0) > 0
    heat = np.where(is_tissue, (1 + np.tanh(depth / 20)) / 2, np.nan)
    size = [round(side * PCAM.mpp / grid.level0_mpp) for side in (plan.width, plan.height)]
    about = {"slide": {"size_px": size, "mpp": grid.level0_mpp}}
    return HeatMap("drawn", grid, heat.astype("float32"), about)


def test_geojson_is_as_qupath_expects(results):
    _, heat, folder, found = results
    content = json.loads((folder / "tumour.geojson").read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection"
    kinds = [each["properties"]["objectType"] for each in content["features"]]
    assert kinds.count("annotation") == len(found.areas) > 1
    assert kinds.count("tile") == np.isfinite(heat.probabilities).sum()
    for feature in content["features"]:
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] == "Polygon"
        for ring in feature["geometry"]["coordinates"]:
            assert ring[0] == ring[-1] and len(ring) >= 4
            assert len({tuple(point) for point in ring}) == len(ring) - 1
        measurements = feature["properties"]["measurements"]
        assert all(isinstance(each, int | float) for each in measurements.values())
    first = content["features"][0]
    assert str(uuid.UUID(first["id"])) == first["id"]
    assert first["properties"]["classification"]["name"] == "Tumor"
    assert all(0 <= each <= 255 for each in first["properties"]["classification"]["color"])
    assert first["properties"]["measurements"]["cells of the heat map"] == found.areas[0].cells


@pytest.mark.parametrize("name", ["tumour.geojson", "tumour.xml"])
def test_outlines_enclose_the_called_cells_and_can_be_read_again(results, name):
    _, heat, folder, _ = results
    outlines = annotations.read_outlines(folder / name)
    step_px = heat.grid.step_um / heat.grid.level0_mpp
    mask = annotations.tumour_mask(outlines, heat.probabilities.shape, step_px)
    np.testing.assert_array_equal(mask, heat.probabilities >= THRESHOLD)


def test_outlines_lie_on_the_islands_in_level_0_pixels(results, plan):
    file, _, folder, _ = results
    with reader.opened(file) as slide:
        shape, scale = slide.size[::-1], PCAM.mpp / slide.mpp
    pixel = 8
    shape = tuple(-(-side // pixel) for side in shape)
    found, truth = (
        annotations.tumour_mask(each, shape, pixel)
        for each in (
            annotations.read_outlines(folder / "tumour.geojson"),
            annotations.Outlines([[ring] for ring in plan.tumour_outlines(PCAM.mpp / scale)], []),
        )
    )
    assert (found & truth).sum() / (found | truth).sum() > 0.85


def test_froc_of_the_candidates_finds_every_lesion_and_no_more(tmp_path):
    plan = slide_plan.plan_slide(2048, radii_px=(300, 150, 12), seed=1)
    grid = grid_over((4096, 4096), PCAM.mpp / 2, STEP_UM)
    found = lesions.candidates(truth_of(plan, grid))
    lesions.write_candidates(tmp_path / "drawn.csv", found, (4096, 4096))
    detections = froc.read_detections(tmp_path / "drawn.csv", 4096, 4096)
    outlines = annotations.Outlines([[ring] for ring in plan.tumour_outlines(PCAM.mpp / 2)], [])
    regions = froc.region_map(outlines, 4096, 4096, PCAM.mpp / 2)
    result = froc.judge("drawn", detections, *regions)
    assert (len(result.lesions), result.itc) == (2, 1)
    assert (result.lesions > 0.5).all()
    assert detections["confidence"].is_monotonic_decreasing
    wrong = detections[result.detections["verdict"] == "false_positive"]
    assert (wrong["confidence"] < 0.5).all()


def test_candidates_are_peaks_that_lie_apart():
    heat = np.full((12, 12), np.nan)
    heat[2:10, 2:10] = 0.2
    heat[3, 3], heat[3, 6], heat[8, 8] = 0.9, 0.8, 0.7
    found = lesions.candidates(heat_map(heat), apart_um=4 * 32.0)
    assert found[["row", "column"]].to_numpy()[:2].tolist() == [[3, 3], [8, 8]]
    assert found.loc[0, ["x", "y"]].tolist() == [3.5 * 32 / 0.25] * 2
    places = found[["row", "column"]].to_numpy()
    distances = np.hypot(*(places[:, None] - places[None]).T)
    assert distances[~np.eye(len(places), dtype=bool)].min() >= 4
    # 0.8 is nearer than that to 0.9; each cell that is left is near to a candidate.
    assert 0.8 not in found["confidence"].round(3).to_list()
    assert lesions.candidates(heat_map(heat), lowest=0.95).empty


def test_candidates_lie_within_the_slide(tmp_path):
    found = lesions.candidates(heat_map([[0.1, 0.9]]), apart_um=1)
    lesions.write_candidates(tmp_path / "a.csv", found, (130, 65))
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines == ["confidence,x,y", "0.9,129,64", "0.1,64,64"]
    assert len(froc.read_detections(tmp_path / "a.csv", 130, 65)) == 2


def test_the_heat_map_opens_with_its_scale_and_levels(results):
    tifffile, openslide = (pytest.importorskip(each) for each in ("tifffile", "openslide"))
    _, heat, folder, _ = results
    with tifffile.TiffFile(folder / "heat_map.ome.tif") as file:
        (series,) = file.series
        assert file.is_ome and len(series.levels) == 1
        assert 'PhysicalSizeX="31.104" PhysicalSizeXUnit="µm"' in file.ome_metadata
        found = heat_map_files.probabilities_of(series.asarray())
    np.testing.assert_allclose(found, heat.probabilities, atol=0.5 / 254 + 1e-6)
    with openslide.OpenSlide(folder / "heat_map.ome.tif") as file:
        assert float(file.properties["openslide.mpp-x"]) == pytest.approx(31.104, rel=1e-4)
        assert file.dimensions == heat.probabilities.shape[::-1]


def test_levels_of_a_heat_map_are_means_of_tissue(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    heat = np.full((101, 300), np.nan, "float32")
    heat[:4, :4] = np.repeat([[0.2, 0.4]], 4, axis=0).repeat(2, axis=1)
    heat[100, 299] = 1
    for name in "ab":
        heat_map_files.write_ome_tiff(tmp_path / f"{name}.ome.tif", heat, 32.0)
    assert (tmp_path / "a.ome.tif").read_bytes() == (tmp_path / "b.ome.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        levels = [heat_map_files.probabilities_of(each.asarray()) for each in file.series[0].levels]
    assert [each.shape for each in levels] == [(101, 300), (51, 150), (26, 75), (13, 38)]
    assert levels[1][0, :3] == pytest.approx([0.2, 0.4, np.nan], abs=0.003, nan_ok=True)
    assert levels[2][0, 0] == pytest.approx(0.3, abs=0.003)
    assert levels[3][-1, -1] == 1


def test_the_tissue_mask_can_be_given_back(results):
    file, _, folder, _ = results
    with reader.opened(file) as slide:
        found, given = tissue.find(slide), tissue.of_outlines(folder / "tissue.geojson", slide)
    np.testing.assert_array_equal(given.mask, found.mask)
    assert annotations.read_outlines(folder / "tissue.geojson").polygons == []  # no tumour


def test_pictures_and_report(results):
    _, heat, folder, found = results
    for name in ("overview.png", "thumbnail.jpg", "tissue.jpg"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 300
    pictures = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert tag != "script"
            if tag == "img":
                pictures.append(dict(attrs))

    text = (folder / "report.html").read_text(encoding="utf-8")
    Parser().feed(text)
    assert len(pictures) == 2
    assert all(each["alt"] and each["src"].startswith("data:image/jpeg") for each in pictures)
    assert f"{found.tumour_mm2:.2f} mm²" in text and "Not a medical device" in text
    assert found.tumour_mm2 == pytest.approx((heat.probabilities >= 0.5).sum() * STEP_UM**2 / 1e6)


def test_outputs_are_known_to_be_those_of_their_heat_map(results, tmp_path):
    _, _, folder, _ = results
    assert outputs.are_written(folder, THRESHOLD, asap=True)
    assert not outputs.are_written(folder, THRESHOLD)
    assert not outputs.are_written(folder, 0.4, asap=True)
    other = shutil.copytree(folder, tmp_path / "drawn")
    assert outputs.are_written(other, THRESHOLD, asap=True)
    (other / "cells.csv").write_text("another")
    assert not outputs.are_written(other, THRESHOLD, asap=True)
    assert not outputs.are_written(tmp_path, THRESHOLD)
    # Outputs of another table of cells are no row of the table of slides, nor are damaged ones.
    assert len(outputs.slides_table(folder.parent)) == 1
    assert outputs.slides_table(tmp_path).empty
    (other / "findings.json").write_text("[1]")
    assert outputs.slides_table(tmp_path).empty


def test_outputs_at_another_threshold_leave_none_of_the_first(results, tmp_path):
    file, heat, folder, _ = results
    other = shutil.copytree(folder, tmp_path / "drawn")
    heat.settings["task"] = PCAM.to_json()
    heat_maps.write(other, heat)
    assert (other / "tumour.xml").exists()
    outputs.complete(file, other, heat, 0.8, mpp=0.4961)
    assert outputs.are_written(other, 0.8) and not (other / "tumour.xml").exists()
    changed = HeatMap(heat.name, heat.grid, heat.probabilities, heat.settings | {"mask": 1})
    with pytest.raises(InputError, match="was written by another process"):
        outputs.complete(file, other, changed, 0.8, mpp=0.4961)


def test_froc_reads_a_folder_of_results_and_its_table_of_slides(results, tmp_path):
    _, _, folder, found = results
    outputs.slides_table(folder.parent).to_csv(tmp_path / "slides.csv", index=False)
    table = froc.read_slides(tmp_path / "slides.csv")
    (tmp_path / "truth").mkdir()
    shutil.copy(folder / "tumour.geojson", tmp_path / "truth" / "drawn.geojson")
    (result,), missing = froc.judge_folders(folder.parent, tmp_path / "truth", table)
    assert (result.slide, missing) == ("drawn", [])
    assert len(result.detections) == len(found.candidates)
    with pytest.raises(InputError, match=r"no row for drawn/lesions.csv"):
        froc.judge_folders(folder.parent, tmp_path / "truth", table[:0])
    # The table may lie among the detections.
    (tmp_path / "found").mkdir()
    shutil.copy(folder / "lesions.csv", tmp_path / "found" / "drawn.csv")
    shutil.copy(tmp_path / "slides.csv", tmp_path / "found")
    (again,), _ = froc.judge_folders(tmp_path / "found", tmp_path / "truth", table)
    assert len(again.detections) == len(result.detections)


def test_a_slide_without_tumour_has_outputs_too(slide_file, plan, tmp_path):
    with reader.opened(slide_file(mpp=0.4961)) as slide:
        heat = truth_of(plan, grid_over(slide.size, slide.mpp, STEP_UM))
        heat.probabilities[:] *= 0.01
        heat_maps.write(tmp_path, heat)
        found = outputs.write_all(tmp_path, slide, heat, tissue.find(slide), THRESHOLD)
    assert found.areas == [] and found.candidates.empty
    assert not (tmp_path / "tumour.xml").exists()
    assert (tmp_path / "lesions.csv").read_text() == "confidence,x,y\n"
    assert "No lesion candidate" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert annotations.read_outlines(tmp_path / "tumour.geojson").polygons == []


def test_a_place_that_cannot_be_written_is_named(slide_file, plan, tmp_path):
    (tmp_path / "file").write_text("")
    with reader.opened(slide_file(mpp=0.4961)) as slide:
        heat = truth_of(plan, grid_over(slide.size, slide.mpp, STEP_UM))
        with pytest.raises(InputError, match="cannot write"):
            outputs.write_all(tmp_path / "file", slide, heat, tissue.find(slide), THRESHOLD)


def test_over_tissue_is_coloured_only_where_tumour_is_probable():
    thumbnail = np.full((64, 64, 3), (200, 150, 190), "uint8")
    heat = np.full((8, 8), 0.0)
    heat[:4], heat[:, 4:] = 0.9, np.nan
    picture = slide_pictures.over_tissue(thumbnail, heat, 8.0).astype(int)
    colourful = picture.max(axis=-1) - picture.min(axis=-1)
    assert colourful[4:24, 4:24].min() > 60
    assert colourful[45:, :].max() == colourful[:, 45:].max() == 0


@pytest.mark.parametrize(
    ("most", "expected"), [(1.0, 1), (99, 50), (100, 100), (4999, 2000), (0.3, 0.2)]
)
def test_scale_bars_have_round_lengths(most, expected):
    assert slide_pictures.round_length(most) == pytest.approx(expected)
