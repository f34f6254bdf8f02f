"""Training sets at another prevalence, and with patches of another source added: exact counts."""

import collections

import numpy as np
import pytest
import tiny_training
import toy_task

from pcam_tf import data
from pcam_tf.data import sampling
from pcam_tf.errors import InputError
from pcam_tf.task import PCAM


@pytest.mark.parametrize(
    ("prevalence", "tumour", "normal"),
    [(0.01, 101, 10_000), (0.05, 526, 10_000), (0.2, 2500, 10_000), (0.8, 10_000, 2500)],
)
def test_the_prevalence_is_exact_and_nothing_is_given_away(prevalence, tumour, normal):
    labels = np.arange(20_000) % 2
    rows = sampling.imbalanced_rows(labels, prevalence, seed=0)
    assert np.bincount(labels[rows]).tolist() == [normal, tumour]
    assert np.array_equal(rows, np.unique(rows))
    assert not np.array_equal(rows, sampling.imbalanced_rows(labels, prevalence, seed=1))


def test_the_tumour_of_a_lower_prevalence_is_among_that_of_a_higher():
    labels = np.arange(2000) % 2
    few, more = (set(sampling.imbalanced_rows(labels, each, seed=3)) for each in (0.05, 0.2))
    assert few < more


@pytest.mark.parametrize(
    ("labels", "prevalence", "says"),
    [
        ([0, 0, 0], 0.5, "3 patches of class 0 and 0 of class 1"),
        ([0, 1], 1.5, "is not between 0 and 1"),
        ([0, 1], 0.01, "leaves no patch of a class"),
    ],
)
def test_an_impossible_prevalence_is_refused(labels, prevalence, says):
    with pytest.raises(InputError, match=says):
        sampling.imbalanced_rows(np.array(labels), prevalence, seed=0)


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """Return a source of ten patches of class 1."""
    rng = np.random.default_rng(0)
    patches = [
        {"id": f"generated_{number}", "label": 1,
         "image": rng.integers(0, 256, PCAM.shape, dtype="uint8")}
        for number in range(10)
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("added")
    return data.write_source({"train": patches}, folder, PCAM)


def ids_of(source, split="train"):
    return [name for batch in data.arrays(data.batches(source, split, batch_size=64))
            for name in batch["id"]]  # fmt: skip


@pytest.mark.parametrize("weight", [0.02, 0.3, 0.5])
def test_a_mixture_holds_exactly_the_weight_of_added_patches(tiny_source, added, weight):
    own = tiny_training.SIZES["train"]
    mixture = sampling.Mixture(tiny_source, None, [sampling.Addition(added, weight)])
    names = ids_of(mixture)
    counts = collections.Counter(name.startswith("generated_") for name in names)
    assert counts[False] == own and counts[True] == round(own * weight / (1 - weight))
    assert data.count(mixture, "train") == len(names)
    # Of few patches none is read a second time before each has been read once.
    times = collections.Counter(name for name in names if name.startswith("generated_"))
    assert max(times.values()) == -(-counts[True] // 10)
    assert ids_of(mixture) == names
    first = [name.startswith("generated_") for name in names[: len(names) // 2]]
    assert sum(first) == pytest.approx(counts[True] / 2, abs=3 * len(names) ** 0.5 / 4)
    assert ids_of(mixture, "validation") == ids_of(tiny_source, "validation")


def test_a_mixture_reads_the_chosen_ids_alone_and_shuffles_all_of_it(tiny_source, added):
    ids = sampling.ids_at_prevalence(tiny_source, 0.2, seed=0)
    mixture = sampling.Mixture(tiny_source, ids, [sampling.Addition(added, 0.25)], seed=1)
    batches = data.batches(mixture, "train", batch_size=64, shuffle_seed=5)
    names = [name for batch in data.arrays(batches) for name in batch["id"]]
    assert sorted(name for name in names if not name.startswith("generated_")) == list(ids)
    last = names[-10:]
    assert any(name.startswith("generated_") for name in names[: len(names) // 2])
    assert not all(name.startswith("generated_") for name in last)
    with pytest.raises(InputError, match="cannot slice"):
        data.count(mixture, "train[:5]")
    assert data.count(mixture, "validation[:5]") == 5


def test_patches_of_another_task_and_impossible_weights_are_refused(tiny_source, added, tmp_path):
    other = toy_task.write(tmp_path)
    with pytest.raises(InputError, match="patches of shapes, 64 px"):
        sampling.Mixture(tiny_source, None, [sampling.Addition(other, 0.5)])
    with pytest.raises(InputError, match="a prevalence is about two classes"):
        sampling.ids_at_prevalence(other, 0.5, 0)
    for weight in (0.0, 1.0, -0.5):
        with pytest.raises(InputError, match="above 0 and below 1"):
            sampling.Mixture(tiny_source, None, [sampling.Addition(added, weight)])


@pytest.mark.parametrize("text", ["generated", "generated:much", ":0.3"])
def test_an_addition_without_folder_or_weight_is_refused(text):
    with pytest.raises(InputError, match="is not DIR:WEIGHT"):
        sampling.parse_addition(text)
    assert sampling.parse_addition("C:/x:0.3") == ("C:/x", 0.3)
