import keras
import numpy as np
import pytest

from pcam_tf import explain
from pcam_tf.errors import InputError
from pcam_tf.explain import checks, graph, methods
from pcam_tf.models import backbones, classifier, transformers
from pcam_tf.task import Task

TASK = Task("shapes", ("discs", "stripes"), side_px=32, mpp=1.0)
CAMS = ("Grad-CAM", "HiResCAM, 8 px")


def network(prefix, depth=2):
    def build(input_tensor):
        return transformers.vision_transformer(
            input_tensor, patch=8, width=12, depth=depth, heads=2, hidden=16, prefix=prefix
        )

    return build


def classifier_of(prefix, **options):
    """Return a classifier whose weights all matter."""
    backbone = backbones.Backbone(
        network(prefix, **options), {"scale": 1 / 128, "offset": -1.0}, class_token=prefix > 0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tokens", backbone)
        model = classifier.build(TASK, backbone="Tokens", weights=None)
    rng = np.random.default_rng(0)
    model.set_weights([each + 0.3 * rng.normal(size=each.shape) for each in model.get_weights()])
    return model


def patches(count=3):
    return np.random.default_rng(0).uniform(0, 255, (count, 32, 32, 3)).astype("float32")


@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize("method", [*CAMS, "attention rollout"])
def test_tokens_become_a_map_of_the_patch(prefix, method):
    found = explain.maps(classifier_of(prefix), patches(), method)
    assert found.shape == (3, 32, 32) and found.dtype == "float32"
    assert np.ptp(found, axis=(1, 2)).min() > 0


def test_the_map_of_tokens_adds_up_to_their_part_of_the_log_odds():
    # Without attention after it, the tokens' mean reaches the head through a normalisation alone.
    model = classifier_of(0, depth=1)
    before, slopes, side = graph.at_stride(model, 8)
    tokens = np.asarray(before(patches()))
    assert tokens.shape == (3, 16, 12) and side == 32
    found = slopes(tokens, np.ones(3, "int32"))
    moved = tokens.copy()
    moved[:, 5] *= 1.001
    head = keras.Model(model.get_layer("block0_norm1").input, model.output)
    change = np.log(head(moved) / (1 - head(moved))) - np.log(head(tokens) / (1 - head(tokens)))
    expected = (tokens * np.asarray(found)).sum(axis=-1)[:, 5] * 0.001
    np.testing.assert_allclose(np.ravel(change), expected, rtol=0.05, atol=1e-5)


def rollout(scores, start):
    """Return Abnar and Zuidema's rollout as their paper writes it: matrices, then a row."""
    joint = np.eye(scores[0].shape[-1])
    for score in scores:
        joint = (0.5 * score.mean(axis=0) + 0.5 * np.eye(len(joint))) @ joint
    return start @ joint


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_rollout_is_that_of_the_paper(prefix):
    model, batch = classifier_of(prefix), patches(1)
    to_attention, _ = graph.to_attention(model)
    scores, shares = to_attention(batch)
    scores, shares = [np.asarray(each)[0] for each in scores], np.asarray(shares)[0]
    assert len(scores) == 2 and scores[0].shape == (2, prefix + 16, prefix + 16)
    np.testing.assert_allclose(scores[0].sum(axis=-1), 1, atol=1e-5)
    layer = model.get_layer("block1_attention")
    tokens = keras.Model(model.input, model.get_layer("block1_norm1").output)(batch)
    _, own = layer(tokens, tokens, return_attention_scores=True)
    np.testing.assert_allclose(scores[1], own[0], atol=1e-5)
    start = np.eye(prefix + 16)[0] if prefix else np.full(16, 1 / 16)
    np.testing.assert_allclose(shares, start, atol=1e-6)
    expected = rollout(scores, start)[prefix:].reshape(4, 4)
    found = explain.maps(model, batch, "attention rollout")[0]
    np.testing.assert_allclose(found, methods._enlarged(expected[None], 32, 32)[0], rtol=1e-4)
    assert (found >= 0).all()


def test_rollout_starts_from_what_pooling_has_learnt():
    model = classifier.build(backbone="CCT", weights=None)
    batch = np.random.default_rng(0).uniform(0, 255, (2, 96, 96, 3)).astype("float32")
    shares = keras.Model(model.input, model.get_layer("pool_shares").output)(batch)
    scores, found = graph.to_attention(model)[0](batch)
    np.testing.assert_allclose(found, np.asarray(shares)[..., 0], atol=1e-6)
    assert len(scores) == 4
    assert explain.maps(model, batch, "HiResCAM, 8 px").shape == (2, 96, 96)


def test_a_network_without_attention_has_no_rollout():
    model = classifier.build(backbone="MobileNetV3Small", weights=None)
    with pytest.raises(InputError, match="no attention"):
        explain.maps(model, np.zeros((1, 96, 96, 3)), "attention rollout")
    with pytest.raises(InputError, match="did you mean 'attention rollout'"):
        explain.maps(model, np.zeros((1, 96, 96, 3)), "attention-rollout")


def test_token_maps_take_the_checks_of_the_others():
    model = classifier_of(1)
    found = checks.randomisation(model, patches(2), ["HiResCAM, 8 px", "attention rollout"])
    last = found[found["layers"] == found["layers"].max()]
    assert (last["correlation"].abs() < 0.95).all()
    curves = checks.curves(model, patches(), explain.maps(model, patches(), "attention rollout"))
    assert curves["deletion"].shape == (3, len(checks.SHARES))
    assert set(methods.TOKEN_METHODS) == {"attention rollout"}
