import keras
import numpy as np
import pytest

from pcam_tf.training import batch_normalization

BATCH = np.random.default_rng(0).normal(3, 2, (4, 5, 7, 3)).astype("float32")
LABELS = np.float32([[0], [1], [1], [0]])


def network(**options):
    """Return a model with two normalisations, one in a model within, its weights uneven."""
    inner_input = keras.Input((5, 7, 4))
    normalised = keras.layers.BatchNormalization(momentum=0.8, **options)(inner_input)
    inner = keras.Model(inner_input, normalised, name="inner")
    inputs = keras.Input((5, 7, 3))
    tensor = keras.layers.BatchNormalization(momentum=0.8, **options)(inputs)
    tensor = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(tensor)
    tensor = keras.layers.GlobalAveragePooling2D()(inner(tensor))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(tensor))
    rng = np.random.default_rng(1)
    model.set_weights([each + rng.uniform(0, 0.5, each.shape) for each in model.get_weights()])
    return model


def normalisations(model):
    layers = model.layers + model.get_layer("inner").layers
    return [each for each in layers if isinstance(each, keras.layers.BatchNormalization)]


@pytest.mark.parametrize(
    "options", [{}, {"epsilon": 0.5}, {"axis": 1}, {"scale": False}, {"trainable": False}]
)
def test_it_trains_as_keras_does(options):
    plain = network(**options)
    fused = batch_normalization.fused(plain)
    assert {type(each) for each in normalisations(fused)} == {
        batch_normalization.FusedBatchNormalization
    }
    before = plain.get_weights()
    for model in (plain, fused):
        model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy")
    for _ in range(3):
        losses = [model.train_on_batch(BATCH, LABELS) for model in (plain, fused)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    changed = False
    for old, one, other in zip(before, plain.get_weights(), fused.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5)
        changed |= not np.array_equal(old, one)
    assert changed
    np.testing.assert_allclose(
        fused.predict_on_batch(BATCH), plain.predict_on_batch(BATCH), rtol=1e-4
    )


def test_the_copy_has_weights_of_its_own():
    plain = network()
    before = plain.get_weights()
    fused = batch_normalization.fused(plain)
    fused.compile("sgd", "binary_crossentropy")
    fused.train_on_batch(BATCH, LABELS)
    for old, new in zip(before, plain.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_kernel_is_used_in_training_alone(monkeypatch):
    calls = []
    kernel = batch_normalization.tf.raw_ops.FusedBatchNormV3
    monkeypatch.setattr(
        batch_normalization.tf.raw_ops,
        "FusedBatchNormV3",
        lambda **options: calls.append(1) or kernel(**options),
    )
    layer = batch_normalization.FusedBatchNormalization()
    layer(BATCH, training=False)
    assert not calls
    layer(BATCH, training=True)
    assert calls


def test_half_precision_is_normalised_in_half_precision():
    layer = batch_normalization.FusedBatchNormalization(dtype="mixed_float16")
    found = np.asarray(layer(BATCH, training=True))
    assert found.dtype == "float16"
    np.testing.assert_allclose(found.mean(axis=(0, 1, 2), dtype="float32"), 0, atol=1e-2)


@pytest.mark.parametrize("copied", [lambda model: model, batch_normalization.fused])
def test_statistics_are_estimated_anew_as_means_over_batches(copied):
    model = copied(network())
    batches = np.random.default_rng(2).normal(-1, 3, (3, *BATCH.shape)).astype("float32")
    trained = [np.asarray(each) for each in model.trainable_weights]
    batch_normalization.reestimate(model, batches)
    first = normalisations(model)[0]
    np.testing.assert_allclose(
        first.moving_mean, batches.mean(axis=(1, 2, 3)).mean(axis=0), atol=1e-5
    )
    np.testing.assert_allclose(
        first.moving_variance, batches.var(axis=(1, 2, 3)).mean(axis=0), rtol=1e-4
    )
    assert {each.momentum for each in normalisations(model)} == {0.8}
    for one, other in zip(model.trainable_weights, trained, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_network_of_few_steps_predicts_properly_once_its_statistics_are_estimated_anew():
    generator = np.random.default_rng(3)
    labels = generator.permutation(np.arange(64) % 2).astype("float32").reshape(-1, 1)
    batch = generator.normal(50, 10, (64, 5, 7, 3)) + 15 * labels[:, :, None, None]
    model = network()
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy")
    for layer in normalisations(model):
        layer.momentum = 0.999  # what 30 steps cannot catch up with
    for _ in range(30):
        model.train_on_batch(batch, labels)

    def accuracy():
        return np.mean((model.predict_on_batch(batch) >= 0.5) == labels)

    assert accuracy() < 0.6
    batch_normalization.reestimate(model, [batch])
    assert accuracy() > 0.95
