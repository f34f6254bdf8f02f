"""`train --prevalence` and `train --add`: a chosen part of the patches, with others added."""

import numpy as np
import pandas as pd
import tiny_training
from command_runner import refused, run

from pcam_tf import data
from pcam_tf.models import backbones
from pcam_tf.task import PCAM
from pcam_tf.training import recipes


def test_train_mixes_notes_the_ids_and_refuses_the_run_of_another_mixture(
    prepared, tmp_path, monkeypatch, capfd
):
    monkeypatch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
    monkeypatch.setitem(recipes.PRESETS, "tiny", tiny_training.RECIPE)
    image = np.zeros(PCAM.shape, "uint8")
    patches = [{"id": f"generated_{number}", "label": 1, "image": image} for number in range(9)]
    data.write_source({"train": patches}, tmp_path / "added", PCAM)
    folder = tmp_path / "run"
    words = ["train", "--preset", "tiny", "--data-dir", prepared, "--run", folder, "--frozen-only"]
    more = ["--add", f"{tmp_path / 'added'}:0.3"]
    assert run(*words, "--prevalence", "0.2", *more) == 0
    capfd.readouterr()
    kept = pd.read_csv(folder / "training-ids.csv")["id"]
    assert len(kept) == 120 and kept.is_unique
    described = (folder / "recipe.json").read_text()
    assert '"train": 171' in described
    refused(run(*words, "--prevalence", "0.1", *more), capfd, "holds another run")
    refused(run(*words, "--prevalence", "0.2"), capfd, "holds another run")
