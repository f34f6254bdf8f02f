"""The networks have the right shapes, know the class, and are the same for the same seed."""

import numpy as np
import pytest
from tiny_generator import RECIPE

from pcam_tf import synthetic
from pcam_tf.errors import InputError
from pcam_tf.gan import augmentation, distances, networks, projection
from pcam_tf.gan.patches import centre
from pcam_tf.task import BREAKHIS, PCAM

SHAPE = networks.Shape(32, 2, 8, 4)


@pytest.fixture(scope="module")
def projected():
    return projection.projection(SHAPE.side_px, 1)


@pytest.mark.parametrize("side", [16, 48, 64, 96, 128])
def test_networks_fit_each_other_at_every_side(side):
    shape = networks.Shape(side, 3, 8, 4)
    maps = projection.projection(side).outputs
    critic, generator = networks.critic(maps, 3), networks.generator(shape)
    assert generator.output_shape == (None, side, side, 3)
    assert critic.output_shape == (None, 4, 3)
    assert [each.shape[1] for each in maps] == [side // 2, side // 4, side // 8, side // 16]


def test_a_patch_becomes_four_frozen_maps_of_about_one(projected):
    drawn = synthetic.draw_patches(8, split="train").image
    centres = centre(drawn, 32).astype("float32") / 127.5 - 1
    maps = [np.asarray(each) for each in projected(centres)]
    assert [each.shape[1:] for each in maps] == [(16, 16, 32), (8, 8, 48), (4, 4, 64), (2, 2, 80)]
    assert all(0.3 < each.std() < 3 for each in maps)
    assert not projected.trainable_variables


def test_each_map_depends_on_what_lies_deeper(projected):
    layer = projected.get_layer("block15_project_bn")
    drawn = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)).astype("float32")
    before = [np.asarray(each) for each in projected(drawn)]
    kept = layer.get_weights()
    layer.set_weights([kept[0], kept[1] + 3, *kept[2:]])
    try:
        after = projected(drawn)
    finally:
        layer.set_weights(kept)
    assert all(np.abs(one - two).max() > 0.01 for one, two in zip(before, after, strict=True))


def test_the_class_changes_the_patch_and_the_score(projected):
    generator, critic = networks.generator(SHAPE, 1), networks.critic(projected.outputs, 2, 1)
    latents = np.random.default_rng(0).standard_normal((4, SHAPE.latents), "float32")
    labels = [np.full(4, label, "int32") for label in (0, 1)]
    first, second = (np.asarray(generator([latents, each])) for each in labels)
    assert first.shape == (4, 32, 32, 3)
    assert np.abs(first - second).max() > 1e-4
    scores = np.asarray(critic(projected(first)))
    assert scores.shape == (4, 4, 2)


def test_a_generator_shares_no_layout_and_turns_as_drawn():
    latents = np.random.default_rng(0).standard_normal((64, SHAPE.latents), "float32")
    latents[:, : networks.TURNS] = -1
    generator = networks.generator(SHAPE, 0)
    generated = np.asarray(generator([latents, np.zeros(64, "int32")], training=True))
    assert distances.shared_layout(np.uint8(127.5 * (generated + 1))) < 0.05
    # Borders are mirrored, so a patch without differences between places has none at its border.
    latents[:, networks.TURNS + SHAPE.overall :] = 1
    flat = np.asarray(generator([latents, np.zeros(64, "int32")], training=False))
    assert np.ptp(flat, axis=(1, 2)).max() < 1e-5


@pytest.mark.parametrize(
    ("coin", "turn"), [(0, np.flipud), (1, np.fliplr), (2, lambda each: np.swapaxes(each, 0, 1))]
)
def test_each_coin_turns_a_patch_in_its_own_way(coin, turn):
    latents = np.random.default_rng(0).standard_normal((1, SHAPE.latents), "float32")
    latents[:, : networks.TURNS] = -1
    generator, label = networks.generator(SHAPE, 0), np.zeros(1, "int32")
    still = np.asarray(generator([latents, label]))[0]
    latents[:, coin] = 1
    turned = np.asarray(generator([latents, label]))[0]
    np.testing.assert_allclose(turned, turn(still), atol=1e-6)


def test_a_seed_gives_one_network_and_another_seed_another():
    networks_of = [networks.generator(SHAPE, seed) for seed in (1, 1, 2)]
    first, again, other = (network.get_weights() for network in networks_of)
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    # TensorFlow rounds by names, so those must not tell what was built before.
    names = [[layer.name for layer in network.layers] for network in networks_of]
    assert names[0] == names[1] == names[2]


def test_the_critic_sees_that_patches_of_a_group_are_alike(projected):
    scores = networks.critic(projected.outputs, 2, 1)

    def critic(images):
        return scores(projected(images))

    rng = np.random.default_rng(1)
    varied = rng.uniform(-1, 1, (4, 32, 32, 3)).astype("float32")
    alone = np.asarray(critic(np.repeat(varied[:1], 4, axis=0)))
    among = np.asarray(critic(varied))
    # Each head sees it.
    assert (np.abs(alone[0] - among[0]).max(axis=-1) > 1e-5).all()
    both = np.asarray(critic(np.concatenate([varied, varied[::-1]])))
    np.testing.assert_allclose(both[:4], among, rtol=1e-4)  # other groups do not count


@pytest.mark.parametrize("side", [8, 50])
def test_a_side_that_cannot_be_halved_four_times_is_refused(side):
    with pytest.raises(InputError, match="choose a multiple of 16"):
        networks.Shape(side, 2)


def test_a_recipe_must_fit_the_task():
    assert RECIPE.shape_for(PCAM) == SHAPE
    with pytest.raises(InputError, match=r"48 px does not fit breakhis patches: choose 128 to 128"):
        type(RECIPE)(side_px=48).shape_for(BREAKHIS)
    with pytest.raises(InputError, match="cannot be shared by 8 classes"):
        type(RECIPE)(side_px=128, batch_size=12).shape_for(BREAKHIS)


def test_augmentation_leaves_half_as_it_is_and_passes_gradients():
    import tensorflow as tf

    rng = np.random.default_rng(0)
    patches = rng.uniform(-0.9, 0.9, (200, 16, 16, 3)).astype("float32")
    draws = augmentation.draw(rng, 200, 16)
    draws["d4"] = np.zeros((3, 200), bool)
    tensor = tf.constant(patches)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        changed = augmentation.augmented(tensor, draws)
        total = tf.reduce_sum(changed)
    gradient = tape.gradient(total, tensor)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    same = np.isclose(changed, patches, atol=1e-3).all(axis=(1, 2, 3))
    assert 0.05 < same.mean() < 0.25  # an eighth: neither recoloured, nor shifted, nor cut
    assert np.abs(np.asarray(changed)).max() <= 1.001


def test_augmentation_turns_and_shifts_as_drawn():
    rng = np.random.default_rng(1)
    patches = rng.uniform(-0.9, 0.9, (1, 16, 16, 3)).astype("float32")
    draws = augmentation.draw(rng, 1, 16)
    still = np.eye(16, dtype="float32")[None]
    draws |= {"jitter": np.eye(3, dtype="float32")[None], "rows": still, "columns": still}
    draws |= {"kept": np.ones((1, 16, 16, 1), "float32"), "d4": np.array([[0], [0], [1]], bool)}
    turned = np.asarray(augmentation.augmented(patches, draws))
    np.testing.assert_allclose(turned, patches.swapaxes(1, 2), atol=1e-3)
    draws |= {"d4": np.zeros((3, 1), bool), "rows": np.eye(16, k=2, dtype="float32")[None]}
    shifted = np.asarray(augmentation.augmented(patches, draws))
    np.testing.assert_allclose(shifted[:, :-2], patches[:, 2:], atol=1e-3)
    assert np.abs(shifted[:, -2:]).max() < 1e-3
