"""Patches without tissue, files that are alike, and scales that are entered as text."""

import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pcam_tf import __main__, evaluation, slides, synthetic
from pcam_tf.app import (
    batches,
    findings,
    judgements,
    overlays,
    pictures,
    rows,
    views,
    visit,
    visit_files,
    visit_tables,
)  # fmt: skip
from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.studies import novelty
from pcam_tf.task import PCAM

SETTING, POINT = "Balanced", findings.Point(0.4, "meaning")


class Constant:
    """An engine that predicts 0.02 for any patch."""

    task = PCAM

    def predict_on_batch(self, patches):
        return np.full((len(patches), 1), 0.02, "float32")


@pytest.fixture
def reader(monkeypatch):
    """Return a reader of an engine that predicts 0.02 and of maps that are flat."""
    monkeypatch.setattr(findings, "explanation", lambda *_: np.ones((96, 96), "float32"))
    return findings.Reader(None, Constant(), PCAM, "a model", 1.0, {SETTING: POINT})


@pytest.fixture(scope="module")
def tissue():
    """Return a synthetic patch."""
    return synthetic.draw_patches(1, split="test").image[0]


def filled(colour):
    return np.full(PCAM.shape, colour, "uint8")


def read(reader, folder, *given, mpp=PCAM.mpp):
    """Return the visit after pictures (name, pixels) were read and logged."""
    state = visit.Visit(folder)
    mpp = pictures.entered_mpp(mpp)
    given = [(name, image_files.at_scale(pixels, mpp)) for name, pixels in given]
    batches.read_pictures(reader, state, given)
    visit_tables.add_to_log(reader, state, state.batch, range(len(given)), POINT, SETTING)
    state.setting = SETTING
    return state


def grain(mean):
    noise = np.random.default_rng(0).normal(mean, 2, PCAM.shape[:2])
    return np.repeat(noise.round().clip(0, 255).astype("uint8")[..., None], 3, axis=-1)


EMPTY = {
    "white": filled(255),
    "black": filled(0),
    "grey": filled(128),
    "one pink": filled((220, 120, 180)),
    "one dark blue": filled((0, 0, 20)),
    "glass with grain": grain(240),
    "beyond the scan, with grain": grain(4),
}


@pytest.mark.parametrize("kind", EMPTY)
def test_a_patch_without_tissue_is_never_called(reader, tmp_path, kind):
    state = read(reader, tmp_path, ("one.png", EMPTY[kind]))
    patch = state.chosen_patch
    assert not slides.has_tissue(EMPTY[kind]) and not patch.has_tissue
    summary = views.summary(reader, state, POINT)
    assert "No tissue" in summary and "normal" not in summary and "%" not in summary
    answer = views.as_json(reader, state, POINT)
    assert answer["kind"] == "patch" and answer["call"] == "no tissue"
    assert answer["probability"] is None and answer["unlike_training"] == ""
    row = visit_tables.log_table(state).iloc[0]
    assert row["call"] == "no tissue" and row["calibrated_probability"] == ""
    files = visit_files.write(reader, state, POINT, SETTING)
    table = pd.read_csv(files["predictions"])
    assert table["probability"].isna().all() and list(table["note"]) == ["no tissue"]
    report = files["report"].read_text("utf-8")
    assert "No tissue" in report and "Called" not in report and "Explanation" not in report
    value = overlays.patch_value(reader, patch, POINT)
    assert "no tissue" in value["legend"] and value["square"] is None and value["slider"] == ""
    with pytest.raises(InputError, match="there is no tissue in this patch"):
        judgements.judged(reader, state, POINT, "", agrees=True)


def test_tissue_in_a_corner_is_tissue(reader, tissue, tmp_path):
    pixels = filled(255)
    pixels[:24, :24] = tissue[:24, :24]
    state = read(reader, tmp_path, ("one.png", pixels))
    assert views.as_json(reader, state, POINT)["call"] == "normal"


def test_a_region_of_one_colour_shows_no_tissue(reader, tmp_path):
    pixels = np.full((200, 200, 3), (220, 120, 180), "uint8")
    with pytest.raises(InputError, match="shows no tissue"):
        read(reader, tmp_path, ("region.png", pixels))


def test_of_several_patches_the_empty_ones_are_counted(reader, tissue, tmp_path):
    white = EMPTY["white"]
    state = read(reader, tmp_path, ("a.png", tissue), ("b.png", white), ("c.png", white))
    assert "3 patches: 0 called tumour, 2 without tissue" in views.summary(reader, state, POINT)
    cells = re.findall(r"<td.*?</td>", rows.batch(reader, state, POINT), re.S)
    texts = [re.sub("<.*?>", "", cell, flags=re.S).strip() for cell in cells]
    assert np.reshape(texts, (3, 3)).tolist() == [
        ["a.png", "normal", "2 %"],
        ["b.png", "no tissue", ""],
        ["c.png", "no tissue", ""],
    ]
    table = visit_tables.predictions_table(reader, state)
    assert list(table["note"]) == ["", "no tissue", "no tissue"]
    assert list(table["probability"].isna()) == [False, True, True]
    assert list(visit_tables.log_table(state)["call"]) == ["no tissue", "no tissue", "normal"]
    state = read(reader, tmp_path, ("b.png", white), ("c.png", white))
    assert "2 patches: 2 without tissue" in views.summary(reader, state, POINT)


def test_a_table_without_empty_patches_has_its_usual_columns(reader, tissue, tmp_path):
    state = read(reader, tmp_path, ("a.png", tissue))
    columns = ["id", "label", "probability", "calibrated_probability"]
    assert list(visit_tables.predictions_table(reader, state)) == columns


@pytest.mark.parametrize("kind", ["patches", "region"])
def test_the_table_has_the_models_own_probability_and_the_one_shown(
    reader, tissue, tmp_path, monkeypatch, kind
):
    """Other programs and `evaluate` read the model's own, with the calibrated one beside it."""
    reader = reader._replace(temperature=2.0, cell_temperature=3.0)
    region = ("region.png", np.tile(tissue, (2, 2, 1)))
    pictures = [region] if kind == "region" else [("a.png", tissue), ("b.png", tissue[::-1])]
    state = read(reader, tmp_path, *pictures)
    files = visit_files.write(reader, state, POINT, SETTING)
    table = pd.read_csv(files["predictions"])
    temperature = 3.0 if kind == "region" else 2.0
    odds = (0.02 / 0.98) ** (1 / temperature)
    np.testing.assert_allclose(table["probability"], 0.02, rtol=1e-5)
    np.testing.assert_allclose(table["calibrated_probability"], odds / (1 + odds), rtol=1e-5)
    shown = state.region.probabilities if kind == "region" else state.batch.patches[0].probabilities
    assert np.nanmax(shown[..., 1]) == pytest.approx(odds / (1 + odds))

    # Once its labels are filled in, the commands read it, and take the model's own.
    table["label"] = np.arange(len(table)) % 2
    table.to_csv(files["predictions"], index=False)
    read_again = evaluation.read_predictions(files["predictions"])
    np.testing.assert_allclose(evaluation.predictions_table.probabilities_of(read_again), 0.02)
    monkeypatch.chdir(tmp_path)
    if kind == "region":
        (tmp_path / "other.csv").write_bytes(files["predictions"].read_bytes())
        assert __main__.main(["evaluate", "predictions.csv"]) == 0
        assert __main__.main(["compare", "predictions.csv", "other.csv"]) == 0


@pytest.mark.parametrize("names", [("a.png", "a.png"), ("a.png", "b.png"), ("a:.png", "a;.png")])
@pytest.mark.parametrize("alike", [True, False])
def test_two_files_have_two_ids(reader, tissue, tmp_path, names, alike):
    second = tissue if alike else tissue[::-1]
    state = read(reader, tmp_path, (names[0], tissue), (names[1], second), (names[0], tissue))
    ids = list(visit_tables.predictions_table(reader, state)["id"])
    assert len(set(ids)) == 3 and set(ids) == set(visit_tables.log_table(state)["id"])
    # A patch that is read again has the id that it had: the last of its reviews counts.
    again = read(reader, tmp_path, (names[0], tissue))
    assert again.chosen_patch.patch_id == ids[0]


@pytest.mark.parametrize(
    ("entered", "expected"),
    [
        ("0.486", 0.486), (" 0.486 ", 0.486), ("0,486", 0.486), (1, 1.0), ("1", 1.0), (0.5, 0.5),
        ("", None), (" ", None), (None, None), (0, None), ("0", None), (0.0, None),
    ],
)  # fmt: skip
def test_a_scale_is_converted(entered, expected):
    assert pictures.entered_mpp(entered) == expected


@pytest.mark.parametrize(
    "entered",
    ["a", "0.25 um", "1,000,000", "NaN", float("nan"), "inf", float("inf"), -1, "-0.25", 1e-9,
     "1e9", True, False, [0.25], {"mpp": 0.25}, "0.25\n0.5"],
)  # fmt: skip
def test_a_scale_that_is_none_is_refused_in_a_line(reader, tissue, tmp_path, entered):
    with pytest.raises(InputError, match=r"give a number from 0\.1 to 5") as error:
        read(reader, tmp_path, ("one.png", tissue), mpp=entered)
    assert "\n" not in str(error.value)


def test_a_scale_as_text_reads_as_the_number_does(reader, tissue, tmp_path):
    large = np.asarray(Image.fromarray(tissue).resize((192, 192)))
    patches = [
        read(reader, tmp_path, ("one.png", large), mpp=mpp).chosen_patch.patch
        for mpp in (0.486, "0.486", "0,486")
    ]
    for patch in patches[1:]:
        np.testing.assert_array_equal(patch, patches[0])


def test_doubts_about_a_scale_are_shown_and_the_file_is_not_called_silent(reader, tmp_path, tissue):
    picture = image_files.at_scale(tissue, PCAM.mpp)
    state = visit.Visit(tmp_path)
    doubt = "its resolution states 352.8 microns per pixel (72 dots per inch): not used"
    for doubts in ((), (doubt,)):
        assumed = picture._replace(doubts=doubts, is_assumed=True)
        batches.read_pictures(reader, state, [("one.png", assumed)])
        told = " ".join(state.item.notes)
        assert "0.972" in told and "Read again" in told
        assert (doubt in told) == bool(doubts) != ("does not state" in told)


def test_a_notice_of_novelty_is_rarer_on_the_page_than_in_the_study(reader, monkeypatch, tissue):
    noticed = []
    for score in (novelty.THRESHOLD + 1, 41.0):
        monkeypatch.setattr(novelty, "score", lambda patches, score=score: np.array([score]))
        noticed.append(findings.novelty_notice(reader, tissue[None]))
    assert noticed[0] == "" and noticed[1].startswith("Looks unlike the training data: ")
