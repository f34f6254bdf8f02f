import dataclasses

import block_model
import fake_engines
import numpy as np
import pytest

from pcam_tf import slides, task
from pcam_tf.errors import InputError
from pcam_tf.models import field_engines
from pcam_tf.slides import field_predictors, fields, reader
from pcam_tf.slides.grid import grid_over
from pcam_tf.task import PCAM


@pytest.fixture(autouse=True)
def small_fields(monkeypatch):
    monkeypatch.setattr(field_predictors, "_CELLS", 4)


def predicted(slide, predictor, wanted):
    found = np.full(wanted.shape, np.nan, "float32")
    for unit, values in fields.predicted(
        slide, fields.units_of(slide, wanted, predictor), predictor
    ):
        fields.put(found, unit, values)
    return found


@pytest.mark.parametrize("step_px", [32, 24, 13, 96])
@pytest.mark.parametrize("at_once", [1, 7, 256])
def test_fields_give_what_patches_give(slide_file, monkeypatch, step_px, at_once):
    monkeypatch.setattr(field_predictors, "_PATCHES_AT_ONCE", at_once)
    with reader.opened(slide_file(kind="tiff", mpp=1.0)) as slide:
        predictor = field_predictors.patch_by_patch(fake_engines.CentreEngine(), step_px)
        grid = grid_over(slide.size, slide.mpp, predictor.step_um)
        wanted = np.random.default_rng(0).random((grid.rows, grid.columns)) < 0.5
        found = predicted(slide, predictor, wanted)
        np.testing.assert_array_equal(np.isnan(found), ~wanted)
        engine = fake_engines.CentreEngine()
        for row, column in np.argwhere(wanted)[::9]:
            top, left = (
                cell * step_px - (PCAM.side_px - step_px + 1) // 2 for cell in (row, column)
            )
            # The field's own rescaling, to the last bit of the resampling's rounding.
            patch = slide.window(left, top, PCAM.side_px, PCAM.side_px, PCAM.mpp)
            expected = engine.predict_on_batch(patch[None].astype("float32"))[0, 0]
            assert found[row, column] == pytest.approx(expected, abs=2 / 255)


def test_on_a_slide_at_the_task_s_scale_it_is_the_heat_map_of_the_region(tmp_path, drawing):
    from PIL import Image

    Image.fromarray(drawing).save(tmp_path / "slide.png")
    engine = fake_engines.CentreEngine()
    region = slides.heat_map(lambda patches: engine.predict_on_batch(patches)[:, 0], drawing)
    with reader.opened(tmp_path / "slide.png", PCAM.mpp) as slide:
        found = predicted(slide, field_predictors.patch_by_patch(engine), ~np.isnan(region))
    np.testing.assert_allclose(found, region, atol=1e-6)


def test_units_of_strips_are_whole_rows_and_every_wanted_cell_is_in_one(slide_file):
    predictor = field_predictors.patch_by_patch(fake_engines.CentreEngine())
    wanted = np.random.default_rng(1).random((20, 20)) < 0.1
    wanted[4:8] = False
    for options, rows in (
        ({"kind": "tiff", "mpp": 1.0}, None),
        ({"kind": "strips", "mpp": 1.0}, 1),
    ):
        with reader.opened(slide_file(**options)) as slide:
            units = fields.units_of(slide, wanted, predictor)
            found = predicted(slide, predictor, wanted)
        assert sum(unit.count for unit in units) == wanted.sum()
        np.testing.assert_array_equal(np.isnan(found), ~wanted)
        if rows:
            assert [len({row for row, _ in unit.fields}) for unit in units] == [1] * len(units)
            assert len(units) == 4


def test_strips_and_tiles_show_the_same(slide_file):
    predictor = field_predictors.patch_by_patch(fake_engines.CentreEngine())
    wanted, found = np.ones((20, 20), bool), []
    for kind in ("tiff", "strips"):
        with reader.opened(slide_file(kind=kind, mpp=0.4961, levels=1, unit="INCH")) as slide:
            found.append(predicted(slide, predictor, wanted))
    np.testing.assert_allclose(found[0], found[1], atol=0.02)


def test_what_no_heat_map_can_be_made_of_is_refused(slide_file):
    engine = fake_engines.CentreEngine()
    for step_px in (0, 11, 97):
        with pytest.raises(InputError, match="give 12 to 96 px"):
            field_predictors.patch_by_patch(engine, step_px)
    for other, message in ((task.BREAKHIS, "8 classes"), (task.BREAKHIS_MALIGNANT, "states no")):
        engine.task = other
        with pytest.raises(InputError, match=message):
            field_predictors.patch_by_patch(engine)
    engine.task = dataclasses.replace(PCAM, centre_px=None)
    assert field_predictors.patch_by_patch(engine).step_px == PCAM.side_px // 2


def test_a_model_that_returns_no_numbers_is_refused(slide_file):
    predictor = field_predictors.patch_by_patch(fake_engines.SilentEngine())
    with (
        reader.opened(slide_file(kind="tiff", mpp=1.0)) as slide,
        pytest.raises(InputError, match="the model"),
    ):
        predicted(slide, predictor, np.ones((20, 20), bool))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a run's folder with a model to which it makes no difference what is around a patch."""
    return block_model.write_run(tmp_path / "run", monkeypatch)


def test_one_pass_gives_what_patches_give(slide_file, run):
    found = []
    for exact, name in ((False, "one pass"), (True, "patch by patch")):
        options = {"engine": "tensorflow"} if exact else {}
        predictor, _ = field_predictors.load(run, exact=exact, **options)
        assert predictor.name == name
        with reader.opened(slide_file(kind="tiff", mpp=1.0)) as slide:
            found.append(predicted(slide, predictor, np.ones((10, 10), bool)))
    # The fields' own rescaling differs in the last bit.
    np.testing.assert_allclose(found[0], found[1], atol=0.02)
    assert np.abs(found[0] - found[1]).mean() < found[0].std() / 5


def test_a_model_that_was_not_trained_for_fields_predicts_patch_by_patch(run):
    (run / "recipe.json").write_text('{"recipe": {"preset": "strong"}}')
    assert field_predictors.load(run, engine="tensorflow")[0].name == "patch by patch"
    (run / "recipe.json").write_text("[]")
    with pytest.raises(InputError, match=r"recipe\.json is not a recipe"):
        field_predictors.load(run)


def test_the_exports_of_a_model_are_what_fields_are_read_with(run, monkeypatch):
    written = field_predictors.export(run)
    assert [path.name for path in written] == ["model.litert", "model.fields.litert"]
    monkeypatch.setattr(field_engines, "_fields", lambda *_: pytest.fail("converted again"))
    predictor, _ = field_predictors.load(run)
    assert predictor.name == "one pass"
    assert field_predictors.load(run, step_px=96)[0].name == "patch by patch"
    (run / "recipe.json").write_text('{"recipe": {"preset": "strong"}}')
    assert field_predictors.export(run) == written[:1]
