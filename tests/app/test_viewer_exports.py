import io
import json

import fastapi
import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from small_slide import MODEL, heat_of_truth

from pcam_tf.app import findings, turns, viewed, viewer
from pcam_tf.slides import annotations, reader
from pcam_tf.task import PCAM

LOOK = "index=1&threshold=0.5"


@pytest.fixture(scope="module")
def shown(slide_file):
    """Return a slide in the viewer, its own probabilities being other numbers."""
    with reader.opened(slide_file) as slide:
        cells, heat = heat_of_truth(slide)
        yield viewed.Viewed("one", 'a "b"\n.svs', slide, cells, heat, heat[..., 1] ** 2)


@pytest.fixture(scope="module")
def client(shown):
    signed = np.linspace(1, -1, PCAM.side_px)[None].repeat(PCAM.side_px, 0).astype("float32")
    app = fastapi.FastAPI()
    app.include_router(viewer.Viewer(MODEL, turns.Turns().small, {"one": shown}.get).router())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(findings, "explanation", lambda *all: signed)
        yield TestClient(app)


def test_outlines_enclose_the_cells_that_the_viewer_calls(client, shown, tmp_path):
    answer = client.get(f"/viewer/one/outlines.geojson?{LOOK}")
    assert answer.headers["content-disposition"] == (
        'attachment; filename="a__b___svs_outlines.geojson"'
    )
    path = tmp_path / "outlines.geojson"
    path.write_bytes(answer.content)
    side_px = shown.grid.step_um / shown.slide.mpp
    mask = annotations.tumour_mask(annotations.read_outlines(path), (20, 20), side_px)
    np.testing.assert_array_equal(mask, shown.heat(1) >= 0.5)
    cells = [each for each in json.loads(answer.content)["features"]
             if each["properties"]["objectType"] == "tile"]  # fmt: skip
    found = [each["properties"]["measurements"]["probability of tumour"] for each in cells]
    assert found == pytest.approx(shown.raw[np.isfinite(shown.raw)].tolist(), abs=1e-6)


def test_the_table_tells_the_two_probabilities_apart(client, shown):
    table = pd.read_csv(io.BytesIO(client.get("/viewer/one/cells.csv").content))
    row = table[(table["row"] == 10) & (table["column"] == 9)].iloc[0]
    assert row["calibrated_probability"] == pytest.approx(shown.heat(1)[10, 9], abs=1e-6)
    assert row["probability"] == pytest.approx(shown.raw[10, 9], abs=1e-6)
    assert row["x_um"] == pytest.approx(9.5 * shown.grid.step_um, abs=1e-5)
    assert row["x_px"] == pytest.approx(row["x_um"] / shown.slide.mpp, abs=1e-5)
    assert (row["step_um"], row["level0_mpp"]) == pytest.approx((31.104, 0.972))
    assert len(table) == np.isfinite(shown.heat(1)).sum()


def test_the_picture_is_the_part_on_the_screen(client):
    part = "left=-50&top=100&right=350&bottom=400&width_px=800"
    for look in (LOOK, f"{LOOK}&opacity=0&outlines=false", f"{LOOK}&only_above=true"):
        answer = client.get(f"/viewer/one/picture.png?{look}&{part}")
        with Image.open(io.BytesIO(answer.content)) as picture:
            assert picture.width > 700 and picture.height > 600
    empty = client.get(
        f"/viewer/one/picture.png?{LOOK}&left=9e9&top=0&right=9.1e9&bottom=9&width_px=9"
    )
    assert empty.status_code == 400 and "nothing" in empty.json()["detail"]


def test_the_report_holds_the_places_looked_at(client):
    asked = {"index": 1, "threshold": 0.5, "setting": "Balanced <b>", "places": [[10, 10], [8, 9]]}
    text = client.post("/viewer/one/report.html", json=asked).text
    assert "Research use only. Not for diagnosis." in text and "<script" not in text
    assert "1 area is called tumour" in text
    assert "Place 2" in text and "Place 3" not in text and "<b>" not in text
    assert text.count("data:image/") == 1 + 2 * 2
    for wrong in ({"places": [[99, 0]]}, {"index": 5}):
        assert client.post("/viewer/one/report.html", json=asked | wrong).status_code == 400
    for wrong in ({"places": [[1, 1]] * 61}, {"threshold": 2}, {"setting": "x" * 99}):
        assert client.post("/viewer/one/report.html", json=asked | wrong).status_code == 422
