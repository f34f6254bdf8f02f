"""Remedies: what each trains on; the study's metrics, pairing and guard of the generator."""

import dataclasses
import types

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import tiny_generator
import tiny_training
from tiny_generator import RECIPE

from pcam_tf import data, training
from pcam_tf.errors import InputError
from pcam_tf.evaluation import intervals
from pcam_tf.figures import remedy_plots
from pcam_tf.gan import (
    fine_tuned_remedies,
    frozen_remedies,
    remedies,
    study,
    study_design,
    study_tables,
)
from pcam_tf.models import backbones
from pcam_tf.task import PCAM


@pytest.fixture(scope="module")
def pool():
    """Return a pool in which each kind of patch has a number of its own in the first feature."""
    kinds = {"normal": (0, 200), "tumour": (1, 20), "augmented_normal": (2, 200),
             "augmented_tumour": (3, 80), "generated": (4, 400)}  # fmt: skip
    rng = np.random.default_rng(0)
    made = {}
    for name, (number, count) in kinds.items():
        values = rng.normal(number % 2, 1, (count, 6)).astype("float32")
        values[:, 0] = number
        made[name] = values
    made["generated"][:, 1:] += 1
    return remedies.Pool(**made)


def kinds_of(planned):
    return np.bincount(planned.features[:, 0].astype(int), minlength=5).tolist()


def test_each_remedy_trains_on_the_patches_that_it_says(pool):
    expected = {
        "plain": [200, 20, 0, 0, 0],
        "class weights": [200, 20, 0, 0, 0],
        "focal loss": [200, 20, 0, 0, 0],
        "oversampling + augmentation": [100, 100, 100, 100, 0],
        "generated": [200, 20, 0, 0, 180],
        "generated + class weights": [200, 20, 0, 0, 20],
    }
    for remedy, counts in expected.items():
        planned = remedies.plan(remedy, pool, seed=0)
        assert kinds_of(planned) == counts, remedy
        kinds = planned.features[:, 0]
        np.testing.assert_array_equal(planned.labels, np.isin(kinds, [1, 3, 4]))
        assert planned.class_weights == remedy.endswith("class weights")
        assert planned.focal == (remedy == "focal loss")


def test_the_selected_patches_are_those_that_the_classifier_is_surest_of(pool, monkeypatch):
    monkeypatch.setattr(remedies, "fit", lambda planned, seed: None)
    monkeypatch.setattr(remedies, "probabilities", lambda head, features: features[:, 1])
    planned = remedies.plan("generated, selected", pool, seed=0)
    chosen = planned.features[planned.features[:, 0] == 4][:, 1]
    assert len(chosen) == 180
    assert chosen.min() >= np.sort(pool.generated[:360, 1])[-180]


def test_a_head_is_the_same_for_one_seed_and_learns(pool):
    planned = remedies.plan("class weights", pool, seed=0)
    first, again = (remedies.fit(planned, seed=1, steps=40) for _ in range(2))
    values = remedies.probabilities(first, planned.features)
    np.testing.assert_array_equal(values, remedies.probabilities(again, planned.features))
    assert intervals.auc(planned.labels, values) > 0.75


def test_a_head_begins_at_the_share_of_tumour_that_its_loss_sees(pool):
    for remedy, share in (("plain", 20 / 220), ("class weights", 0.5), ("generated", 0.5)):
        planned = remedies.plan(remedy, pool, seed=0)
        values = remedies.probabilities(remedies.fit(planned, seed=0, steps=1), planned.features)
        assert values.mean() == pytest.approx(share, abs=0.01), remedy


def test_metrics_at_a_prevalence_are_those_counted_by_hand():
    labels = np.array([0] * 20 + [1] * 4)
    scores = np.concatenate([np.arange(20) / 40, [0.47, 0.48, 0.9, 0.1]])
    # 19 of 20 normal patches are at most 0.45: three of four tumour patches are above.
    assert study_tables.sensitivity_at(labels, scores, 0.95) == 0.75
    weights = study_tables.prevalence_weights(labels, 0.05)
    assert weights.mean() == pytest.approx(1)
    assert weights[labels == 1].sum() / weights.sum() == pytest.approx(0.05)
    certain = study_tables.calibration_error(
        np.array([0, 1]), np.array([0.1, 0.9]), np.array([1.0, 3.0])
    )
    assert certain == pytest.approx(0.1)
    expected = sklearn.metrics.average_precision_score(labels, scores, sample_weight=weights)
    assert study_tables.average_precision(labels, scores, weights) == pytest.approx(expected)


def tables(gain, count=200):
    rng = np.random.default_rng(0)
    label = np.arange(count) % 2
    base = rng.normal(size=count) + label
    return {
        (0.05, name, seed): pd.DataFrame({
            "id": [f"p{number}" for number in range(count)],
            "label": label,
            "probability": 1 / (1 + np.exp(-(base + extra * label + rng.normal(0, 0.01, count)))),
        })
        for name, extra in (("plain", 0), ("better", gain), ("same", 0))
        for seed in (0, 1)
    }  # fmt: skip


def test_a_remedy_that_helps_is_found_and_one_that_does_not_is_not():
    found = study_tables.results(tables(gain=2.0), resamples=100)
    main = found[found["metric"] == "sensitivity at 95 % specificity"].set_index("remedy")
    assert main.loc["better", "difference_low"] > 0.1 and main.loc["better", "p_holm"] < 0.05
    assert main.loc["same", "p_holm"] > 0.05
    assert np.isnan(main.loc["plain", "p"])
    assert (found["p_holm"].dropna() >= found["p"].dropna()).all()
    rows = study_tables.table_rows(found)
    assert [row["remedy"] for row in rows] == ["plain", "better", "same"]
    figure = remedy_plots.sensitivity_by_prevalence(found, "AUC")
    assert figure.axes[0].get_ylabel().startswith("AUC")


def turned(images, training):
    return images[:, ::-1]


def generator_that_saw(ids):
    recipe = dataclasses.replace(RECIPE, side_px=32)
    return types.SimpleNamespace(
        training_ids_sha256=study_design.digest(sorted(ids)), recipe=recipe, digest="0" * 64
    )


def test_a_study_resumes_and_takes_only_a_generator_of_its_own_patches(
    tiny_source, tmp_path, monkeypatch
):
    monkeypatch.setattr(remedies, "fit", lambda planned, seed: planned.features.mean(axis=0))
    monkeypatch.setattr(remedies, "probabilities", lambda head, found: (found * head).mean(axis=1))
    monkeypatch.setattr(frozen_remedies.augmentation, "layers_of", lambda recipe, seed: [turned])
    monkeypatch.setattr(
        frozen_remedies.generated, "images",
        lambda _, label, count, seed: iter([tiny_generator.drawn(count).image]),
    )  # fmt: skip
    asked = study.Study(tiny_source, tmp_path, 32, tiny_generator.features, splits=("validation",))
    ids = np.concatenate(study._ids(asked, [0.2])[0.2])
    own = generator_that_saw(ids)
    found = study.run(asked, [own], [0.2], [0])["validation"]
    assert {key[1] for key in found} == set(remedies.REMEDIES)
    assert all(len(table) == 64 for table in found.values())
    note = tmp_path / "study.json"
    note.write_text('{"splits": ["validation"], "side_px": 32, "generators": {}}')  # as once
    untouched = dataclasses.replace(asked, features=None)
    again = study.run(untouched, [own], [0.2], [0])["validation"]
    assert all(found[key].equals(again[key]) for key in found)
    without = study.run(untouched, [], [0.2], [0])["validation"]
    assert not {key[1] for key in without} & set(remedies.GENERATED)
    with pytest.raises(InputError, match="has seen other patches"):
        study.run(asked, [generator_that_saw(ids[1:])], [0.2], [0])
    wider = dataclasses.replace(asked, side_px=48)
    with pytest.raises(InputError, match="holds another study"):
        study.run(wider, [], [0.2], [0])
    fresh = dataclasses.replace(wider, folder=tmp_path / "fresh")
    with pytest.raises(InputError, match="makes 32 px and the study sees 48"):
        study.run(fresh, [own], [0.2], [0])
    with pytest.raises(InputError, match="choose 32 to 96 px"):
        study.run(dataclasses.replace(fresh, side_px=16), [], [0.2], [0])
    assert not fresh.folder.exists()


def test_networks_are_trained_on_what_each_remedy_says_and_not_kept(
    tiny_source, tmp_path, monkeypatch
):
    monkeypatch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
    recipe = dataclasses.replace(
        tiny_training.RECIPE, crop_px=32, unfrozen_epochs=1, epoch_steps=2, frozen_epochs=1
    )
    asked = study.Study(tiny_source, tmp_path, 32, recipe=recipe, splits=("validation",))
    ids = study._ids(asked, [0.2])[0.2]
    generator = types.SimpleNamespace(**vars(generator_that_saw(np.concatenate(ids))), task=PCAM)
    monkeypatch.setattr(
        fine_tuned_remedies.generated, "images",
        lambda _, label, count, seed: iter([tiny_generator.drawn(count).image]),
    )  # fmt: skip
    seen = []

    def counted(recipe, mixture, folder, **options):
        added = [data.count(each.source, "train") for each in mixture.additions]
        labels = [int(patch["label"]) for patch in mixture.as_dataset("train")]
        seen.append((recipe, np.bincount(labels).tolist(), added))
        return training.train(recipe, mixture, folder, **options)

    monkeypatch.setattr(fine_tuned_remedies, "training", types.SimpleNamespace(train=counted))
    (tmp_path / "patches" / "all" / ".preparing-pcam").mkdir(parents=True)  # as after a kill
    found = study.run(asked, [generator], [0.2], [0])["validation"]
    assert [key[1] for key in found] == list(fine_tuned_remedies.REMEDIES)
    assert all(len(table) == 64 for table in found.values())
    normal, tumour = len(ids.normal), len(ids.tumour)
    (plain, counts, _), (strong, balanced, again), (as_plain, made, new) = seen
    assert counts == [normal, tumour] and balanced == made == [normal, normal]
    assert again == [tumour] and new == [normal - tumour]
    assert strong.jpeg_quality < 100 and as_plain == plain and plain.jpeg_quality == 100
    assert not list(tmp_path.rglob("*.keras"))
    # The border of real patches is the mirror image of the centre, as that of generated ones.
    source = data.open_source(next(tmp_path.glob("patches/all")))
    image = data.read_patches(source, "train[:1]")["image"][0]
    np.testing.assert_array_equal(image[31], image[32])
    np.testing.assert_array_equal(image[:, 64], image[:, 63])
    monkeypatch.setattr(fine_tuned_remedies, "predictor", None)
    assert study.run(asked, [generator], [0.2], [0])["validation"].keys() == found.keys()
