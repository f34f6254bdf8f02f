"""Classifiers of frozen features, fine-tuning and evidence, on small data."""

import numpy as np
import pytest

from pcam_tf.models import field_models
from pcam_tf.studies import field_features, subtype_classifiers, subtype_evidence, subtype_methods
from pcam_tf.studies import subtype_tuning as tuning


def clouds(features=60, cases=6, fields=5):
    rng = np.random.default_rng(0)
    labels = np.repeat(range(3), cases * fields)
    units = np.repeat(range(3 * cases), fields)
    values = rng.normal(size=(len(labels), features))
    values[:, :5] += 3 * labels[:, None]
    values += rng.normal(size=(3 * cases, features))[units] / 2
    return values, labels, units


def test_a_discriminant_shrinks_the_covariance_within_the_classes(monkeypatch):
    monkeypatch.setattr(subtype_classifiers, "SHRINKAGES", (0.5,))
    values, labels, _ = clouds(features=8)
    fitted = subtype_classifiers.discriminant(values, labels, np.arange(len(labels)))
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)
    means = np.stack([scaled[labels == label].mean(axis=0) for label in range(3)])
    covariance = (scaled - means[labels]).T @ (scaled - means[labels]) / len(labels)
    covariance = 0.5 * covariance + 0.5 * np.trace(covariance) / 8 * np.eye(8)
    inverse = np.linalg.inv(covariance)
    expected = scaled @ inverse @ means.T - ((means @ inverse) * means).sum(axis=1) / 2
    logits = (values - fitted.mean) @ fitted.weights + fitted.offset
    ratio = np.diff(logits, axis=1) / np.diff(expected, axis=1)
    assert np.allclose(ratio, ratio[0, 0])


@pytest.mark.parametrize("fit", [subtype_classifiers.logistic, subtype_classifiers.blend])
def test_new_cases_are_told_apart(fit):
    values, labels, units = clouds(features=20)
    train = np.flatnonzero(units % 3 != 0)
    held_out = np.flatnonzero(units % 3 == 0)
    found = fit([values, values], labels, units, (train, held_out), 0)
    assert found.shape == (len(held_out), 3) and np.allclose(found.sum(axis=1), 1)
    assert (found.argmax(axis=1) == labels[held_out]).mean() > 0.5
    # A class without a training row gets no probability.
    without = train[labels[train] != 1]
    assert not fit([values], labels, units, (without, held_out), 0)[:, 1].any()


def test_features_are_computed_once(tmp_path, monkeypatch):
    reading = subtype_methods.Reading("plain", layers="")
    fields = list(np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), "uint8"))
    first = subtype_methods.features(reading, fields, tmp_path)
    monkeypatch.setattr(field_features, "plain_features", None)
    assert np.array_equal(subtype_methods.features(reading, fields, tmp_path), first)
    assert first.shape == (3, 32)


def test_the_mean_of_an_evidence_map_is_the_logit(tmp_path):
    rng = np.random.default_rng(0)
    fields = list(rng.integers(0, 256, (6, 64, 96, 3), "uint8"))
    labels, fold = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 1] * 2)
    (found,) = subtype_evidence.maps(fields, labels, fold, [3], tmp_path)
    assert found.shape == (64, 96)
    features = subtype_methods.features(subtype_methods.BLOCKS, fields, tmp_path)
    fitted = subtype_classifiers.discriminant(features, labels, np.flatnonzero(fold == 1))
    logits = (features[3] - fitted.mean) @ fitted.weights
    assert found.mean() == pytest.approx(logits[1] - logits.mean(), abs=0.05 * float(found.std()))


def test_maps_are_turned_back_to_their_fields_and_trained_on(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    fields = [rng.integers(0, 256, shape, "uint8") for shape in [(144, 208, 3), (160, 144, 3)] * 3]
    views = tuning.maps_of_views(fields, tmp_path, shipped=False, stain_strength=0.0)
    assert [each.shape[:2] for each in views[0][:2]] == [(9, 13), (10, 9)]
    assert [each.shape[:2] for each in views[2][:2]] == [(13, 9), (9, 10)]
    network = tuning._lower(shipped=False)
    turned = np.rot90(fields[1][:, ::-1], 1)
    (expected,) = field_features.by_shape(network, [turned])
    assert np.allclose(views[2][1], expected, atol=0.02)
    monkeypatch.setattr(tuning, "STEPS", 2)
    labels, units = np.array([0, 0, 0, 1, 1, 1]), np.arange(6)
    split = np.array([0, 1, 3, 4]), np.array([2, 5])
    found = tuning.tuned(views, False, labels, units, split, 0)
    assert found.shape == (2, 2) and np.allclose(found.sum(axis=1), 1, atol=1e-5)
    again = tuning.tuned(
        tuning.maps_of_views([*fields], tmp_path, shipped=False, stain_strength=0.0),
        False, labels, units, split, 0,
    )  # fmt: skip
    assert np.allclose(found, again, atol=1e-5)


def test_an_extractor_of_maps_returns_what_is_averaged():
    extractor = field_models.field_extractor(layers=field_models.ALL_BLOCKS)
    field = np.random.default_rng(0).integers(0, 256, (1, 64, 80, 3)).astype("float32")
    maps = field_models.map_extractor(extractor).predict_on_batch(field)
    means = np.concatenate([each.mean(axis=(1, 2)) for each in maps], axis=1)
    assert np.allclose(means, extractor.predict_on_batch(field), atol=1e-4)
