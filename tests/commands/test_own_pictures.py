"""From pictures as public sets have them to an evaluated model, by the commands of the README."""

import dataclasses
import json

import pandas as pd
import picture_layouts
import pytest
import tiny_training
from command_runner import run

from pcam_tf import synthetic
from pcam_tf.models import backbones
from pcam_tf.training import recipes


@pytest.fixture(autouse=True)
def tiny_preset(monkeypatch):
    """Make the tiny network and its recipe known to the commands."""
    recipe = dataclasses.replace(
        tiny_training.RECIPE, frozen_epochs=1, frozen_views=1, unfrozen_epochs=1,
        stain_strength=0.0, shift_px=0.0, test_time_augmentation=False,
    )  # fmt: skip
    monkeypatch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
    monkeypatch.setitem(recipes.PRESETS, "tiny", recipe)


@pytest.mark.parametrize(
    ("write", "options", "has_slides"),
    [
        (picture_layouts.kaggle, ["--split-by", "picture"], False),
        (picture_layouts.wilds, [], True),
    ],
)
def test_a_public_layout_goes_from_pictures_to_a_report(
    tmp_path, capsys, write, options, has_slides
):
    write(tmp_path / "pictures", list(synthetic.draw_patches(60, split="train").image))
    known = ["--data-dir", tmp_path / "data"]
    assert run("prepare", "--from-images", tmp_path / "pictures", *options, *known) == 0
    capsys.readouterr()
    assert run("audit", *known) == 0
    assert ("slides with" in capsys.readouterr().out) == has_slides
    folder = tmp_path / "run"
    assert run("train", "--preset", "tiny", *known, "--run", folder) == 0
    table = tmp_path / "test.csv"
    assert run("predict", "--model", folder, *known, "--output", table) == 0
    predicted = pd.read_csv(table)
    assert predicted["probability"].between(0, 1).all() and set(predicted["label"]) == {0, 1}
    assert ({"group", "hospital"} <= set(predicted)) == has_slides
    assert run("evaluate", table, "--output", tmp_path / "report.json") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["patches"] == len(predicted)
    assert ("independent" in report["intervals"]) != has_slides
