import contextlib
import json

import fastapi
import numpy as np
import pytest
from controls import too_small, unnamed
from fastapi.testclient import TestClient
from small_slide import MODEL, heat_of_truth

from pcam_tf.app import areas, findings, viewed, viewer
from pcam_tf.errors import InputError
from pcam_tf.slides import grid, reader
from pcam_tf.task import PCAM


@pytest.fixture(scope="module")
def shown(slide_file):
    """Return a slide in the viewer, with a heat map."""
    with reader.opened(slide_file) as slide:
        cells, heat = heat_of_truth(slide)
        yield viewed.Viewed("one", slide_file.name, slide, cells, heat)


@pytest.fixture(scope="module")
def explained():
    """Explain without a model: the left half of a patch supports the class."""
    signed = np.linspace(1, -1, PCAM.side_px)[None].repeat(PCAM.side_px, 0).astype("float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(findings, "explanation", lambda *all: signed)
        yield


@pytest.fixture(scope="module")
def app(shown, explained):
    """Return an application with the viewer."""
    app = fastapi.FastAPI()
    app.include_router(viewer.Viewer(MODEL, contextlib.nullcontext, {"one": shown}.get).router())
    return app


@pytest.fixture(scope="module")
def client(app):
    return TestClient(app)


@pytest.fixture(scope="module")
def address(app, served_at):
    """Return the address of the viewer's page, served on this machine."""
    return f"{served_at(app)}/viewer/one"


def test_areas_are_what_touches_the_most_probable_first():
    cells = grid.Grid(4, 5, 20.0, 0.5)
    heat = np.full((4, 5), np.nan, "float32")
    heat[0, 0], heat[1, 1], heat[3, 3:], heat[0, 4] = 0.6, 0.9, (0.7, 0.95), 0.5
    table = areas.areas_above(heat, cells, 0.6)
    assert table["area"].tolist() == [1, 2]
    assert table["probability"].tolist() == pytest.approx([0.95, 0.9])
    assert table["mean_probability"].tolist() == pytest.approx([0.825, 0.75])
    assert table[["row", "column", "cells"]].to_numpy().tolist() == [[3, 4, 2], [1, 1, 2]]
    assert table[["x_um", "y_um", "x_px", "y_px"]].to_numpy()[0].tolist() == [90, 70, 180, 140]
    assert table["area_mm2"].tolist() == pytest.approx([0.0008, 0.0008])
    assert len(areas.areas_above(heat, cells, 0.96)) == 0


def test_outlines_run_along_the_borders_of_cells_in_one_piece():
    heat = np.array([[0.9, 0.9, 0.1], [0.9, np.nan, 0.9]], "float32")
    lines = areas.outlines(heat, grid.Grid(2, 3, 10.0, 1.0), 0.5)
    found = {tuple(line) for line in lines.tolist()}
    assert (0, 0, 20, 0) in found and (0, 0, 0, 20) in found  # as long as they can be
    around = {frozenset([line[:2], line[2:]]) for line in found}
    assert frozenset([(20, 10), (30, 10)]) in around  # the lone cell
    assert len(found) == 10


def test_the_heat_map_in_the_picture_is_the_one_of_the_slide(client, shown):
    content = client.get("/viewer/one/picture.json").json()
    text = json.dumps(content["documents"])
    assert "one/tiles/{Z}/{X}/{Y}.jpg" in text and "one/overview.jpg" in text
    assert content["width_um"] == pytest.approx(640 * PCAM.mpp)
    assert content["thresholds"] == {"Balanced": 0.5, "Few false alarms": 0.8}
    assert content["grid"]["rows"] == 20 and len(content["colours"]) == 256
    place = client.get("/viewer/one/places/10/10.json?index=1").json()
    assert place["probabilities"][1] == pytest.approx(float(shown.probabilities[10, 10, 1]))
    assert place["x_um"] == pytest.approx(10.5 * 32 * PCAM.mpp)


def test_a_place_is_the_patch_in_the_middle_of_which_the_cell_lies(shown):
    patch = viewed.patch_at(shown, MODEL, 8, 9)
    start = [index * 32 + 16 - PCAM.side_px // 2 for index in (8, 9)]
    whole = shown.slide.pixels(0, 0, 0, *shown.slide.size)
    expected = whole[start[0] :, start[1] :][: PCAM.side_px, : PCAM.side_px]
    np.testing.assert_array_equal(patch, expected)
    for row, column, reason in ((0, 0, "no tissue"), (20, 0, "no such"), (-1, 3, "no such")):
        with pytest.raises(InputError, match=reason):
            viewed.patch_at(shown, MODEL, row, column)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("two", 404),
        ("..%2f..%2fetc%2fhostname", 404),
        ("two/picture.json", 404),
        ("one/tiles/0/0/0.jpg", 200),
        ("one/tiles/9/0/0.jpg", 200),  # a transparent pixel
        ("one/tiles/x/0/0.jpg", 422),
        ("one/areas.json?index=1&threshold=2", 400),
        ("one/areas.json?index=7&threshold=0.5", 400),
        ("one/areas.json?index=1&threshold=nan", 400),
        ("one/places/0/0.json?index=1", 400),
        ("one/places/99999/0.json?index=1", 400),
        ("one/places/10/10.json?index=-1", 400),
        ("static/bokeh.min.js", 200),
        ("static/report.html", 404),
        ("static/..%2fviewer.py", 404),
    ],
)
def test_what_is_asked_for_is_answered_or_refused_in_a_line(client, path, status):
    answer = client.get(f"/viewer/{path}")
    assert answer.status_code == status
    if status == 400:
        assert len(answer.json()["detail"].splitlines()) == 1 and "/" not in answer.json()["detail"]


def test_a_slide_is_looked_at_in_a_browser(open_tab, address, shown):
    tab = open_tab(address, viewport={"width": 1366, "height": 768})
    tab.locator("body[data-ready]").wait_for()
    assert tab.locator("h1").inner_text() == "a <b>.tif"
    tab.get_by_text("1 area, ").wait_for()

    best = areas.areas_above(shown.heat(1), shown.grid, 0.5).iloc[0]
    # A finding: the picture goes there, and the panel shows the heat map's own number.
    tab.locator("#findings button").first.click()
    tab.locator("#answer.read").wait_for()
    answer = tab.locator("#answer").inner_text()
    assert "Called tumour" in answer and findings.percent(best["probability"]) in answer
    centre = tab.evaluate("JSON.parse(sessionStorage['viewer one']).centre")
    assert centre == pytest.approx([best["x_um"], best["y_um"]], abs=1)
    assert "looked at" in tab.locator("#findings button").first.inner_text()

    # A click reads the place below it, and the picture stays where it is.
    picture = tab.locator("#picture")
    box, scroll = picture.bounding_box(), tab.evaluate("scrollY")
    picture.press("0")
    tab.mouse.move(box["x"] + box["width"] / 2 + 9, box["y"] + box["height"] / 2 + 9)
    tab.locator("#readout").get_by_text("tumour").wait_for()
    tab.mouse.down()
    tab.mouse.up()
    middle = float(shown.probabilities[10, 10, 1])
    tab.get_by_text(f"Probability of tumour: {findings.percent(middle)}").wait_for()
    assert picture.bounding_box() == box and tab.evaluate("scrollY") == scroll

    # A threshold that nothing reaches; then the one of another setting.
    tab.get_by_role("slider", name="Threshold").fill("100")
    tab.get_by_text("Nothing reaches the threshold.").wait_for()
    assert "Called normal" in tab.locator("#answer").inner_text()
    tab.get_by_label("Few false alarms").check()
    assert tab.get_by_role("slider", name="Threshold").input_value() == "80"
    tab.get_by_text("of two").wait_for()


def wait_for_scale(tab, test):
    """Wait until the scale that the viewer keeps, once the picture rests, passes a test."""
    tab.wait_for_function(
        f"(() => {{ const scale = JSON.parse(sessionStorage['viewer one'] ?? '{{}}').scale;"
        f" return {test}; }})()"
    )


def test_the_picture_is_moved_by_wheel_keys_and_buttons_and_measured(open_tab, address):
    tab = open_tab(address, viewport={"width": 1000, "height": 700})
    tab.locator("body[data-ready]").wait_for()
    picture = tab.locator("#picture")
    tab.get_by_role("button", name="20×", exact=True).click()
    wait_for_scale(tab, "Math.abs(scale - 0.5) < 1e-6")
    assert tab.get_by_role("button", name="20×").get_attribute("aria-current") == "true"
    box = picture.bounding_box()
    x, y = box["x"] + 200, box["y"] + 300
    tab.mouse.move(x, y)
    tab.mouse.wheel(0, -240)
    wait_for_scale(tab, "scale < 0.45")
    tab.mouse.dblclick(x, y)
    wait_for_scale(tab, "scale < 0.25")
    assert "Click a place" in tab.locator("#answer").inner_text()  # it was no click
    picture.press("4")
    wait_for_scale(tab, "Math.abs(scale - 0.5) < 1e-6")
    picture.press("Enter")
    tab.locator("#answer.read").wait_for()

    tab.get_by_role("button", name="Measure").click()
    for right in (0, 100):
        tab.mouse.click(x + right, y)
        tab.wait_for_timeout(1000)  # two clicks, not a double one
    tab.locator("#answer .call").get_by_text("Length 50.0 µm", exact=True).wait_for()

    # After a reload: the same place, and what was looked at.
    tab.reload()
    tab.locator("body[data-ready]").wait_for()
    wait_for_scale(tab, "Math.abs(scale - 0.5) < 1e-6")
    is_current = (
        "document.querySelector('[data-power=\"20\"]').getAttribute('aria-current') === 'true'"
    )
    tab.wait_for_function(is_current)  # it is not only kept, but shown
    assert len(tab.evaluate("JSON.parse(sessionStorage['viewer one']).seen")) == 1


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (690, 614), (820, 1100), (390, 844)])
def test_everything_has_a_name_and_the_answer_is_in_view(open_tab, address, width, height):
    tab = open_tab(address, viewport={"width": width, "height": height}, has_touch=True)
    tab.locator("body[data-ready]").wait_for()
    box = tab.locator("#picture").bounding_box()
    tab.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tab.locator("#answer.read").wait_for()
    call = tab.locator("#answer .call").bounding_box()
    assert 0 < call["y"] < height - call["height"] and 0 < call["x"] < width
    page = "document.documentElement"
    assert tab.evaluate(f"{page}.scrollWidth <= {page}.clientWidth")
    assert unnamed(tab) == []
    assert too_small(tab) == []
    assert tab.locator("#answer").evaluate("each => each.scrollWidth <= each.clientWidth")
