"""A small slide, and a browser that must stay on this machine and say nothing on its console."""

import contextlib
import shutil
import threading
import time

import pytest
import uvicorn
from small_slide import PLAN

from pcam_tf.app import reading, slide_uploads
from pcam_tf.synthetic import slide_files
from pcam_tf.task import PCAM

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="session")
def slide_file(tmp_path_factory):
    """Return a synthetic slide, 640×640 px at 0.972 microns per pixel, in a folder of its own."""
    pytest.importorskip("imagecodecs")
    return slide_files.write_slide(PLAN, tmp_path_factory.mktemp("slides") / "a <b>.tif")


@pytest.fixture(scope="session")
def svs(tmp_path_factory):
    """Return a slide as Aperio's scanners write them, 1280×1280 px at 0.486 microns per pixel."""
    pytest.importorskip("imagecodecs")
    folder = tmp_path_factory.mktemp("svs")
    return slide_files.write_slide(PLAN, folder / "one.svs", mpp=PCAM.mpp / 2, kind="svs")


@pytest.fixture
def small_regions(monkeypatch):
    """Let any slide be larger than a region may be; the process that reads pictures is this one."""
    monkeypatch.setattr(slide_uploads, "LARGEST_PX", 300_000)

    def answer(request, work):
        try:
            slide_uploads.read(request["file"], PCAM, request["mpp"], request["name"])
        except slide_uploads.LargeSlide as large:
            return {"large_slide": large.mpp}
        raise AssertionError

    monkeypatch.setattr(reading, "_answer", answer)


@pytest.fixture(scope="session")
def browser():
    """Return a browser."""
    if CHROMIUM is None:
        pytest.skip("needs the browser Chromium")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_tab(browser):
    """Return a function from an address and options of a context to a tab that is watched."""
    watched, contexts = [], contextlib.ExitStack()

    def open_tab(address, **options):
        context = contexts.enter_context(browser.new_context(**options))
        tab = context.new_page()
        tab.set_default_timeout(30_000)
        own = (address[: address.index("/", 8)], "data:", "blob:", "about:")
        tab.on("request", lambda each: each.url.startswith(own) or watched.append(each.url))
        tab.on("console", lambda line: line.type == "error" and watched.append(line.text))
        tab.on("pageerror", lambda error: watched.append(str(error)))
        tab.goto(address)
        return tab

    with contexts:
        yield open_tab
    assert watched == []


@pytest.fixture(scope="module")
def served_at():
    """Return a function that serves an application on this machine, and returns its address."""
    running = []

    def served_at(app):
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        thread = threading.Thread(target=server.run)
        running.append((server, thread))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield served_at
    for server, thread in running:
        server.should_exit = True
        thread.join()
