"""Several regions in one drop: one after another, each whole, while the visitor looks at others."""

import re
import threading
import time

import numpy as np
import pandas as pd
import pytest
from visitors import clicked, tab, uploaded

from pcam_tf import synthetic
from pcam_tf.app import findings, private_files, reading, region_views, turns, viewed
from pcam_tf.app.handlers import Handlers
from pcam_tf.errors import InputError
from pcam_tf.task import PCAM


class Engine:
    """Predicts by the mean of the green channel; regions of a batch wait until they may go on."""

    task = PCAM

    def __init__(self):
        self.may_go, self.batches, self.on_batch = threading.Semaphore(1000), 0, None

    def predict_on_batch(self, patches):
        if "read_regions" in threading.current_thread().name:
            assert self.may_go.acquire(timeout=120)
        self.batches += 1
        if self.on_batch:
            self.on_batch()
        return 1 - patches[..., 1].mean(axis=(1, 2))[:, None] / 255

    def hold(self):
        self.may_go = threading.Semaphore(0)


@pytest.fixture
def handlers(tmp_path):
    """Return handlers of a model without explanations."""
    points = {"Balanced": findings.Point(0.3, "balanced", 0.35)}
    reader = findings.Reader(None, Engine(), PCAM, "a model", 1.0, points, method=None)
    files = private_files.PrivateFiles(tmp_path / "private")
    yield Handlers(reader, files, tmp_path / "reviews.csv")
    reader.engine.may_go.release(10_000)
    files.close()


@pytest.fixture(scope="module")
def patches():
    """Return six synthetic patches."""
    return synthetic.draw_patches(6, split="test").image


@pytest.fixture
def given(handlers, patches):
    """Return uploads: a region, a patch, a larger region of the same name as the first."""
    one, two = np.tile(patches[1], (3, 3, 1)), np.tile(patches[2], (4, 5, 1))
    return [
        uploaded(handlers, one, "region.png"),
        uploaded(handlers, patches[0], "patch.png"),
        uploaded(handlers, two, "region.png"),
    ]


def visit_of(handlers):
    return handlers.visits.find("a tab")


def wait_until(is_so):
    for _ in range(2000):
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError


def read_all(handlers):
    wait_until(lambda: not visit_of(handlers).reading)
    return visit_of(handlers)


def texts_of(values):
    cells = re.findall(r"<td.*?</td>", values["batch"]["value"], re.S)
    texts = [re.sub("<.*?>", "", cell, flags=re.S).strip() for cell in cells]
    return np.reshape(texts, (-1, 3)).tolist()


def test_each_region_is_read_whole_and_opens_in_the_viewer(handlers, given, patches):
    engine = handlers.reader.engine
    engine.hold()
    values = handlers.read_files(given, "Balanced", tab())
    # The patch is there at once, the regions are in line.
    rows = texts_of(values)
    assert [row[0] for row in rows] == ["region.png", "patch.png", "region.png (2)"]
    assert rows[0][1] == rows[2][1] == "not read yet" and rows[1][1] in PCAM.classes
    assert "1 patch: " in values["summary"] and "2 still to be read" in values["summary"]
    assert values["timer"].active and values["reading_row"]["visible"]
    with pytest.raises(InputError, match="give pictures first"):
        handlers.choose_item("Balanced", tab(), clicked(number=2))

    # The first region: its row has its result while the second is still being read.
    state = visit_of(handlers)
    engine.may_go.release(3)  # 81 places
    wait_until(lambda: len(state.batch.regions) == 1)
    values = handlers.follow(tab())
    assert texts_of(values)[0][1].endswith("% of tissue tumour")
    assert texts_of(values)[2][1] == "not read yet" and "1 region" in values["summary"]
    assert values["reading"].startswith("Reading 2 of 2: region.png (2)")
    assert "1 picture: The file does not state its scale" in values["summary"]  # the patch's
    values = handlers.choose_item("Balanced", tab(), clicked(number=0))
    assert values["region"]["visible"] and "region.png: 81 places" in values["summary"]
    assert "does not state its scale" not in values["summary"]
    assert len(pd.read_csv(values["predictions"])) == 81
    first = region_views.viewed_region(handlers.reader, state.region)
    assert first.probabilities.shape == (9, 9, 2) and first.slide.size == (288, 288)
    assert first.slide.path == state.batch.uploads[0]  # at full resolution
    first.slide.backend.close()

    # It stays open, is looked at and judged while the second is read.
    values = handlers.choose_place("Balanced", tab(), clicked(row=1, column=1))
    handlers.accept(values["shown"], "", False, "", tab())
    engine.may_go.release(100)
    read_all(handlers)
    values = handlers.follow(tab())
    assert "region" not in values and "summary" not in values and not values["timer"].active
    assert texts_of(values)[2][1].endswith("% of tissue tumour")
    assert state.region is state.batch.items[0] and state.place.review

    # The second, then the history's row of the first.
    assert handlers.choose_item("Balanced", tab(), clicked(number=2))["region"]["visible"]
    assert state.region.probabilities.shape == (12, 15, 2)
    names = [row["id"].split(" ")[0] for row in state.log]
    assert names[:2] == ["patch.png", "region.png"] and len(names) == 4
    handlers.open_again("Balanced", tab(), clicked(number=1))
    assert state.region is state.batch.items[0] and not state.place


def test_the_table_of_all_holds_patches_and_places(handlers, given):
    handlers.read_files(given, "Balanced", tab())
    state = read_all(handlers)
    values = handlers.follow(tab())
    table = pd.read_csv(values["predictions"])
    assert len(table) == 1 + 81 + 180 and table["id"].is_unique
    assert table["id"].str.startswith("region.png (2), x ").sum() == 180
    report = private_files.Path(values["report"]).read_text("utf-8")
    assert "region.png (2). " in report and "patch.png" in report
    assert len(state.regions) == 2 and state.chosen is None


def test_regions_of_a_drop_are_what_each_is_alone(handlers, given):
    handlers.read_files(given, "Balanced", tab())
    together = [each.probabilities for each in read_all(handlers).batch.regions]
    for number, expected in zip((0, 2), together, strict=True):
        handlers.read_files([given[number]], "Balanced", tab("another"))
        alone = handlers.visits.find("another").region.probabilities
        np.testing.assert_array_equal(alone, expected)


def test_the_scale_is_asked_for_before_any_verdict_on_a_region(handlers, patches):
    silent = [uploaded(handlers, np.tile(patches[k], (4, 4, 1)), f"{k}.png", mpp=None)
              for k in (0, 1)]  # fmt: skip
    handlers.read_files(silent, "Balanced", tab())
    read_all(handlers)
    values = handlers.follow(tab())
    assert [row[1] for row in texts_of(values)] == ["left out"] * 2
    assert values["summary"].count("does not state its scale: choose") == 2
    values = handlers.read_at_power("20×", "Balanced", tab())
    state = read_all(handlers)
    assert [each.mpp for each in state.batch.regions] == [0.5] * 2
    assert state.batch.notes == [] and "mpp" not in values


def test_of_several_an_entered_scale_is_for_those_that_state_none(handlers, patches, svs):
    region = np.tile(patches[1], (4, 4, 1))
    files = [
        uploaded(handlers, region, "silent.png", mpp=None),
        uploaded(handlers, region, "stated.png", mpp=0.5),
        uploaded(handlers, patches[0], "patch.png"),
        # At its own scale smaller than a patch: it is refused, and not read at another.
        uploaded(handlers, region[:200, :200], "small.png", mpp=0.25),
    ]
    slide = handlers.files.new_upload() / "slide.svs"
    slide.write_bytes(svs.read_bytes())
    handlers.read_files([*files, str(slide)], "Balanced", tab())
    assert [each.mpp for each in read_all(handlers).batch.regions] == pytest.approx(
        [0.5, PCAM.mpp / 2], rel=1e-3
    )
    handlers.read_again("0.9", "Balanced", tab())
    state = read_all(handlers)
    found = [each.mpp for each in state.batch.regions]
    assert found == pytest.approx([0.9, 0.5, PCAM.mpp / 2], rel=1e-3)
    assert len(state.batch.patches) == 1
    assert [note.split(" ")[2] for note in state.batch.notes] == ["small.png"]


def test_what_cannot_be_read_is_left_out_and_the_rest_is_read(handlers, given):
    private_files.Path(given[0]).write_bytes(b"no picture")
    content = private_files.Path(given[2]).read_bytes()
    private_files.Path(given[2]).write_bytes(content[: len(content) // 2])
    values = handlers.read_files([*given, uploaded(handlers, np.full((200, 200, 3), 255, "uint8"))],
                                 "Balanced", tab())  # fmt: skip
    assert "Left out: region.png is not a picture" in values["summary"]
    read_all(handlers)
    values = handlers.follow(tab())
    assert [row[1] for row in texts_of(values)][1:] == ["left out"]
    assert "one.png shows no tissue" in values["summary"]


def test_a_region_that_alone_can_be_read_is_opened(handlers, given):
    private_files.Path(given[0]).write_bytes(b"no picture")
    handlers.read_files([given[0], given[2]], "Balanced", tab())
    read_all(handlers)
    values = handlers.follow(tab())
    assert values["region"]["visible"] and not values["batch"]["visible"]
    assert "Left out: region.png is not a picture" in values["summary"]


@pytest.mark.parametrize("end", ["stop", "leave", "remove", "give"])
def test_the_reading_of_several_regions_ends(handlers, given, patches, end):
    engine = handlers.reader.engine
    engine.hold()
    handlers.read_files(given, "Balanced", tab())
    state = visit_of(handlers)
    wait_until(lambda: handlers.turns._is_busy)
    if end == "stop":
        handlers.stop_reading(tab())
    elif end == "leave":
        handlers.leave(tab())
    elif end == "remove":
        handlers.remove_files(tab())
    else:
        values = {}
        thread = threading.Thread(
            target=lambda: values.update(
                handlers.read_files([uploaded(handlers, patches[3])], "Balanced", tab())
            )
        )
        thread.start()
        wait_until(lambda: state.reading is None)
    engine.may_go.release(100)
    wait_until(lambda: not any("read_regions" in each.name for each in threading.enumerate()))
    assert engine.batches <= 2 + (end == "give") and not state.regions and not state.reading
    if end == "stop":
        values = handlers.follow(tab())
        assert [row[1] for row in texts_of(values)][::2] == ["not read: stopped"] * 2
        assert not values["reading_row"]["visible"] and texts_of(values)[1][1] in PCAM.classes
    elif end == "leave":
        assert not any(handlers.files.visits.iterdir())
    elif end == "give":
        thread.join()
        assert "one.png" in values["summary"] and not values["batch"]["visible"]


def test_one_region_is_read_at_a_time_and_small_work_does_not_wait(handlers, given, patches):
    handlers.reader.engine.hold()
    handlers.read_files(given, "Balanced", tab())
    wait_until(lambda: handlers.turns._is_busy)
    handlers.read_files(given[::2], "Balanced", tab("another"))
    wait_until(lambda: len(handlers.turns._line) == 2)
    # Between two batches of the region, a patch of a third visitor has its turn.
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(
            handlers.read_files([uploaded(handlers, patches[4])], "Balanced", tab("third"))
        )
    )
    thread.start()
    wait_until(lambda: handlers.turns._small)
    handlers.reader.engine.may_go.release(1)
    thread.join(20)
    assert "Probability of tumour" in answers[0]["summary"]
    assert not visit_of(handlers).regions and not handlers.visits.find("another").regions
    assert visit_of(handlers).batch.notes == []


def test_where_the_line_is_full_a_region_waits(handlers, given, monkeypatch):
    monkeypatch.setattr(turns, "MOST_WAITING", 0)
    monkeypatch.setattr("pcam_tf.app.batches._RETRY_SECONDS", 0.01)
    with handlers.turns.large(threading.Event()):
        handlers.read_files(given, "Balanced", tab())
        time.sleep(0.1)
        assert visit_of(handlers).reading and visit_of(handlers).batch.notes == []
    assert len(read_all(handlers).batch.regions) == 2


def test_a_row_that_is_opened_while_uploads_are_read_stays(handlers, patches, monkeypatch):
    """An upload is being decoded; a row of the history is opened, which takes the upload away."""
    handlers.read_files([uploaded(handlers, patches[0], "before.png")], "Balanced", tab())
    began, may_end = threading.Event(), threading.Event()
    image_read, raised = reading.read, []

    def slow(*arguments):
        began.set()
        assert may_end.wait(20)
        return image_read(*arguments)

    monkeypatch.setattr(reading, "read", slow)

    def give():
        try:
            handlers.read_files([uploaded(handlers, patches[1], "new.png")], "Balanced", tab())
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=give)
    thread.start()
    assert began.wait(20)
    handlers.open_again("Balanced", tab(), clicked(number=0))
    for file in visit_of(handlers).folder.rglob("new.png"):
        file.unlink()  # as a further drop would do
    may_end.set()
    thread.join()
    assert [type(each) for each in raised] == [turns.Stopped]
    assert visit_of(handlers).item.name == "before.png" and len(visit_of(handlers).log) == 1


def test_a_file_that_is_taken_away_takes_only_its_own_answer(handlers, given, patches):
    engine = handlers.reader.engine
    second = uploaded(handlers, patches[3], "second.png")
    engine.hold()
    handlers.read_files([*given, second], "Balanced", tab())
    state = visit_of(handlers)
    handlers.choose_item("Balanced", tab(), clicked(number=3))
    # The first region, while it is read, and a patch.
    values = handlers.remove_some([given[2], second], tab())
    assert [row[0] for row in texts_of(values)] == ["region.png (2)", "second.png"]
    assert "second.png" in values["summary"] and state.chosen == 1
    engine.may_go.release(100)
    read_all(handlers)
    values = handlers.follow(tab())
    assert texts_of(values)[0][1].endswith("of tissue tumour")
    assert len(state.batch.items) == 2 and "second.png" in values["log"]
    # The history still has the patch, alone.
    values = handlers.open_again("Balanced", tab(), clicked(number=0))
    assert "patch.png" in values["summary"] and not values["batch"]["visible"]
    # What is open is taken away: the only one that is left opens.
    handlers.open_again("Balanced", tab(), clicked(number=1))
    values = handlers.remove_some([given[2]], tab())
    assert values["region"]["visible"] and not values["patch"]["visible"] and not values["shown"]
    assert handlers.remove_some([], tab())["summary"] == handlers.remove_files(tab())["summary"]


def test_a_synthetic_example_is_never_called_unusual(handlers, monkeypatch):
    monkeypatch.setattr(findings, "novelty_notice", lambda *_: "Looks unlike the training data.")
    values = handlers.read_example("Region", "Balanced", tab())
    assert "unlike" not in values["summary"]
    row, column = np.argwhere(np.isfinite(visit_of(handlers).region.probabilities[..., 1]))[0]
    handlers.choose_place("Balanced", tab(), clicked(row=row, column=column))
    assert visit_of(handlers).place.notice == ""
    shown = region_views.viewed_region(handlers.reader, visit_of(handlers).region)
    assert viewed.place(shown, handlers.reader, row, column, 1)["notice"] == ""


def test_a_region_gives_its_turn_away_after_a_few_patches(handlers, patches, monkeypatch):
    """Of LiteRT, for which small batches are as fast; Keras would compile again."""
    sizes = []
    predict = handlers.reader.engine.predict_on_batch

    def count(given):
        sizes.append(len(given))
        return predict(given)

    handlers.reader.engine.predict_on_batch = count
    region = uploaded(handlers, np.tile(patches[1], (3, 3, 1)))
    handlers.read_files([region], "Balanced", tab())
    together = visit_of(handlers).region.probabilities
    assert max(sizes) == 32
    monkeypatch.setattr("pcam_tf.models.engines.LiteRT", Engine)
    sizes.clear()
    handlers.read_files([region], "Balanced", tab())
    assert max(sizes) == 8
    np.testing.assert_array_equal(visit_of(handlers).region.probabilities, together)
