"""Generated patches are a data directory like any other; judging them says what they are."""

import numpy as np
import pytest
import tiny_generator
from tiny_generator import drawn, features

from pcam_tf import data
from pcam_tf.errors import InputError
from pcam_tf.gan import generated, judge, patches
from pcam_tf.task import PCAM


def test_generated_patches_are_a_source_that_says_where_they_are_from(finished, tmp_path):
    generator = generated.load(finished)
    generated.write(generator, tmp_path, {"tumour": 5, "normal": 3}, seed=7)
    source = data.open_source(tmp_path)
    assert data.task_of(source) == PCAM
    assert generator.digest in source.info.description and "seed 7" in source.info.description
    read = data.read_patches(source, "train")
    assert all(name.startswith("generated_7_") for name in read["id"])
    assert np.bincount(read["label"]).tolist() == [3, 5]
    # The centre is what was generated; around it is its mirror image.
    rows = {name: row for row, name in enumerate(read["id"])}
    (images,) = generated.images(generator, 1, 5, seed=7)
    stored = read["image"][[rows[f"generated_7_tumour_{number}"] for number in range(5)]]
    np.testing.assert_array_equal(patches.centre(stored, 32), images)
    np.testing.assert_array_equal(stored[:, :, 31], stored[:, :, 32])


def test_a_patch_depends_on_seed_and_number_alone(finished):
    generator = generated.load(finished)
    few, many = (next(generated.images(generator, 0, count, seed=1)) for count in (3, 9))
    np.testing.assert_array_equal(few, many[:3])
    other = next(generated.images(generator, 0, 3, seed=2))
    assert not np.array_equal(few, other)


def test_what_is_no_generator_and_no_class_is_refused(finished, tmp_path):
    with pytest.raises(InputError, match="holds no generator"):
        generated.load(tmp_path)
    with pytest.raises(InputError, match="give a number of patches of normal or tumour"):
        generated.write(generated.load(finished), tmp_path / "made", {"cat": 3}, 0)
    (tmp_path / "generator.json").write_bytes((finished / "generator.json").read_bytes())
    with pytest.raises(InputError, match="has not ended"):
        generated.load(tmp_path)
    (tmp_path / "generator.keras").write_text("nothing")
    with pytest.raises(InputError, match="holds a damaged generator"):
        generated.load(tmp_path)


def test_judging_tells_a_poor_generator_from_real_patches(finished):
    made = [next(generated.images(generated.load(finished), label, 60, 0)) for label in (0, 1)]
    ids = np.array([f"generated_{number}" for number in range(120)])
    poor = patches.Patches(ids, np.concatenate(made), np.repeat([0, 1], 60))
    real, held_out = drawn(240), drawn(120, "validation")
    found = judge.judge(judge.Sets(poor, real, held_out), PCAM, features)
    assert set(found) == {"normal", "tumour"}
    for numbers in found.values():
        assert numbers["patches"] == 60
        assert numbers["kid"] > 10 * abs(numbers["kid_floor"])
        assert numbers["precision"] + 0.1 < numbers["precision_floor"]
        assert numbers["recall"] < 0.2 < 0.6 < numbers["recall_floor"]
        assert numbers["real_or_generated_auc"] > 0.8
    rows = judge.rows(found)
    assert [row["measure"] for row in rows][:6] == [
        "kid", "precision", "recall", "real or generated auc",
        "too near by pixels", "too near by features"]  # fmt: skip
    # Both classifiers tell from patches of other slides, so it is one column's reference.
    reference = found["normal"]["real_or_generated_auc_floor"]
    assert rows[3]["real, other slides"] == f"{reference:.3f}"
    assert rows[3]["real, same slides"] == "–"


def test_judging_copies_of_the_training_patches_finds_them():
    real = drawn(120)
    found = judge.judge(judge.Sets(real, real, drawn(160, "validation")), PCAM, features)
    for numbers in found.values():
        # Copies are planted of training patches of the class, of which there are 60.
        assert numbers["copies"]["planted"] == numbers["copies_by_pixels"]["planted"] == 60
        for way in ("pixels", "features"):
            assert numbers[f"copies_by_{way}"]["generated"] == numbers["copies"]["generated"] == 60


def test_labels_are_judged_by_their_order_as_well_as_by_half():
    real, held_out = drawn(120), drawn(60, "validation")
    swapped = patches.Patches(real.id, real.image, 1 - real.label)
    found = {
        name: judge.judge(judge.Sets(made, real, held_out), PCAM, features, lambda each: each[:, 0])
        for name, made in (("right", real), ("swapped", swapped))
    }
    right, wrong = (each["both"]["label_auc"] for each in found.values())
    assert right == pytest.approx(1 - wrong) and right != pytest.approx(0.5, abs=0.01)
    last = judge.rows(found["right"])[-1]
    assert (last["class"], last["measure"]) == ("both", "label auc")
    assert last["generated"] == f"{right:.3f}"


def test_patches_of_different_sides_or_too_few_are_not_compared():
    read = drawn(64)
    small = patches.Patches(read.id, patches.centre(read.image, 16), read.label)
    with pytest.raises(InputError, match="different sides"):
        judge.judge(judge.Sets(small, read, read), PCAM, tiny_generator.features)
    few = read.part(np.arange(16))
    with pytest.raises(InputError, match="judging needs 20 or more"):
        judge.judge(judge.Sets(few, read, read), PCAM, tiny_generator.features)
