import block_model
import fake_engines
import numpy as np
import odd_pictures
import pytest

from pcam_tf import slides
from pcam_tf.errors import InputError
from pcam_tf.models import engines
from pcam_tf.slides import field_predictors, region_fields


def patches_of(engine, region):
    return slides.heat_map(lambda patches: engines.probabilities(engine, patches)[:, 0], region)


@pytest.mark.parametrize("times", [(1, 1), (6, 1), (7, 6)])
def test_fields_patch_by_patch_are_the_patches_of_a_region(times):
    """A region within one field, beyond one, and of several fields; with glass in it."""
    region = np.tile(odd_pictures.REGION, (*times, 1))
    region[:130, :130] = 240
    engine, told = fake_engines.CentreEngine(), []
    predictor = field_predictors.patch_by_patch(engine)
    found = region_fields.heat_map(predictor, region, lambda *counts: told.append(counts))
    np.testing.assert_array_equal(found, patches_of(engine, region))
    cells = int(np.isfinite(found).sum())
    assert told[-1] == (cells, cells) and np.isnan(found[:4, :4]).all()


def test_one_pass_over_fields_gives_what_patches_give(tmp_path, monkeypatch):
    run = block_model.write_run(tmp_path / "run", monkeypatch)
    region = np.tile(odd_pictures.REGION, (6, 5, 1))
    exact, _ = field_predictors.load(run, engine="tensorflow")
    found = region_fields.heat_map(field_predictors.one_pass(run), region)
    np.testing.assert_allclose(found, region_fields.heat_map(exact, region), atol=1e-4)


def test_a_model_that_returns_no_numbers_is_refused():
    predictor = field_predictors.patch_by_patch(fake_engines.SilentEngine())
    with pytest.raises(InputError, match="the model"):
        region_fields.heat_map(predictor, odd_pictures.REGION)


def test_a_region_without_tissue_is_not_predicted():
    engine = fake_engines.CentreEngine()
    glass = np.full((200, 300, 3), 240, "uint8")
    found = region_fields.heat_map(field_predictors.patch_by_patch(engine), glass)
    assert np.isnan(found).all() and found.shape == (7, 10) and engine.seen == 0
