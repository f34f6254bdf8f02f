import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pcam_tf import stain, synthetic
from pcam_tf.errors import InputError
from pcam_tf.stain import layer, normalization, separation

FOLDERS = (each / "shared/stain" for each in Path(__file__).parents)
EXPECTED = next((each for each in FOLDERS if each.is_dir()), None)
# Eosin absorbs a little in every channel, as in scans: Macenko's method leaves out pixels whose
# faintest channel has a density below 0.15.
VECTORS = np.array([[0.65, 0.70, 0.29], [0.35, 0.90, 0.26]])
VECTORS /= np.linalg.norm(VECTORS, axis=1, keepdims=True)


def tissue(seed=0, side=96):
    """Return densities (side, side, 2) of glass, of both stains alone and of mixtures."""
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0.8, 1.8, (side, side, 2))
    kind = rng.integers(0, 8, (side, side))
    amounts[kind == 0] = 0
    amounts[kind == 1] *= [1, 0]
    amounts[kind == 2] *= [0, 1]
    return amounts


def photographed(amounts, vectors=VECTORS):
    return stain.mix(amounts, vectors, separation.LIGHT)


def degrees_apart(first, second):
    return np.degrees(np.arccos(np.clip((first * second).sum(axis=-1), -1, 1)))


PATCH = photographed(tissue())
REFERENCES = {
    name: normalization.fit(photographed(0.7 * tissue(1)), name) for name in normalization.METHODS
}


@pytest.mark.parametrize("turn", range(3))
def test_macenko_finds_the_vectors_and_amounts_that_tissue_was_drawn_with(turn):
    vectors = VECTORS + np.random.default_rng(turn).normal(0, 0.03, (2, 3)) * (turn > 0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    amounts = tissue(turn)
    density = separation.macenko_density(photographed(amounts, vectors))
    found = separation.macenko_vectors(density)
    assert degrees_apart(found, vectors).max() < 3
    strong = amounts > 0.3
    error = separation.separate(density, found)[strong] / amounts[strong] - 1
    assert np.abs(np.median(error)) < 0.05
    strengths = separation.strengths(density, found)
    np.testing.assert_allclose(strengths, np.percentile(amounts, 99, axis=(0, 1)), rtol=0.05)


def test_separation_of_synthetic_tissue_by_its_vectors_gives_its_densities():
    patches = synthetic.draw_patches(8, split="train")
    for image, amounts, vectors, light in zip(
        patches.image, patches.densities, patches.stain_vectors, patches.background, strict=True
    ):
        found = separation.separate(stain.optical_density(image, light), vectors)
        strong = amounts > 0.3
        assert np.abs(np.median(found[strong] / amounts[strong] - 1)) < 0.05


def test_separation_by_ruifrok_and_johnston_is_the_default():
    density = stain.optical_density(PATCH)
    expected = (density @ np.linalg.inv(stain.MIXING))[..., :2]
    np.testing.assert_allclose(separation.separate(density), expected, atol=1e-9)


@pytest.mark.parametrize("method", normalization.METHODS)
def test_a_normalised_patch_has_the_stain_of_the_reference(method, tmp_path):
    reference = REFERENCES[method]
    normalised, is_normalised = normalization.normalize(PATCH, reference)
    assert is_normalised
    found = normalization.to_dictionary(normalization.fit(normalised, method))
    expected = normalization.to_dictionary(reference)
    for name in set(expected) - {"method"}:
        np.testing.assert_allclose(found[name], expected[name], rtol=0.02, atol=0.05)
    normalization.save(tmp_path / "reference.json", reference)
    again = normalization.normalize(PATCH, normalization.load(tmp_path / "reference.json"))[0]
    np.testing.assert_array_equal(again, normalised)


@pytest.mark.parametrize("method", normalization.METHODS)
def test_a_patch_normalised_to_itself_stays(method):
    normalised, _ = normalization.normalize(PATCH, normalization.fit(PATCH, method))
    # Macenko's two vectors leave out what lies beside their plane, as rounding does.
    assert np.abs(normalised.astype(int) - PATCH).mean() < 1


def degenerate():
    rng = np.random.default_rng(0)
    three_dark = np.full((96, 96, 3), 255, np.uint8)
    three_dark[40, 40:43] = 60
    one_stain = photographed(tissue() * [1, 0])
    return {
        "white": np.full((96, 96, 3), 255, np.uint8),
        "black": np.zeros((96, 96, 3), np.uint8),
        "one colour": np.broadcast_to(np.uint8([180, 90, 160]), (96, 96, 3)),
        "three dark pixels": three_dark,
        "glass": rng.integers(236, 244, (96, 96, 3)).astype(np.uint8),
        "one stain": one_stain,
        "tiny": PATCH[:2, :2],
        "a pixel": PATCH[:1, :1],
    }


@pytest.mark.parametrize("name", degenerate())
@pytest.mark.parametrize("method", normalization.METHODS)
def test_a_degenerate_patch_is_returned_unchanged_with_a_flag(name, method):
    if (name, method) == ("one stain", "reinhard"):
        pytest.skip("Reinhard's method needs colours that differ, not two stains")
    patch = degenerate()[name]
    results = [normalization.normalize(patch, REFERENCES[method])]
    patches, flags = layer.normalize_batch(np.array(patch[None]), REFERENCES[method])
    results.append((np.asarray(patches)[0], bool(flags[0])))
    for result, is_normalised in results:
        np.testing.assert_array_equal(result, patch)
        assert not is_normalised
    with pytest.raises(InputError, match="too little tissue"):
        normalization.fit(patch, method)


@pytest.mark.parametrize("method", normalization.METHODS)
def test_the_layer_does_what_the_function_does(method, tmp_path):
    import keras
    import tensorflow as tf

    white = np.full_like(PATCH, 255)
    batch = np.stack([PATCH, white, photographed(tissue(5) * [1, 0.6])])
    expected = np.stack([normalization.normalize(each, REFERENCES[method])[0] for each in batch])
    model = keras.Sequential(
        [keras.Input(PATCH.shape), layer.StainNormalization(REFERENCES[method])]
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert np.abs(np.asarray(loaded(batch.astype("float32"))) - expected).max() <= 1
    mapped = tf.data.Dataset.from_tensors(batch).map(loaded.layers[-1])
    result = next(iter(mapped)).numpy()
    assert result.dtype == np.uint8
    assert np.abs(result.astype(int) - expected).max() <= 1


@pytest.mark.skipif(EXPECTED is None, reason="needs pictures normalised by torchstain")
def test_equal_to_torchstain():
    def read(name):
        return np.asarray(Image.open(EXPECTED / name).convert("RGB"))

    numbers = json.loads((EXPECTED / "expected.json").read_text())["macenko"]
    for name in ("source", "target"):
        found = normalization.fit(read(f"{name}.png"))
        np.testing.assert_allclose(found.stain_vectors.T, numbers[name]["HE"], atol=1e-3)
        np.testing.assert_allclose(found.strengths, numbers[name]["maxC"], rtol=0.01)
    for method in normalization.METHODS:
        reference = normalization.fit(read("target.png"), method)
        normalised, _ = normalization.normalize(read("source.png"), reference)
        difference = np.abs(normalised.astype(int) - read(f"expected_{method}.png"))
        assert (difference <= 2).mean() >= 0.99


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: normalization.fit(PATCH, "macenk"), "did you mean 'macenko'"),
        (lambda folder: normalization.fit(PATCH / 255), "give uint8"),
        (lambda folder: normalization.fit(PATCH[..., 0]), "give uint8"),
        (lambda folder: normalization.load(folder / "none.json"), "there is no file"),
        (lambda folder: normalization.from_dictionary({"method": "macenko"}), "no reference"),
        (
            lambda folder: normalization.from_dictionary(
                {"method": "reinhard", "mean": [1, 2], "deviation": [1, 2, 3]}
            ),
            "mean: give finite numbers",
        ),
        (lambda folder: separation.separate(np.zeros((4, 3)), np.ones((2, 3))), "parallel"),
    ],
)
def test_bad_input_is_refused(call, message, tmp_path):
    with pytest.raises(InputError, match=message):
        call(tmp_path)
