import json
import shutil

import pytest

from pcam_tf import data, training
from pcam_tf.errors import InputError
from pcam_tf.figures import transformer_plots
from pcam_tf.models import backbones, classifier
from pcam_tf.studies import transformers
from pcam_tf.studies.transformers import Attempt

SCRATCH = Attempt("CCT", "scratch", 64)
PRETRAINED = Attempt("CCT", "pretrained", 32)


@pytest.fixture(scope="module")
def run_dir(tiny_source, tmp_path_factory):
    """Return a study of one attempt, and of another that is its copy."""
    folder = tmp_path_factory.mktemp("study") / "run"
    transformers.study([SCRATCH], tiny_source, folder, "smoke")
    copy = folder / Attempt("CCT", "distilled", 128).folder
    shutil.copytree(folder / SCRATCH.folder, copy)
    cost = json.loads((copy / "cost.json").read_text())
    (copy / "cost.json").write_text(json.dumps(cost | {"views": 128}))
    transformers.study([PRETRAINED], tiny_source, folder, "smoke")
    return folder


def test_what_is_done_is_not_done_again(run_dir, tiny_source, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("trained again"))
    transformers.study([SCRATCH], tiny_source, run_dir, "smoke")


def test_the_table_has_the_shipped_model_and_each_attempt(run_dir, tiny_source):
    found = transformers.results(run_dir)
    assert list(found["network"]) == [transformers.SHIPPED, "CCT", "CCT", "CCT"]
    scratch = found[found["start"] == "scratch"].iloc[0]
    cnn = found.iloc[0]
    assert scratch["patches"] == scratch["views"] == 64
    assert scratch["weights"] == classifier.build(backbone="CCT", weights=None).count_params()
    assert scratch["training_flops"] == 6 * 64 * scratch["multiply_adds"]
    distilled = found[found["start"] == "distilled"].iloc[0]
    each = 3 * scratch["multiply_adds"] + cnn["multiply_adds"]
    assert distilled["training_flops"] == 2 * 128 * each
    pretrained = found[found["start"] == "pretrained"].iloc[0]
    views = 32 + data.count(tiny_source, "train")
    assert pretrained["training_flops"] == 6 * views * pretrained["multiply_adds"]
    assert scratch["difference"] == pytest.approx(scratch["test"] - cnn["test"])
    assert scratch["difference_low"] <= scratch["difference"] <= scratch["difference_high"]
    assert (found["test_patches"] == 64).all() and (found["patches_a_second"] > 0).all()
    order = list(zip(found["start"][1:], found["patches"][1:], strict=True))
    assert order == [("distilled", 128), ("pretrained", 32), ("scratch", 64)]
    rows = transformers.summary_rows(found)
    assert rows[0]["start"] == rows[0]["minus the CNN"] == "–"
    assert rows[1]["training patches"] in ("32", "64", "128")


def test_the_figure_has_a_point_for_each_attempt(run_dir):
    figure = transformer_plots.auc_by_compute(transformers.results(run_dir))
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert {text.get_text() for text in axes.texts} == {"32", "64", "128"}


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no study of transformers"):
        transformers.results(tmp_path)


def test_attempts_can_be_trained_at_their_sizes(tmp_path):
    for attempt in transformers.attempts_of("cpu"):
        recipe = transformers.recipe_of(attempt, "cpu", tmp_path)
        assert (recipe.weights == str(tmp_path)) == (attempt.start == "pretrained")
        assert recipe.unfrozen_epochs > 0 and recipe.frozen_epochs == 0
        assert recipe.patience >= recipe.unfrozen_epochs
        assert bool(recipe.teachers) == (attempt.start in ("distilled", "distilled longer"))
        assert (recipe.weights == "imagenet") == (attempt.start == "ImageNet")
    short, longer = (
        transformers.recipe_of(Attempt("CCT", start, 20000), "cpu").unfrozen_epochs
        for start in ("distilled", "distilled longer")
    )
    assert longer > short
    with pytest.raises(InputError, match="did you mean 'smoke'"):
        transformers.recipe_of(SCRATCH, "smok")


def test_the_stored_table_is_of_this_study():
    found = transformers.stored_results()
    assert len(transformers.summary_rows(found)) == len(found) > 1
    assert transformer_plots.auc_by_compute(found).axes
    assert set(found["network"]) <= {transformers.SHIPPED, *backbones.BACKBONES}
