import hashlib
import re
import threading
import time

import fastapi
import numpy as np
import pytest
from fastapi.testclient import TestClient
from small_slide import MODEL
from visitors import clicked, tab, uploaded

from pcam_tf import synthetic
from pcam_tf.app import jobs, private_files, region_views, reviews, slide_pages
from pcam_tf.app.handlers import Handlers
from pcam_tf.app.visit import MOST_SLIDES
from pcam_tf.errors import InputError
from pcam_tf.slides import reader as slide_reader
from pcam_tf.task import PCAM

MPP = PCAM.mpp / 2


class Engine:
    """Answers by the mean of the green channel; waits until it may."""

    task, file = PCAM, "fake"

    def __init__(self):
        self.may_go = threading.Event()
        self.may_go.set()

    def predict_on_batch(self, patches):
        assert self.may_go.wait(120)
        return 1 - patches[..., 1].mean(axis=(1, 2))[:, None] / 255


@pytest.fixture
def handlers(tmp_path):
    """Return handlers of a model without explanations."""
    engine = Engine()
    reader = MODEL._replace(engine=engine, sha256="digest", method=None)
    files = private_files.PrivateFiles(tmp_path / "private")
    yield Handlers(reader, files, tmp_path / "reviews.csv")
    engine.may_go.set()
    files.close()


@pytest.fixture
def app(handlers):
    """Return an application with the viewer of visitors' slides; no folder is served."""
    routers, stop = slide_pages.routers(
        handlers.reader, handlers.turns, {}.get, None, handlers.visits.of_slide
    )
    app = fastapi.FastAPI()
    for router in routers:
        app.include_router(router)
    yield app
    stop()


def give(handlers, *contents, name="one.svs"):
    """Upload files and read them; the later ones get numbers."""
    paths = []
    for number, content in enumerate(contents):
        paths.append(handlers.files.new_upload() / f"{number or ''}{name}")
        paths[-1].write_bytes(content)
    return handlers.read_files([str(path) for path in paths], "Balanced", tab())


def key_in(values):
    return re.fullmatch(r"viewer/(\S+)\?embedded=true", values["region"]["value"]["address"])[1]


def wait_for(client, key, state):
    for _ in range(400):
        found = client.get(f"/viewer/{key}/slides.json").json()[key]
        if found["state"] == state:
            return found
        assert found["state"] != "failed", found
        time.sleep(0.05)
    raise AssertionError(found)


def test_a_slide_no_larger_than_a_region_is_read_as_one_at_its_scale(handlers, svs):
    values = give(handlers, svs.read_bytes())
    state = handlers.visits.find("a tab")
    assert values["mpp"] == pytest.approx(MPP, rel=1e-3)
    assert state.slide is None and state.region.pixels().shape == (640, 640, 3)
    shown = region_views.viewed_region(handlers.reader, state.region)
    assert shown.slide.backend.format == "aperio" and shown.slide.size == (1280, 1280)
    with slide_reader.opened(svs) as slide:
        expected = slide.window(0, 0, 640, 640, PCAM.mpp)
    np.testing.assert_array_equal(state.region.pixels(), expected)
    shown.slide.backend.close()


def damaged(content):
    return content[:3000] + bytes(len(content) - 3000)


@pytest.mark.parametrize(
    "change", [lambda content: b"no slide", lambda content: content[:3000], damaged, lambda _: b""]
)
def test_what_is_no_slide_is_refused_in_a_line(handlers, svs, change):
    with pytest.raises(InputError) as error:
        give(handlers, change(svs.read_bytes()))
    text = handlers.without_folders(str(error.value))
    assert "one.svs" in text and "\n" not in text and "private" not in text
    assert not list(handlers.visits.find("a tab").folder.rglob("*.npy"))


def test_a_slide_of_huge_tiles_is_refused(handlers, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pixels = np.zeros((4096, 4096, 3), "uint8")
    tifffile.imwrite(
        tmp_path / "a.svs", pixels, tile=(4096, 4096), compression="zlib", photometric="rgb"
    )
    with pytest.raises(InputError, match="has tiles of 17 megapixels"):
        give(handlers, (tmp_path / "a.svs").read_bytes())


def test_a_slide_without_a_scale_is_asked_for_it(handlers, svs):
    silent = re.sub(rb"MPP = [\d.]+", lambda found: b"X" * len(found[0]), svs.read_bytes())
    with pytest.raises(InputError, match="choose at what magnification"):
        give(handlers, silent)
    values = handlers.read_again(MPP, "Balanced", tab())
    assert values["mpp"] == MPP
    assert handlers.visits.find("a tab").region.pixels().shape == (640, 640, 3)


@pytest.mark.usefixtures("small_regions")
def test_a_large_slide_is_shown_read_and_deleted_with_the_visit(handlers, app, svs):
    values, client = give(handlers, svs.read_bytes()), TestClient(app)
    key = key_in(values)
    assert "A whole slide: one.svs" in values["summary"]
    assert values["mpp"] == pytest.approx(MPP, rel=1e-3)
    page = client.get(f"/viewer/{key}").text
    assert "has not been read" in page and 'data-do="read"' in page
    assert client.get(f"/viewer/{key}/overview.jpg").status_code == 200
    assert client.get(f"/viewer/{key}/slides.json").json() == {key: {"state": "unread"}}
    assert handlers.change_setting("Few false alarms", tab())["setting"] == "Few false alarms"

    client.post(f"/viewer/{key}/read")
    wait_for(client, key, "done")
    assert 'data-do="read"' not in client.get(f"/viewer/{key}").text
    assert client.get(f"/viewer/{key}/picture.json").json()["grid"]["rows"] == 20
    assert client.get(f"/viewer/{key}/cells.csv").text.count("\n") > 100

    for guess in ("one.svs", "../one.svs", key[:-1]):
        assert client.get(f"/viewer/{guess}/slides.json").status_code == 404
    assert client.get("/viewer/slides.json").status_code == 404  # nobody lists them
    handlers.leave(tab())
    assert client.get(f"/viewer/{key}").status_code == 404
    assert client.post(f"/viewer/{key}/read").status_code == 404
    assert not any(handlers.files.visits.iterdir())


@pytest.mark.usefixtures("small_regions")
@pytest.mark.parametrize("end", ["cancel", "leave", "remove"])
def test_the_reading_of_a_slide_ends(handlers, app, svs, end):
    key, client = key_in(give(handlers, svs.read_bytes())), TestClient(app)
    folder = handlers.visits.of_slide(key)
    handlers.reader.engine.may_go.clear()
    client.post(f"/viewer/{key}/read")
    wait_for(client, key, "running")
    if end == "cancel":
        client.post(f"/viewer/{key}/cancel")
    elif end == "leave":
        handlers.leave(tab())
    else:
        handlers.remove_files(tab())
    handlers.reader.engine.may_go.set()
    if end == "cancel":
        wait_for(client, key, "cancelled")
        client.post(f"/viewer/{key}/read")
        wait_for(client, key, "done")
        return
    for _ in range(4000):
        if not any("(_run)" in each.name for each in threading.enumerate()):
            break
        time.sleep(0.01)
    assert not folder.folder.exists()
    assert client.get(f"/viewer/{key}/slides.json").status_code == 404


@pytest.mark.usefixtures("small_regions")
def test_of_several_files_each_large_slide_opens_from_its_row(handlers, app, svs):
    give(handlers, svs.read_bytes(), svs.read_bytes())
    state, client = read_all(handlers), TestClient(app)
    assert [item.name for item in state.batch.items] == ["one.svs", "1one.svs"]
    for number in (1, 0):
        key = key_in(handlers.choose_item("Balanced", tab(), clicked(number=number)))
        assert client.get(f"/viewer/{key}/slides.json").json() == {key: {"state": "unread"}}
    assert [row["call"] for row in state.log] == ["whole slide"] * 2


def read_all(handlers):
    """Return the visit once all that was given at once is read."""
    state = handlers.visits.find("a tab")
    while state.reading:
        time.sleep(0.01)
    return state


@pytest.mark.usefixtures("small_regions")
def test_a_slide_that_is_read_goes_on_when_another_row_is_opened(handlers, app, svs):
    """A patch is read, then a slide; while its job runs, the patch's row is opened."""
    patch = uploaded(handlers, synthetic.draw_patches(1, split="test").image[0])
    handlers.read_files([patch], "Balanced", tab())
    key, client = key_in(give(handlers, svs.read_bytes())), TestClient(app)
    handlers.reader.engine.may_go.clear()
    client.post(f"/viewer/{key}/read")
    wait_for(client, key, "running")
    values = handlers.open_again("Balanced", tab(), clicked(number=0))
    assert "one.png" in values["summary"] and not values["region"]["visible"]
    # Nor does it expire, or make room, while it is read.
    state = handlers.visits.find("a tab")
    state.used_at = -1e6
    handlers.sweep()
    for _ in range(MOST_SLIDES):
        give(handlers, svs.read_bytes())
    assert len(state.slides) == MOST_SLIDES and key in state.slides
    handlers.reader.engine.may_go.set()
    wait_for(client, key, "done")
    values = handlers.open_again("Balanced", tab(), clicked(number=1))
    assert key_in(values) == key and "A whole slide: one.svs" in values["summary"]
    assert client.get(f"/viewer/{key}/cells.csv").text.count("\n") > 100
    # Taken away, its row says so.
    handlers.remove_files(tab())
    with pytest.raises(InputError, match=r"one\.svs is not kept any more"):
        handlers.open_again("Balanced", tab(), clicked(number=1))


@pytest.mark.usefixtures("small_regions")
def test_no_further_slide_is_taken_while_all_are_read(handlers, svs):
    give(handlers, svs.read_bytes())
    state = handlers.visits.find("a tab")
    for slide in state.slides.values():
        slide.folder.job = jobs.Job()
    state.slides |= {number: state.slide for number in range(MOST_SLIDES - 1)}
    with pytest.raises(InputError, match="4 slides of yours are being read"):
        give(handlers, svs.read_bytes())


@pytest.mark.usefixtures("small_regions")
def test_a_place_of_a_slide_is_reviewed_with_all_that_names_it(handlers, app, svs):
    key, client = key_in(give(handlers, svs.read_bytes())), TestClient(app)
    row = column = 10
    place = clicked(row=row, column=column)
    assert "has not been read" in handlers.choose_place("Balanced", tab(), place)["summary"]
    client.post(f"/viewer/{key}/read")
    wait_for(client, key, "done")
    values = handlers.choose_place("Few false alarms", tab(), place)
    heat = handlers.visits.of_slide(key).find(key).probabilities[row, column, 1]
    called = "tumour" if heat >= 0.5 else "normal"
    assert f'The model calls the centre square {called} (setting "Balanced")' in values["review"]
    handlers.disagree(values["shown"], "A. B.", False, "", tab())
    found = reviews.read(handlers.reviews_file).iloc[0]
    assert found["file"] == "one.svs" and found["file_sha256"] == digest(svs)
    centre_um = 10.5 * PCAM.centre_px * PCAM.mpp
    assert [float(found[name]) for name in ("x_um", "y_um")] == pytest.approx([centre_um] * 2, 1e-3)
    centre_px = centre_um / MPP
    assert [float(found[name]) for name in ("x_px", "y_px")] == pytest.approx([centre_px] * 2, 1e-3)
    assert found["probability"] == pytest.approx(heat, abs=1e-6) and found["threshold"] == 0.5
    assert (found["setting"], found["call"]) == ("Balanced", str(int(heat >= 0.5)))
    assert found["label"] == 1 - int(heat >= 0.5)
    assert found["id"].startswith("one.svs, x 327 µm, y 327 µm ")
    # The place's row opens the slide, and the viewer goes there.
    number = handlers.visits.find("a tab").log[-1]["number"]
    handlers.choose_place("Balanced", tab(), clicked(row=11, column=10))
    again = handlers.open_again("Balanced", tab(), clicked(number=number))
    assert again["region"]["value"]["go"] == (row, column) and "disagrees" in again["review"]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.usefixtures("small_regions")
def test_a_large_slide_is_read_from_its_page_in_a_browser(handlers, app, svs, served_at, open_tab):
    key = key_in(give(handlers, svs.read_bytes()))
    page = open_tab(f"{served_at(app)}/viewer/{key}?embedded=true")
    page.locator("body[data-ready]").wait_for()
    page.get_by_text("Not read yet.").wait_for()
    page.get_by_role("button", name="Read", exact=True).click()
    page.get_by_role("heading", name="Findings").wait_for()
    assert page.get_by_role("button", name="Read", exact=True).count() == 0
