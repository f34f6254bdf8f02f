"""The repository itself: its metadata, its prose, and the models that it ships."""

import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from pcam_tf import data, evaluation, prediction, task
from pcam_tf.commands import command_line
from pcam_tf.evaluation import reports
from pcam_tf.models import classifier, engines, model_files
from pcam_tf.training import phases, recipes

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
@pytest.mark.parametrize("preset", recipes.PRESETS)
def test_pictures_of_patches_stay_out_of_the_repository_at_every_preset(preset):
    picture = f"figures/{preset}/04_errors_patches.png"
    assert (
        subprocess.run(["git", "check-ignore", "-q", picture], cwd=ROOT, check=False).returncode
        == 0
    )


def test_there_is_one_address_of_the_repository():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    address = metadata["project"]["urls"]["Repository"]
    owner_and_name = address.removeprefix("https://github.com/")
    for path in [ROOT / "README.md", ROOT / "CITATION.cff", *NOTEBOOKS]:
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"github(?:\.com)?/([\w.-]+/pcam_tf)", text)
        assert found, path
        assert set(found) == {owner_and_name}, path


def test_the_package_needs_what_requirements_say_but_for_jupyter():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line.split("#")[0].strip() for line in lines]
    required = [each for each in required if each]
    extras = metadata["project"]["optional-dependencies"].values()
    assert sorted(required) == sorted(
        [*metadata["project"]["dependencies"], *itertools.chain(*extras), "jupyter"]
    )


def test_the_readme_names_every_folder_and_its_commands_are_real():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for folder in (ROOT / "pcam_tf").iterdir():
        if (folder / "__init__.py").exists():
            assert f"`{folder.name}/`" in readme, folder.name
    for line in re.findall(r"^python -m pcam_tf (.+)$", readme, flags=re.MULTILINE):
        words = line.split("#")[0].split()
        name = words[: 2 if words[0] in command_line.GROUPS else 1]
        command = [sys.executable, "-m", "pcam_tf", *name, "--help"]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for word in words[1:]:
            if word.startswith("--"):
                assert word in usage, line


def test_the_shipped_model_is_that_of_its_recipe():
    path = model_files.SHIPPED_MODEL.with_name("recipe.json")
    described = json.loads(path.read_text(encoding="utf-8"))["recipe"]
    assert recipes.from_json(described) == recipes.preset("slides")
    built = phases.build(dataclasses.replace(recipes.preset("slides"), weights=None), task.PCAM)
    assert [each.shape for each in classifier.load().weights] == [w.shape for w in built.weights]


def test_the_table_of_the_model_card_is_that_of_the_shipped_report():
    card = (ROOT / "pcam_tf" / "shipped" / "MODEL_CARD.md").read_text(encoding="utf-8")
    shipped = reports.read_run_report(model_files.SHIPPED_MODEL.parent)
    assert reports.markdown_table(reports.summary_rows(shipped)) in card


def test_the_results_in_the_readme_are_those_of_the_shipped_model():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shipped = reports.read_run_report(model_files.SHIPPED_MODEL.parent)
    rows = [row for row in reports.summary_rows(shipped) if row["split"] == "test"]
    assert reports.markdown_table(rows) in readme
    point = shipped["unfrozen"]["operating_points"]["youden"]
    assert f"operating point {point['threshold']:.3f}" in readme
    for name, counts in zip(("normal", "tumour"), point["confusion"], strict=True):
        assert re.search(rf"\| {name} +\| {counts[0]} +\| {counts[1]} +\|", readme), name


def test_the_shipped_model_is_small_and_ranks_synthetic_slides(tiny_source):
    """It was trained on real tissue; drawn tissue is foreign to it, yet not wholly."""
    assert model_files.SHIPPED_MODEL.stat().st_size < 10_000_000
    table = prediction.predict_split(classifier.load(), tiny_source, "test")
    assert evaluation.auc_interval(table["label"], table["probability"])[0] > 0.6


@pytest.mark.real
def test_the_shipped_model_does_on_real_patches_what_its_card_says(real_source):
    if data.count(real_source, "test") != 1500:
        pytest.skip("the card is about the subset of 1,500 test patches")
    table = prediction.predict_split(
        engines.load(), real_source, "test", test_time_augmentation=True
    )
    claimed = reports.read_run_report(model_files.SHIPPED_MODEL.parent)["unfrozen"]
    found = evaluation.report(table)
    # Processors and libraries round differently.
    for name in ("auc", "log_loss", "brier"):
        value = claimed["metrics"][name]["value"]
        assert found["metrics"][name]["value"] == pytest.approx(value, abs=5e-4)
    for name, point in claimed["operating_points"].items():
        counts = evaluation.confusion(table["label"], table["probability"], point["threshold"])
        np.testing.assert_allclose(counts, point["confusion"], atol=2, err_msg=name)


def test_every_link_and_picture_in_the_prose_exists():
    cards = (ROOT / "pcam_tf").glob("shipped/**/*.md")
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *cards]:
        text = document.read_text(encoding="utf-8")
        for link, picture in re.findall(r"\]\(([^):]+)\)|src=\"([^\":]+)\"", text):
            name, _, section = (link or picture).partition("#")
            target = document.parent / name if name else document
            assert target.exists(), f"{document.name}: {name}"
            if section:
                headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), flags=re.M)
                slugs = [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]
                assert section in slugs, f"{document.name}: {name}#{section}"


@pytest.mark.skipif(os.name == "nt", reason="make is not on Windows")
def test_another_python_is_refused_in_one_line(tmp_path):
    pretender = tmp_path / "python2"
    pretender.write_text('#!/bin/sh\ncase "$2" in *print*) echo 2.7.18;; *) exit 1;; esac\n')
    pretender.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    result = subprocess.run(
        ["make", "reproduce", f"PYTHON={pretender}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.splitlines()[0] == (
        f"error: pcam_tf needs Python 3.11, 3.12 or 3.13, and {pretender} is '2.7.18': "
        "run PYTHON=python3.12 make reproduce"
    )
