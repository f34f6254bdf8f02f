import shutil
import threading
import time

import fastapi
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from small_slide import MODEL

from pcam_tf.app import jobs, slide_folder, slide_pages, turns
from pcam_tf.errors import InputError
from pcam_tf.slides import heat_maps, reader
from pcam_tf.task import PCAM


class Engine:
    """Answers by the mean of the green channel; waits until it may."""

    task, file = PCAM, "fake"

    def __init__(self):
        self.may_go, self.calls = threading.Event(), 0

    def predict_on_batch(self, patches):
        assert self.may_go.wait(120)
        self.calls += 1
        return 1 - patches[..., 1].mean(axis=(1, 2))[:, None] / 255


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def folder(slide_file, tmp_path):
    """Return a folder with two slides, of which one states no scale, and what is no slide."""
    shutil.copy(slide_file, tmp_path / "one.tif")
    with reader.opened(slide_file) as slide:
        Image.fromarray(slide.pixels(0, 0, 0, *slide.size)).save(tmp_path / "silent.png")
    (tmp_path / ".hidden.tif").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("private")
    return tmp_path


@pytest.fixture
def serve(engine, folder):
    """Return a function that starts a server's pages anew; the jobs end with the test."""
    stops = []

    def serve():
        model = MODEL._replace(engine=engine, sha256="digest")
        routers, stop = slide_pages.routers(model, turns.Turns(), {}.get, folder)
        stops.append(stop)
        app = fastapi.FastAPI()
        for router in routers:
            app.include_router(router)
        return TestClient(app)

    yield serve
    engine.may_go.set()
    for stop in stops:
        stop()


ONE, SILENT = slide_folder.key_of("one.tif"), slide_folder.key_of("silent.png")


def wait_for(client, state, key=ONE):
    for _ in range(400):
        found = client.get("/viewer/slides.json").json()[key]
        if found["state"] == state:
            return found
        assert found["state"] != "failed", found
        time.sleep(0.05)
    raise AssertionError(found)


def test_a_slide_is_read_and_its_results_are_found_again(serve, engine, folder):
    client = serve()
    listed = client.get("/viewer/").text
    assert "one.tif" in listed and "silent.png" in listed
    assert "notes.txt" not in listed and ".hidden" not in listed
    assert client.get(f"/viewer/{ONE}/areas.json?index=1&threshold=0.5").status_code == 400
    engine.may_go.set()
    assert client.post(f"/viewer/{ONE}/read").json()["state"] in ("waiting", "running")
    done = wait_for(client, "done")
    assert done["done"] == done["total"] > 100
    raw = heat_maps.read(folder / slide_folder.RESULTS / "one")
    assert raw.settings["model"]["sha256"] == "digest"

    again = serve()
    assert again.get("/viewer/slides.json").json()[ONE]["state"] == "done"
    found = again.get(f"/viewer/{ONE}/areas.json?index=1&threshold=0").json()
    cells = int(np.isfinite(raw.probabilities).sum())
    assert sum(area["cells"] for area in found["areas"]) == cells
    assert found["areas"][0]["probability"] == pytest.approx(np.nanmax(raw.probabilities), abs=1e-5)


def test_a_cancelled_slide_goes_on_where_it_was(serve, engine):
    client = serve()
    client.post(f"/viewer/{ONE}/read")
    wait_for(client, "running")
    client.post(f"/viewer/{ONE}/cancel")
    engine.may_go.set()
    wait_for(client, "cancelled")
    assert engine.calls <= 1
    client.post(f"/viewer/{ONE}/read")
    wait_for(client, "done")


def test_one_slide_at_a_time_and_the_next_says_its_place(serve, engine):
    client = serve()
    client.post(f"/viewer/{SILENT}/scale", json={"mpp": PCAM.mpp})
    client.post(f"/viewer/{ONE}/read")
    wait_for(client, "running")
    client.post(f"/viewer/{SILENT}/read")
    assert wait_for(client, "waiting", SILENT)["before"] == 1
    client.post(f"/viewer/{SILENT}/cancel")
    wait_for(client, "cancelled", SILENT)
    assert client.get("/viewer/slides.json").json()[ONE]["state"] == "running"


def test_a_slide_without_a_scale_is_asked_for_it_first(serve):
    client = serve()
    assert "scanned at" in client.get("/viewer/").text
    assert client.post(f"/viewer/{SILENT}/read").status_code == 400
    for wrong in (0, -1, 40, "nan"):
        assert client.post(f"/viewer/{SILENT}/scale", json={"mpp": wrong}).status_code == 400
    assert client.post(f"/viewer/{SILENT}/scale", json={"mpp": 0.5}).status_code == 200
    assert client.get(f"/viewer/{SILENT}/picture.json").json()["mpp"] == 0.5
    assert serve().get(f"/viewer/{SILENT}/picture.json").json()["mpp"] == 0.5
    assert "scanned at" not in client.get("/viewer/").text


def test_fields_are_predicted_two_a_turn_until_the_job_is_stopped():
    stop, sizes = threading.Event(), []

    def predict(fields, wanted):
        sizes.append(len(fields))
        return fields * wanted

    predict_in_turns = jobs.in_turns(predict, turns.Turns(), stop)
    np.testing.assert_array_equal(predict_in_turns(np.arange(5), np.full(5, 2)), np.arange(5) * 2)
    assert sizes == [2, 2, 1]
    stop.set()
    with pytest.raises(turns.Stopped):
        predict_in_turns(np.arange(5), np.arange(5))


def test_no_request_names_a_path(serve):
    client = serve()
    for key in ("one.tif", "..%2Fone.tif", slide_folder.key_of("notes.txt"), "%00"):
        assert client.get(f"/viewer/{key}/thumbnail.jpg").status_code == 404
    with pytest.raises(InputError, match="cannot read"):
        slide_folder.SlideFolder("missing", MODEL, "")


def test_the_list_of_slides_is_used_in_a_browser(serve, engine, open_tab, served_at):
    address = served_at(serve().app)
    tab = open_tab(f"{address}/viewer/", viewport={"width": 390, "height": 844})
    tab.get_by_role("button", name="10×", exact=True).click()
    tab.get_by_role("button", name="Read silent.png").wait_for()
    tab.get_by_role("button", name="Read one.tif").click()
    tab.get_by_text("Reading: 0 of").wait_for()
    engine.may_go.set()
    tab.get_by_text("Read.", exact=True).wait_for()
    page = "document.documentElement"
    assert tab.evaluate(f"{page}.scrollWidth <= {page}.clientWidth")
    tab.get_by_role("link", name="Open one.tif").click()
    tab.locator("body[data-ready]").wait_for()
    tab.get_by_text(" of the tissue").wait_for()
