import json

import numpy as np
import pytest

from pcam_tf import __main__, data, stain, synthetic
from pcam_tf.errors import InputError
from pcam_tf.evaluation import reports
from pcam_tf.studies import novelty, robustness


def batches(images):
    return [{"image": images[row : row + 100]} for row in range(0, len(images), 100)]


@pytest.fixture(scope="module")
def drawn():
    return {
        split: synthetic.draw_patches(count, split=split).image
        for split, count in (("train", 400), ("validation", 240), ("test", 80))
    }


@pytest.fixture(scope="module")
def reference(drawn):
    """Return what is ordinary among drawn patches; two clouds, as few patches bear no more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(novelty, "COMPONENTS", 2)
        return novelty.fit(batches(drawn["train"]), batches(drawn["validation"]))


def test_measures_are_those_of_known_tissue():
    vectors = np.stack([stain.HAEMATOXYLIN, stain.EOSIN])
    densities = np.zeros((3, 96, 96, 2))
    densities[1, :48, :, 0] = densities[1, 48:, :, 1] = 1.0  # one dye above, the other below
    densities[2, :48] = 0.5  # both in the same places
    found = novelty.measures(stain.mix(densities, vectors))
    assert list(found) == list(novelty.MEASURES)
    assert (found.dtypes == "float64").all()
    np.testing.assert_allclose(found["haematoxylin"], [0, 0.5, 0.25], atol=0.01)
    np.testing.assert_allclose(found["eosin"], [0, 0.5, 0.25], atol=0.01)
    np.testing.assert_allclose(found["residual"], 0, atol=0.01)
    np.testing.assert_allclose(found["haematoxylin with eosin"], [0, -1, 1], atol=0.03)
    np.testing.assert_allclose(found["blank"] ** 2, [1, 0, 0.5], atol=0.01)


@pytest.mark.parametrize(
    ("shift", "level", "measure", "sign"),
    [
        ("blur, sigma px", 1.5, "detail", -1),
        ("blur, sigma px", 1.5, "sharpness", -1),
        ("blur, sigma px", 1.5, "grain", 1),
        ("haematoxylin gain", 1.6, "haematoxylin", 1),
        ("eosin gain", 0.6, "eosin contrast", -1),
        ("brightness", 0.7, "lightest", 1),
        ("JPEG quality", 5, "blocks", 1),
    ],
)
def test_each_measure_follows_what_it_is_named_after(drawn, shift, level, measure, sign):
    patches = drawn["test"]
    before, after = (
        novelty.measures(images)[measure]
        for images in (patches, robustness.shifted(patches, shift, level))
    )
    assert (sign * (after - before) > 0).mean() > 0.95


def test_the_light_is_named_by_its_colour(drawn, reference):
    for tint, words in (((1, 1, 0.4), "a yellow light"), ((0.4, 1, 1), "a blue light")):
        tinted = (drawn["validation"][:40] * np.array(tint)).astype("uint8")
        hue = novelty.measures(tinted)["lightest hue"].median()
        assert novelty.MEASURES["lightest hue"][int(hue > 0)] == words
        assert words in novelty.furthest(tinted, reference)


def test_blocks_are_found_wherever_the_grid_lies(drawn):
    compressed = robustness.shifted(drawn["test"], "JPEG quality", 10)
    plain = novelty.measures(drawn["test"])["blocks"]
    for by in (0, 3):
        # What is moved over the border makes a seam, which is a step among others.
        moved = np.roll(compressed, by, axis=(1, 2))
        assert (novelty.measures(moved)["blocks"] > plain.max() + 0.2).mean() > 0.95


def test_a_patch_is_measured_alone_as_among_others(drawn, monkeypatch):
    together = novelty.measures(drawn["test"][:9])
    monkeypatch.setattr(novelty, "CHUNK", 2)
    np.testing.assert_allclose(novelty.measures(drawn["test"][:9]), together, rtol=1e-5, atol=1e-5)
    assert len(novelty.measures(drawn["test"][:0])) == 0


def test_what_is_unusual_scores_above_the_threshold(drawn, reference):
    patches = drawn["validation"][:40]
    found = novelty.detection(
        [{"image": patches[:30]}, {"image": patches[30:]}], reference
    ).set_index("kind")
    assert found.loc["as they are", "share"] < 0.1
    for kind in ("blur, sigma px 4", "JPEG quality 5", "inverted", "noise alone", "blank"):
        assert found.loc[kind, "share"] == 1, kind
        assert 0.9 < found.loc[kind, "low"] < 1 == pytest.approx(found.loc[kind, "high"])
    assert found.loc["blur, sigma px 4", "furthest"] == "blur"
    assert found.loc["JPEG quality 5", "furthest"] == "blocks of strong compression"
    assert found.loc["haematoxylin gain 2", "share"] > found.loc["as they are", "share"]
    assert "| inverted" in reports.markdown_table(novelty.summary_rows(found.reset_index()))


@pytest.mark.parametrize("side_px", [80, 100])
def test_a_reference_can_be_learnt_from_patches_of_any_side(drawn, monkeypatch, side_px):
    def resized(images):
        return np.pad(images, ((0, 0), (0, 4), (0, 4), (0, 0)), mode="reflect")[
            :, :side_px, :side_px
        ]

    monkeypatch.setattr(novelty, "COMPONENTS", 1)
    monkeypatch.setattr(novelty, "PER_COMPONENT", 200)
    train, validation = (resized(drawn[split][:200]) for split in ("train", "validation"))
    reference = novelty.fit(batches(train), batches(validation))
    assert reference["side_px"] == side_px
    found = novelty.detection([{"image": resized(drawn["test"][:5])}], reference)
    assert (found["patches"] == 5).all()
    assert found.set_index("kind").loc["noise alone", "share"] == 1


def test_pictures_of_one_colour_are_finite_and_noticed(reference):
    for level in (0, 128, 255):
        plain = np.full((1, 96, 96, 3), level, "uint8")
        found = novelty.score(plain, reference)
        assert found.dtype == np.float64 and found.shape == (1,)
        assert np.isfinite(found).all() and found[0] > reference["threshold"]


def test_false_alarms_are_counted_in_patches_that_did_not_choose_the_threshold(drawn, reference):
    scores = novelty.score(drawn["validation"], reference)
    assert reference["threshold"] == pytest.approx(np.quantile(scores[:120], 0.99), rel=1e-6)
    counted = reference["false_alarms"]
    assert counted["patches"] == 120
    assert counted["noticed"] == (scores[120:] > reference["threshold"]).sum()
    assert counted["low"] <= counted["share"] <= counted["high"]
    assert reference["false_alarms_new_slides"]["patches"] == 240


def test_a_reference_is_the_same_once_written_and_read(drawn, reference):
    again = json.loads(json.dumps(reference))
    np.testing.assert_array_equal(
        novelty.score(drawn["test"], again), novelty.score(drawn["test"], reference)
    )


def test_the_sentence_names_what_is_off_and_how_often_it_is_wrong(drawn, reference):
    patch = drawn["validation"][0]
    blurred = robustness.shifted(patch[None], "blur, sigma px", 4)
    counted = {**reference, "false_alarms": {"patches": 1500, "noticed": 15}}
    found = novelty.sentence(novelty.score(blurred, reference)[0], blurred[0], counted)
    assert found.startswith("Looks unlike the training data: blur.")
    assert "about 1 in 100 ordinary patches" in found
    assert "data. The" in novelty.sentence(reference["threshold"] + 1, reference=counted)
    assert novelty.sentence(reference["threshold"], patch, reference) == ""


def test_other_pictures_and_too_few_patches_are_refused(drawn):
    for wrong in (drawn["test"] / 255, drawn["test"][0], drawn["test"][:, :64]):
        with pytest.raises(InputError, match=r"measured on uint8|reference is of uint8 \(n, 96"):
            novelty.score(wrong)
    with pytest.raises(InputError, match="novelty --fit"):
        novelty.detection([{"image": drawn["test"][:, :80, :80]}])
    with pytest.raises(InputError, match="100 training and 240 validation patches are too few"):
        novelty.fit(batches(drawn["train"][:100]), batches(drawn["validation"]))


def test_the_command_counts_notices_by_the_shipped_or_a_new_reference(
    prepared, reference, tmp_path, capsys, monkeypatch
):
    words = ["novelty", "--data-dir", str(prepared), "--split", "test[:20]"]
    assert __main__.main(words) == 0
    assert "| noise alone" in capsys.readouterr().out
    output = tmp_path / "novelty.json"
    assert __main__.main([*words, "--fit", str(output)]) == 2
    assert "192 training and 64 validation patches are too few" in capsys.readouterr().err
    assert not output.exists()
    monkeypatch.setattr(novelty, "fit", lambda train, validation: reference)
    assert __main__.main([*words, "--fit", str(output)]) == 0
    assert json.loads(output.read_text()) == reference


def test_the_shipped_reference_is_small_and_knows_its_threshold():
    assert novelty.SHIPPED_REFERENCE.stat().st_size < 150_000
    assert novelty.shipped()["measures"] == list(novelty.MEASURES)
    assert novelty.shipped()["threshold"] == novelty.THRESHOLD
    with pytest.raises(AttributeError, match="no attribute 'SOMETHING'"):
        _ = novelty.SOMETHING
    plain = np.full((1, 96, 96, 3), 255, "uint8")
    assert novelty.score(plain)[0] > novelty.THRESHOLD
    assert novelty.sentence(novelty.score(plain)[0], plain[0])


@pytest.mark.real
def test_the_shipped_reference_does_on_real_patches_what_it_says(real_source):
    if data.count(real_source, "validation") != 3000:
        pytest.skip("the reference is of the subset of 3,000 validation patches")
    patches = data.read_patches(real_source, "validation[1500:]")["image"]
    counted = novelty.shipped()["false_alarms"]
    noticed = int((novelty.score(patches) > novelty.THRESHOLD).sum())
    assert counted["patches"] == len(patches)
    # Another processor may round a patch at the threshold to its other side.
    assert abs(noticed - counted["noticed"]) <= 1
    found = novelty.detection([{"image": patches[:50]}]).set_index("kind")
    assert (found.loc[["blur, sigma px 4", "JPEG quality 5", "inverted"], "share"] > 0.95).all()
    assert found.loc["haematoxylin gain 2", "share"] > 0.5
