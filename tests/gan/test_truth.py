"""What is measured of drawn tissue is what is true of it."""

import numpy as np
from tiny_generator import drawn

from pcam_tf import stain, synthetic
from pcam_tf.gan import truth


def test_discs_of_haematoxylin_are_counted():
    amounts = np.full((2, 48, 48, 2), 0.2)
    rows, columns = np.mgrid[:48, :48]
    for number, (row, column) in enumerate([(8, 8), (8, 30), (30, 10), (35, 35)]):
        disc = np.hypot(rows - row, columns - column) < 4
        amounts[0, disc, 0] = 1.5
        if number < 2:
            amounts[1, disc, 0] = 1.5
    assert truth.nuclei(stain.mix(amounts, stain.MIXING[:2])).tolist() == [4, 2]


def test_the_stains_of_drawn_patches_are_near_those_that_they_were_drawn_with():
    found = synthetic.draw_patches(40, split="train")
    known = np.unique(found.stain_vectors[:, 0], axis=0)
    errors = truth.stain_errors(found.image, known)
    assert np.nanmedian(errors) < 6
    wrong = truth.stain_errors(found.image[..., ::-1], known)
    assert np.nanmedian(wrong) > 2 * np.nanmedian(errors)


def test_the_table_tells_patches_with_swapped_labels(monkeypatch):
    monkeypatch.setattr(truth, "_DRAWN", 200)
    config = synthetic.config_of(train=128, validation=64, test=64, seed=0)
    right = drawn(64, "test")  # which the rule has not seen
    wrong = type(right)(right.id, right.image, 1 - right.label)
    shares = []
    for given in (right, wrong):
        table = truth.rows(given, config)
        assert len(table) == 6
        shares.append(float(table[-1]["generated"]))
    assert shares[0] > 0.75 > 0.25 > shares[1]
    only = right.part(np.flatnonzero(right.label == 1))
    assert {row["class"] for row in truth.rows(only, config)} == {"tumour"}
