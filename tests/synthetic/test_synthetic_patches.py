import os
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pcam_tf import stain, synthetic
from pcam_tf.errors import InputError
from pcam_tf.synthetic import patches

CENTRE = slice(96 // 2 - 16, 96 // 2 + 16)


@pytest.fixture(scope="module")
def train():
    return synthetic.draw_patches(1500, split="train", seed=0)


@pytest.fixture(scope="module")
def validation():
    return synthetic.draw_patches(1000, split="validation", seed=0)


def test_arrays_have_the_promised_shapes_and_types(train):
    assert train.image.shape == (1500, 96, 96, 3) and train.image.dtype == np.uint8
    assert train.label.shape == (1500,) and train.label.dtype == np.int64
    assert train.tumour_mask.shape == (1500, 96, 96) and train.tumour_mask.dtype == bool
    assert train.densities.shape == (1500, 96, 96, 2) and train.densities.dtype == np.float32
    assert train.densities.min() >= 0
    np.testing.assert_allclose(np.linalg.norm(train.stain_vectors, axis=-1), 1, atol=1e-6)


def test_labels_follow_the_rule_of_pcam_and_are_balanced(train):
    centre = train.tumour_mask[:, CENTRE, CENTRE]
    np.testing.assert_array_equal(train.label, centre.any(axis=(1, 2)))
    assert train.label.mean() == 0.5


def test_tumour_in_the_centre_can_be_seen(train):
    positive = train.label == 1
    share = train.tumour_mask[positive, CENTRE, CENTRE].mean(axis=(1, 2))
    nuclei_px = train.tumour_nuclei[positive, CENTRE, CENTRE].sum(axis=(1, 2))
    assert share.min() > 0.1 and (share < 0.9).mean() > 0.2
    assert nuclei_px.min() >= 30
    assert not (train.tumour_nuclei & ~train.tumour_mask).any()


def test_some_normals_have_tumour_outside_their_centre(train):
    normal_masks = train.tumour_mask[train.label == 0]
    assert 0.12 < normal_masks.any(axis=(1, 2)).mean() < 0.24


def test_tumour_nuclei_are_larger_than_all_else_that_is_dark(train):
    # A lymphocyte of 9 px covers 64 px; what is drawn as tumour has to be told from it by size.
    from scipy import ndimage

    areas = []
    for mask in train.tumour_nuclei[train.label == 1][:50]:
        labelled, count = ndimage.label(mask)
        areas += list(ndimage.sum_labels(mask, labelled, range(1, count + 1)))
    assert np.median(areas) > 90


def test_a_patch_does_not_depend_on_how_many_are_drawn(train):
    few = synthetic.draw_patches(3, split="train", seed=0)
    more = synthetic.draw_patches(140, split="train", seed=0)  # ends within the second chunk
    for name, array in vars(few).items():
        np.testing.assert_array_equal(array, getattr(train, name)[:3])
    for name, array in vars(more).items():
        np.testing.assert_array_equal(array, getattr(train, name)[:140])


def test_seeds_splits_and_patches_differ(train, validation):
    other = synthetic.draw_patches(20, split="train", seed=1)
    assert (other.image != train.image[:20]).any(axis=(1, 2, 3)).all()
    assert (validation.image[:20] != train.image[:20]).any(axis=(1, 2, 3)).all()
    assert len(np.unique(train.image.reshape(1500, -1), axis=0)) == 1500


def test_splits_share_no_slide_and_slides_keep_their_stains(train, validation):
    test = synthetic.draw_patches(128, split="test", seed=0)
    used = [set(patches.slide.tolist()) for patches in (train, validation, test)]
    assert [len(slides) for slides in used] == [12, 4, 6]
    assert len(set.union(*used)) == 22
    vectors = {
        tuple(patches.stain_vectors[patches.slide == slide][0].ravel())
        for patches in (train, validation, test)
        for slide in np.unique(patches.slide)
    }
    assert len(vectors) == 22
    for slide in used[0]:
        assert np.ptp(train.stain_vectors[train.slide == slide], axis=0).max() == 0


def test_densities_mix_to_the_image_up_to_light_and_noise(train):
    vectors, background = train.stain_vectors[:, None, None], train.background[:, None, None]
    ideal = stain.mix(train.densities, vectors, background).astype(float)
    difference = train.image - ideal
    assert abs(difference).max() < 40
    assert abs(difference).mean() < 5
    assert abs(difference.mean(axis=(1, 2))).max() < 15
    # Halving one stain has to be noticed: the agreement is no accident of a loose tolerance.
    wrong = stain.mix(train.densities * np.float32([0.5, 1]), vectors, background)
    assert abs(train.image - wrong.astype(float)).mean() > 15


def test_mean_colour_does_not_give_the_label_away(train, validation):
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(train.image.mean(axis=(1, 2)), train.label)
    scores = model.decision_function(validation.image.mean(axis=(1, 2)))
    assert roc_auc_score(validation.label, scores) < 0.65


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(InputError, match="validation"):
        synthetic.draw_patches(1, split="valid")
    with pytest.raises(InputError, match="count"):
        synthetic.draw_patches(0, split="train")
    with pytest.raises(InputError, match="seed"):
        synthetic.draw_patches(1, split="train", seed=-1)


TINY = {"train": 130, "validation": 3, "test": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    return synthetic.builder(data_dir, synthetic.config_of(seed=5, **TINY)), data_dir


def test_builder_round_trip(tiny):
    prepared, _ = tiny
    features = prepared.info.features
    assert isinstance(features["id"], tfds.features.Text)
    assert features["image"].shape == (96, 96, 3)
    assert features["label"].num_classes == 2
    prefixes = {"train": "train", "validation": "valid", "test": "test"}
    for split, count in TINY.items():
        drawn = synthetic.draw_patches(count, split=split, seed=5)
        rows = {row["id"].decode(): row for row in tfds.as_numpy(prepared.as_dataset(split=split))}
        assert set(rows) == {f"{prefixes[split]}_{row}" for row in range(count)}
        for row in range(count):
            stored = rows[f"{prefixes[split]}_{row}"]
            np.testing.assert_array_equal(stored["image"], drawn.image[row])
            assert stored["label"] == drawn.label[row]


def test_builder_draws_once_and_prints_nothing(tiny, monkeypatch, capfd):
    _, data_dir = tiny
    monkeypatch.setattr(patches, "draw_chunks", None)  # drawing again would fail
    again = synthetic.builder(data_dir, synthetic.config_of(seed=5, **TINY))
    assert again.info.splits["train"].num_examples == TINY["train"]
    assert capfd.readouterr().out == ""


def test_builder_recovers_from_a_preparation_cut_short(tmp_path, monkeypatch, capfd):
    config = synthetic.config_of(seed=6, train=2, validation=1, test=1)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(patches, "draw_chunks", killed)
        synthetic.builder(tmp_path, config)
    assert synthetic.builder(tmp_path, config).info.splits.total_num_examples == 4
    assert capfd.readouterr().out == ""


def test_builder_removes_what_killed_preparations_left(tmp_path):
    config = synthetic.config_of(seed=7, train=2, validation=1, test=1)
    folder = tmp_path / "synthetic_patch_camelyon" / config.name
    dead, living, other = (
        folder / name
        for name in (
            "incomplete.AAAAAA_1.0.0",
            "incomplete.BBBBBB_1.0.0",
            "incomplete.AAAAAA_9.0.0",
        )
    )
    for leftover in (dead, living, other):
        leftover.mkdir(parents=True)
        (leftover / "shard").write_text("half")
    for leftover in (dead, other):
        os.utime(leftover, (time.time() - 4000,) * 2)
    synthetic.builder(tmp_path, config)
    assert set(folder.iterdir()) == {living, other, folder / "1.0.0"}
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic_patch_camelyon"]


def test_smoke_config_and_unknown_ones(tmp_path):
    smoke = synthetic.SyntheticPatchCamelyon.builder_configs["smoke"]
    assert (smoke.train, smoke.validation, smoke.test) == (2048, 512, 1024)
    with pytest.raises(InputError, match="smoke"):
        synthetic.builder(tmp_path, "smok")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="writable"):
        synthetic.builder(tmp_path / "file", synthetic.config_of(seed=0, **TINY))
