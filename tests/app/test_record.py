"""What is recorded is what the reviewer saw, and an answer belongs to its input."""

import html
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from visitors import clicked, tab, uploaded

from pcam_tf import synthetic
from pcam_tf.app import findings, private_files, visit
from pcam_tf.app.handlers import Handlers
from pcam_tf.errors import InputError
from pcam_tf.task import PCAM

POINTS = {
    "Balanced": findings.Point(0.5, "balanced"),
    "Misses few tumours": findings.Point(0.2, "sensitive"),
}


class Engine:
    """An engine that predicts 0.3 for any patch."""

    task = PCAM

    def predict_on_batch(self, patches):
        return np.full((len(patches), 1), 0.3, "float32")


@pytest.fixture
def handlers(tmp_path):
    """Return handlers of a constant model without explanations, and their file of reviews."""
    reader = findings.Reader(None, Engine(), PCAM, "a model", 1.0, POINTS, method=None)
    files = private_files.PrivateFiles(tmp_path / "private")
    yield Handlers(reader, files, tmp_path / "reviews.csv")
    files.close()


@pytest.fixture(scope="module")
def patches():
    """Return two synthetic patches."""
    return synthetic.draw_patches(2, split="test").image


def judge(handlers, values, request=None, agrees=False, reviewer="", unsure=False, comment=""):
    act = handlers.accept if agrees else handlers.disagree
    return act(values["shown"], reviewer, unsure, comment, request or tab())


def saved(handlers):
    return pd.read_csv(handlers.reviews_file, keep_default_na=False)


def test_a_judgement_is_of_the_answer_that_was_shown(handlers, patches):
    """The reviewer sees A; B is read before the click arrives."""
    shown = handlers.read_files([uploaded(handlers, patches[0], "a.png")], "Balanced", tab())
    handlers.read_files([uploaded(handlers, patches[1], "b.png")], "Balanced", tab())
    with pytest.raises(InputError, match="nothing was saved"):
        judge(handlers, shown)
    assert not handlers.reviews_file.exists()


def test_a_judgement_at_another_setting_is_refused(handlers, patches):
    shown = handlers.read_files([uploaded(handlers, patches[0])], "Balanced", tab())
    handlers.change_setting("Misses few tumours", tab())
    with pytest.raises(InputError, match="nothing was saved"):
        judge(handlers, shown)


def test_a_disagreement_keeps_its_sense_at_another_setting(handlers, patches):
    handlers.read_files([uploaded(handlers, patches[0])], "Balanced", tab())
    shown = handlers.change_setting("Misses few tumours", tab())
    judge(handlers, shown)
    row = saved(handlers).iloc[0]
    assert (row["label"], row["call"], row["agrees"]) == (0, 1, "no")
    assert row["setting"] == "Misses few tumours" and row["threshold"] == 0.2
    back = handlers.change_setting("Balanced", tab())
    text = 'The reviewer disagrees: normal. The model called tumour at "Misses few tumours".'
    assert "Called normal" in back["summary"] and back["review"] == text
    content = Path(back["report"]).read_text(encoding="utf-8")
    assert "Called normal" in content and "The model called tumour at" in content
    assert html.escape(text, quote=True).replace("&quot;", "&#34;") in back["log"]


def test_a_row_of_the_history_opens_again_with_its_answer(handlers, patches, monkeypatch):
    """A batch is read, then a region and two places of it; then rows are opened."""
    files = [uploaded(handlers, pixels, f"{k}.png") for k, pixels in enumerate(patches)]
    handlers.read_files(files, "Misses few tumours", tab())
    region = uploaded(handlers, np.tile(patches[0], (3, 3, 1)), "region.png")
    handlers.read_files([region], "Balanced", tab())
    for cell in ((1, 1), (2, 3)):
        handlers.choose_place("Balanced", tab(), clicked(row=cell[0], column=cell[1]))
    state = handlers.visits.find(tab().session_hash)
    assert [row["number"] for row in state.log] == [0, 1, 2, 3, 4]

    def opened(number):
        return handlers.open_again("Balanced", tab(), clicked(number=number))

    # A place of the region that is still there: the viewer is told to go there.
    values = opened(3)
    assert values["region"]["value"]["go"] == (1, 1) and "files" not in values
    assert state.region and state.chosen_patch.cell == (1, 1) and values["shown"]
    handlers.choose_place("Balanced", tab(), clicked(row=1, column=1))
    assert len(state.log) == 5  # that it follows is no further look

    # A patch of the batch: all of it, at the setting of its answer, and no other file beside it.
    values = opened(1)
    assert state.region is None and len(state.batch.patches) == 2 and state.uploads == []
    assert values["files"] is None and values["setting"] == "Misses few tumours"
    assert "Called tumour" in values["summary"] and "1.png" in values["summary"]
    assert 'data-number="1" aria-current="true"' in values["batch"]["value"]
    judge(handlers, values)
    assert saved(handlers)["id"].iloc[-1] == state.batch.patches[1].patch_id

    # The region of before, and a place of it.
    assert opened(2)["region"]["visible"] and "go" not in opened(2)["region"]["value"]
    assert opened(4)["region"]["value"]["go"] == (2, 3) and state.chosen_patch.cell == (2, 3)

    # There is no more room for it: a place of it opens alone, and the region cannot be opened.
    monkeypatch.setattr(visit, "KEPT_REGION_BYTES", 0)
    handlers.read_files([region], "Balanced", tab())
    assert len(list(state.folder.rglob("*.npy"))) == 1
    values = opened(4)
    assert values["patch"]["visible"] and not values["region"]["visible"]
    assert state.chosen_patch.cell == (2, 3) and values["shown"]
    with pytest.raises(InputError, match="not kept any more"):
        opened(2)


def test_a_refused_file_leaves_no_answer_and_its_reason(handlers, patches):
    shown = handlers.read_files([uploaded(handlers, patches[0])], "Balanced", tab())
    with pytest.raises(InputError) as error:
        handlers.read_files([uploaded(handlers, patches[0][:40])], "Balanced", tab())
    values = handlers.refused(tab(), str(error.value))
    assert "needed" in values["summary"] and values["shown"] == ""
    assert not values["patch"]["visible"] and not values["review_row"]["visible"]
    with pytest.raises(InputError, match="nothing was saved"):
        judge(handlers, shown)
    # Nor does another setting bring the old answer back.
    assert set(handlers.change_setting("Misses few tumours", tab())) == {"meaning"}


def test_one_unreadable_upload_does_not_take_the_others_with_it(handlers, patches):
    good, bad = (uploaded(handlers, patches[0], f"{name}.png") for name in ("good", "bad"))
    Path(bad).write_bytes(Path(good).read_bytes()[:300])
    values = handlers.read_files([bad, good], "Balanced", tab())
    assert "Called normal" in values["summary"]
    assert "Left out: bad.png is not a picture" in values["summary"]
    with pytest.raises(InputError, match="damaged"):
        handlers.read_files([bad, bad], "Balanced", tab())


def test_without_its_file_there_is_no_answer(handlers, patches):
    shown = handlers.read_files([uploaded(handlers, patches[0])], "Balanced", tab())
    values = handlers.remove_files(tab())
    assert values["shown"] == "" and not values["patch"]["visible"]
    with pytest.raises(InputError, match="nothing was saved"):
        judge(handlers, shown)
    with pytest.raises(InputError, match="give a picture first"):
        handlers.read_again("0.5", "Balanced", tab())


def test_an_answer_has_the_setting_that_was_chosen_while_it_was_read(handlers, patches):
    """The setting changes during the prediction."""
    predict = Engine.predict_on_batch

    def change(engine, images):
        handlers.change_setting("Misses few tumours", tab())
        return predict(engine, images)

    handlers.reader.engine.predict_on_batch = change.__get__(handlers.reader.engine)
    values = handlers.read_files([uploaded(handlers, patches[0])], "Balanced", tab())
    assert values["setting"] == "Misses few tumours" and "Called tumour" in values["summary"]
    assert values["meaning"] == "sensitive"


def test_a_place_without_tissue_leaves_no_answer_of_another_place(handlers, patches):
    region = np.full((192, 384, 3), 255, "uint8")
    region[:96, :96] = patches[0]
    handlers.read_files([uploaded(handlers, region)], "Balanced", tab())

    def choose(row, column):
        return handlers.choose_place("Balanced", tab(), clicked(row=row, column=column))

    shown = choose(1, 1)
    assert shown["shown"]
    values = choose(5, 11)
    assert values["shown"] == "" and "no tissue at this place" in values["summary"]
    assert values["region"]["visible"] and not values["patch"]["visible"]
    with pytest.raises(InputError, match="nothing was saved"):
        judge(handlers, shown)


def test_a_review_says_who_and_how_sure(handlers, patches):
    shown = handlers.read_files([uploaded(handlers, patches[0])], "Balanced", tab())
    values = judge(handlers, shown, reviewer="A. B.", unsure=True, comment="=1+1\nout of focus")
    row = saved(handlers).iloc[0]
    assert (row["reviewer"], row["unsure"]) == ("A. B.", "yes")
    assert row["comment"] == "'=1+1 out of focus"
    assert "The reviewer (A. B.) disagrees but is unsure: tumour." in values["review"]
    assert not values["unsure"] and values["comment"] == ""


def test_two_tabs_do_not_see_each_other(handlers, patches):
    one = handlers.read_files([uploaded(handlers, patches[0])], "Balanced", tab("one"))
    two = handlers.read_files([uploaded(handlers, patches[1])], "Balanced", tab("two"))
    handlers.leave(tab("two"))
    judge(handlers, one, tab("one"))
    with pytest.raises(InputError, match="give a picture first"):
        judge(handlers, two, tab("two"))
    assert len(saved(handlers)) == 1


def test_a_larger_picture_without_a_scale_is_asked_for_it_before_an_answer(handlers, patches):
    file = uploaded(handlers, np.tile(patches[0], (4, 4, 1)), mpp=None)
    with pytest.raises(InputError, match="does not state its scale: choose"):
        handlers.read_files([file], "Balanced", tab())
    assert not handlers.visits.find(tab().session_hash).region
    values = handlers.read_at_power("20×", "Balanced", tab())
    assert values["mpp"] == 0.5 and values["power"] is None
    assert "tissue is called tumour" in values["summary"] and values["region"]["visible"]


def test_a_message_names_no_folder_of_the_server(handlers):
    for file in (handlers.reviews_file, handlers.files.visits / "a" / "region.npy"):
        text = handlers.without_folders(f"cannot write {file}: No space left on device.")
        assert text == f"cannot write {file.name}: No space left on device."
