import dataclasses
import json

import numpy as np
import pytest

from pcam_tf import data, evaluation
from pcam_tf.errors import InputError
from pcam_tf.stain import normalization as stain_normalization
from pcam_tf.studies import normalization, robustness
from pcam_tf.training import recipes

SETTINGS = normalization.Settings(
    dataclasses.replace(recipes.preset("smoke"), weights=None, frozen_views=2),
    patches=96, validation=64,
)  # fmt: skip


class _Colours:
    """Stands for a network: its features are means and deviations of the channels."""

    def predict_on_batch(self, patches):
        moments = [patches.mean(axis=(1, 2)), patches.std(axis=(1, 2)), patches[:, 48, 48]]
        return np.concatenate(moments, axis=1)


@pytest.fixture(scope="module")
def found(tiny_source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalization, "_extractor", lambda *_: _Colours())
        yield folder, *normalization.study(tiny_source, folder, SETTINGS)


def test_a_study_predicts_the_test_patches_in_all_conditions(found, tiny_source):
    _, labels, predicted = found
    assert len(labels) == data.count(tiny_source, "test")
    keys = {(shift, level) for shift, levels in normalization.SHIFTS.items() for level in levels}
    assert set(predicted) == keys
    for by_condition in predicted.values():
        assert list(by_condition) == list(normalization.CONDITIONS)
        assert all(each.shape == labels.shape for each in by_condition.values())
    plain = predicted["eosin gain", 1]
    assert len({tuple(each.round(9)) for each in plain.values()}) == 4  # no two are the same
    assert not np.allclose(plain["neither"], predicted["eosin gain", 1.6]["neither"])


def test_a_study_goes_on_from_its_features_and_refuses_those_of_another(found, tiny_source):
    folder, _, predicted = found
    files = {path: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    assert len(files) == 2 + 4 + 2 + 2 * 7  # train as it is, other views, validation, test
    _, again = normalization.study(tiny_source, folder, SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    for key, by_condition in predicted.items():
        for name, scores in by_condition.items():
            np.testing.assert_array_equal(again[key][name], scores)
    file = folder / "settings.json"
    older = json.loads(file.read_text())
    del older["recipe"]["dropout"]  # as if recipes had got it since then
    older |= {"views": older["recipe"]["frozen_views"]}
    older["recipe"]["frozen_views"] = 1
    file.write_text(json.dumps(older))
    normalization.study(tiny_source, folder, SETTINGS)
    other = dataclasses.replace(SETTINGS, patches=64)
    with pytest.raises(InputError, match="holds another study"):
        normalization.study(tiny_source, folder, other)
    assert json.loads((folder / "settings.json").read_text())["patches"] == 96


def test_gains_are_paired_differences_of_auc():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 150)
    keys = [(shift, level) for shift, levels in normalization.SHIFTS.items() for level in levels]
    worse = labels + rng.normal(0, 1.5, 300)
    better = labels + rng.normal(0, 0.3, 300)
    predicted = {
        key: {
            name: (better if name == "both" and key[1] != 1 else worse)
            for name in normalization.CONDITIONS
        }
        for key in keys
    }
    rows = normalization.summary_rows(labels, predicted)
    assert [row["test patches"] for row in rows][::7] == ["unchanged", "mean under shift"]
    assert rows[0]["AUC, neither"] == f"{evaluation.auc(labels, worse):.3f}"
    assert {rows[0][name] for name in ("augmented", "normalised", "both")} == {
        "+0.000 (+0.000 to +0.000)"
    }
    gain = evaluation.auc(labels, better) - evaluation.auc(labels, worse)
    assert rows[-1]["both"].startswith(f"{gain:+.3f} (+")
    assert rows[-1]["normalised"] == "+0.000 (+0.000 to +0.000)"


def test_the_reference_is_a_usual_patch(tiny_source):
    patches = data.read_patches(tiny_source, "train[:5]")["image"]
    pale = robustness.gain(patches, 0.4, 0)
    blank = np.full_like(patches[:1], 245)
    chosen = normalization.reference_of(np.concatenate([blank, patches, pale[:1]]), "macenko")
    strengths = [stain_normalization.fit(each).strengths[0] for each in patches]
    assert min(strengths) <= chosen.strengths[0] <= max(strengths)
    with pytest.raises(InputError, match="too little tissue"):
        normalization.reference_of(blank, "reinhard")
