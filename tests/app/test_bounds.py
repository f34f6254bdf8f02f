"""What visitors and programs take of the server has an end: memory, disk, turns, time."""

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest
from own_loop import in_own_loop
from PIL import Image
from visitors import clicked, tab, uploaded

from pcam_tf import __main__, synthetic
from pcam_tf.app import (
    findings,
    page,
    picture_worker,
    private_files,
    reading,
    serve,
    turns,
    visit,
    visits,
)
from pcam_tf.app.handlers import Handlers
from pcam_tf.app.turns import Turns, Work
from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.task import PCAM

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


class Engine:
    """An engine that predicts 0.3 for any patch, and counts its batches."""

    task = PCAM

    def __init__(self):
        self.batches, self.on_batch = 0, None

    def predict_on_batch(self, patches):
        self.batches += 1
        if self.on_batch:
            self.on_batch()
        return np.full((len(patches), 1), 0.3, "float32")


@pytest.fixture
def handlers(tmp_path):
    """Return handlers of a constant model without explanations."""
    points = {"Balanced": findings.Point(0.5, "balanced")}
    reader = findings.Reader(None, Engine(), PCAM, "a model", 1.0, points, method=None)
    files = private_files.PrivateFiles(tmp_path / "private")
    yield Handlers(reader, files, None)
    files.close()


@pytest.fixture(scope="module")
def patch():
    """Return a synthetic patch."""
    return synthetic.draw_patches(1, split="test").image[0]


@pytest.fixture(scope="module")
def region(patch):
    """Return a region of 20×20 patches."""
    return np.tile(patch, (20, 20, 1))


def test_programs_do_not_end_visits(handlers, patch, region):
    handlers.read_files([uploaded(handlers, region)], "Balanced", tab())
    picture = uploaded(handlers, patch)
    for number in range(visits.MOST + 30):
        handlers.programs.predict(picture, 0.972, "Balanced", tab(f"program {number}"))
    assert handlers.choose_place("Balanced", tab(), clicked(row=1, column=1))["shown"]
    assert not handlers.programs.calls.get("program 1")


def test_a_call_deletes_nothing_that_it_names(handlers, patch):
    picture = uploaded(handlers, patch)
    state = handlers.read_files([picture], "Balanced", tab())
    first = handlers.programs.predict(picture, 0.972, "Balanced", tab("a program"))
    assert handlers.programs.predict(picture, 0.972, "Balanced", tab("a program")) == first
    handlers.leave(tab("a program"))
    handlers.leave(tab())
    assert state["shown"] and private_files.Path(picture).is_file()


def test_a_visit_has_its_own_copy(handlers, patch):
    picture = uploaded(handlers, patch)
    handlers.read_files([picture], "Balanced", tab())
    private_files.Path(picture).unlink()
    assert handlers.read_again("0.972", "Balanced", tab())["shown"]
    with pytest.raises(InputError, match="has expired"):
        handlers.read_files([picture], "Balanced", tab("another"))


def test_work_of_a_visitor_who_left_ends_with_its_batch(handlers, region):
    engine = handlers.reader.engine
    engine.on_batch = lambda: handlers.leave(tab()) if engine.batches == 3 else None
    with pytest.raises(turns.Stopped):
        handlers.read_files([uploaded(handlers, region)], "Balanced", tab())
    assert engine.batches == 3 and not any(handlers.files.visits.iterdir())


def test_work_that_another_file_replaces_ends_with_its_batch(handlers, patch, region):
    engine, second = handlers.reader.engine, []

    def give_another():
        if engine.batches == 3:
            thread = threading.Thread(
                target=lambda: second.append(
                    handlers.read_files([uploaded(handlers, patch)], "Balanced", tab())
                )
            )
            thread.start()
            second.append(thread)
            while handlers.visits.find("a tab").stop is first:
                time.sleep(0.01)

    engine.on_batch = give_another
    handlers.visits.begin("a tab")
    first = None

    def remember():
        nonlocal first
        first = first or handlers.visits.find("a tab").stop
        give_another()

    engine.on_batch = remember
    with pytest.raises(turns.Stopped):
        handlers.read_files([uploaded(handlers, region)], "Balanced", tab())
    second[0].join()
    assert second[1]["shown"]


def test_a_cancelled_event_stops_its_work():
    began, ended = threading.Event(), []

    def work():
        mine = Work()
        began.set()
        while True:
            try:
                mine.check()
            except turns.Stopped:
                ended.append(True)
                raise
            time.sleep(0.01)

    async def cancel():
        task = asyncio.create_task(turns.in_thread(work)())
        await asyncio.to_thread(began.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while not ended:
            await asyncio.sleep(0.01)

    in_own_loop(cancel())


def test_small_work_comes_between_the_batches_of_large_work():
    held, order = Turns(), []
    waiting, done = threading.Event(), threading.Event()

    def small():
        waiting.set()
        with held.small():
            order.append("small")
        done.set()

    with held.large(threading.Event()):
        with held.batch():
            thread = threading.Thread(target=small)
            thread.start()
            waiting.wait()
            while not held._small:
                time.sleep(0.01)
        with held.batch():
            order.append("large")
    thread.join()
    assert order == ["small", "large"]


def test_one_region_is_read_at_a_time_and_those_in_line_can_be_stopped():
    held, places, inside = Turns(), [], []

    def wait(stop):
        try:
            with held.large(stop, places.append):
                inside.append(stop)
        except turns.Stopped:
            pass

    stops = [threading.Event() for _ in range(3)]
    with held.large(threading.Event()):
        threads = [threading.Thread(target=wait, args=(stop,)) for stop in stops]
        for thread in threads:
            thread.start()
            while thread.is_alive() and len(held._line) < 2 + threads.index(thread):
                time.sleep(0.01)
        stops[1].set()
        threads[1].join()
        assert inside == []
    for thread in threads:
        thread.join()
    assert inside == [stops[0], stops[2]] and {1, 2} <= set(places)


def test_too_many_regions_in_line_are_refused(monkeypatch):
    monkeypatch.setattr(turns, "MOST_WAITING", 0)
    held = Turns()
    with held.large(threading.Event()), pytest.raises(InputError, match="too many regions"):
        held.large(threading.Event()).__enter__()


def test_an_idle_visit_expires_and_says_so(handlers, region, monkeypatch):
    handlers.read_files([uploaded(handlers, region)], "Balanced", tab())
    monkeypatch.setattr(visits, "KEPT_SECONDS", -1)
    handlers.sweep()
    assert not any(handlers.files.visits.iterdir())
    for act in (
        lambda: handlers.choose_place("Balanced", tab(), clicked(row=1, column=1)),
        lambda: handlers.read_again("0.972", "Balanced", tab()),
    ):
        with pytest.raises(InputError, match="has expired"):
            act()


def test_uploads_are_deleted_by_age(handlers, patch, monkeypatch):
    picture = private_files.Path(uploaded(handlers, patch))
    handlers.sweep()
    assert picture.is_file()
    monkeypatch.setattr(private_files, "UPLOAD_SECONDS", -1)
    handlers.sweep()
    assert not any(handlers.files.uploads.iterdir())


def test_the_regions_that_a_visit_keeps_are_bounded(handlers, patch, region, monkeypatch):
    """The history's rows open those of before as long as there is room for them."""

    def kept():
        uploads = {each.stem for each in handlers.files.visits.rglob("uploads/*/*/*.png")}
        return uploads, len(list(handlers.files.visits.rglob("*.npy")))

    small = region[: len(region) // 4]
    for name in "012":
        handlers.read_files([uploaded(handlers, small, f"{name}.png")], "Balanced", tab())
    assert kept() == (set("012"), 3)
    monkeypatch.setattr(visit, "KEPT_REGION_BYTES", 2 * small.nbytes)
    handlers.read_files([uploaded(handlers, small, "3.png")], "Balanced", tab())
    assert kept() == (set("23"), 2)
    handlers.read_files([uploaded(handlers, patch, "4.png")], "Balanced", tab())
    assert kept() == (set("34"), 1)
    handlers.leave(tab())
    assert kept() == (set(), 0)


def test_the_folder_is_private_and_that_of_a_killed_process_is_removed(tmp_path):
    code = (
        "import sys, pathlib; from pcam_tf.app.private_files import PrivateFiles\n"
        "files = PrivateFiles(pathlib.Path(sys.argv[1]))\n"
        "(files.new_upload() / 'patient.png').write_bytes(b'pixels')\n"
        "print(files.folder, flush=True); sys.stdin.read()\n"
    )
    parent = tmp_path / "private"
    command = [sys.executable, "-c", code, parent]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        folder = private_files.Path(process.stdout.readline().decode().strip())
        assert {each.stat().st_mode & 0o777 for each in (parent, folder, folder / "visits")} == {
            0o700
        }
        with_living = private_files.PrivateFiles(parent)
        assert list(folder.rglob("patient.png"))
        with_living.close()
        process.send_signal(signal.SIGKILL)
    files = private_files.PrivateFiles(parent)
    assert not folder.exists()
    files.close()
    assert not any(parent.iterdir())


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "place").symlink_to(tmp_path)
    with pytest.raises(InputError, match="belongs to somebody else"):
        private_files.PrivateFiles(tmp_path / "place")


def test_a_full_quota_is_said(handlers, patch, monkeypatch):
    picture = uploaded(handlers, patch)
    monkeypatch.setattr(private_files, "QUOTA_BYTES", 10)
    for act in (
        lambda: handlers.read_files([picture], "Balanced", tab()),
        lambda: handlers.programs.predict(picture, 0.972, "Balanced", tab()),
    ):
        with pytest.raises(InputError, match="no room for more pictures"):
            act()
    assert not any(handlers.files.visits.iterdir())


@pytest.fixture
def large(tmp_path, monkeypatch, patch):
    """Return the file of a picture that counts as large."""
    monkeypatch.setattr(reading, "_LARGE_PX", 100)
    file = tmp_path / "large.png"
    Image.fromarray(np.tile(patch, (2, 3, 1))).save(file)
    return file


def test_a_large_picture_is_read_by_a_process_alike(large, tmp_path):
    here = image_files.read(large, PCAM, 0.5)
    there = reading.read(large, PCAM, 0.5, "large.png", tmp_path / "visit", Work())
    np.testing.assert_array_equal(there.pixels, here.pixels)
    assert there._replace(pixels=None) == here._replace(pixels=None)
    reading.keep(there.pixels, tmp_path / "visit" / "region.npy")
    assert [file.name for file in (tmp_path / "visit").iterdir()] == ["region.npy"]


def test_a_large_picture_is_refused_in_the_same_words(large, tmp_path):
    large.write_bytes(large.read_bytes()[:2000])
    messages = []
    for act in (
        lambda: image_files.read(large, PCAM, None, "large.png"),
        lambda: reading.read(large, PCAM, None, "large.png", tmp_path / "visit", Work()),
    ):
        with pytest.raises(InputError) as error:
            act()
        messages.append(str(error.value))
    assert messages[0] == messages[1] and not any((tmp_path / "visit").iterdir())


def test_a_large_picture_that_nobody_waits_for_is_not_read(large, tmp_path, monkeypatch):
    work = Work()
    (tmp_path / "visit").mkdir()

    class Unwanted(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            work.stop.set()  # nobody waits any more for what has just begun

    monkeypatch.setattr(subprocess, "Popen", Unwanted)
    monkeypatch.setattr(reading, "_LOOK_S", 0.01)
    with pytest.raises(turns.Stopped):
        reading.read(large, PCAM, None, "large.png", tmp_path / "visit", work)
    assert not any((tmp_path / "visit").iterdir())
    assert picture_worker.__doc__


@pytest.fixture(scope="module")
def served():
    """Return the address of a page and the page."""
    points = {"Balanced": findings.Point(0.5, "balanced")}
    reader = findings.Reader(None, Engine(), PCAM, "a model", 1.0, points, method=None)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(findings, "with_explanations", lambda reader: reader)
        built = page.build(reader)
    yield serve.serve(built, wait=False), built
    built.close()
    gc.collect()


def upload(address, content=b"content"):
    files = {"files": ("patient.png", content)}
    return httpx.post(f"{address}gradio_api/upload", files=files)


def test_equal_uploads_share_nothing(served):
    first, second = (upload(served[0]).json()[0] for _ in range(2))
    assert first != second
    private_files.Path(first).unlink()
    assert private_files.Path(second).is_file()


def test_an_upload_that_is_broken_off_leaves_nothing(served):
    uploads = served[1].handlers.files.uploads
    before = set(uploads.iterdir())
    address = httpx.URL(served[0])
    head = (
        "POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\nContent-Disposition: "
        'form-data; name="files"; filename="patient.png"\r\n\r\n' + 1000 * "x"
    )
    with socket.create_connection((address.host, address.port)) as connection:
        connection.sendall(head.encode())
        while set(uploads.iterdir()) == before:
            time.sleep(0.01)
    while set(uploads.iterdir()) != before:
        time.sleep(0.01)


def test_an_upload_without_room_is_refused(served, monkeypatch):
    monkeypatch.setattr(private_files, "QUOTA_BYTES", 10)
    uploads = served[1].handlers.files.uploads
    before = set(uploads.iterdir())
    answer = upload(served[0])
    assert answer.status_code == 507 and "no room" in answer.text
    assert set(uploads.iterdir()) == before


def test_a_taken_port_is_noticed_before_the_model_is_loaded(monkeypatch, capfd):
    monkeypatch.setattr(findings, "load_reader", None)
    with serve.listen() as taken:
        port = str(taken.getsockname()[1])
        assert __main__.main(["app", "--port", port]) == 2
    printed = capfd.readouterr().err
    assert "cannot serve on 127.0.0.1" in printed and len(printed.splitlines()) == 1


def test_an_impossible_port_is_refused_in_a_line(capfd):
    assert __main__.main(["app", "--port", "80000"]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_nothing_is_left_of_a_server_that_is_ended_with_an_open_tab(tmp_path):
    command = [sys.executable, "-m", "pcam_tf", "app", "--port", "0"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = next(each for each in process.stderr if each.startswith("the page is at"))
            address = line.split()[4]
            assert upload(address).status_code == 200
            assert list(tmp_path.rglob("patient.png"))
            with httpx.stream("GET", f"{address}gradio_api/heartbeat/a", timeout=60) as tab:
                next(tab.iter_lines())
                process.send_signal(signal.SIGTERM)
                process.wait(60)
        finally:
            process.kill()
    assert not list(tmp_path.rglob("patient.png"))
