import keras
import numpy as np
import pandas as pd
import pytest
import tiny_training
from PIL import Image

from pcam_tf import data, prediction
from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier
from pcam_tf.prediction import tables

NOISE = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype="uint8")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
        return classifier.build(backbone="Tiny", weights=None, crop_px=48)


def test_the_eight_views_are_the_squares_symmetries():
    views = list(prediction.d4_views(NOISE[None]))
    turns = [np.rot90(side, turn) for side in (NOISE, NOISE[:, ::-1]) for turn in range(4)]
    assert len({view.tobytes() for view in views}) == 8
    assert {view.tobytes() for view in views} == {turn.tobytes() for turn in turns}


def test_test_time_augmentation_is_the_mean_over_the_views(model):
    patches = np.stack([NOISE, 255 - NOISE])
    averaged = prediction.probabilities(model, patches, test_time_augmentation=True)
    each = [prediction.probabilities(model, view) for view in prediction.d4_views(patches)]
    np.testing.assert_allclose(averaged, np.mean(each, axis=0), atol=1e-7)
    assert np.ptp(each, axis=0).min() > 0


def test_a_split_is_predicted_in_order_and_as_keras_would(model, tiny_source):
    table = prediction.predict_split(model, tiny_source, "test[:40]")
    patches = data.read_patches(tiny_source, "test[:40]")
    assert list(table.columns) == ["id", "label", "probability"]
    assert list(table["id"]) == list(patches["id"])
    assert list(table["label"]) == list(patches["label"])
    expected = model.predict(patches["image"], verbose=0)[:, 0]
    np.testing.assert_allclose(table["probability"], expected, atol=1e-6)


def test_pictures_are_read_as_their_pixels(model, tmp_path):
    grey = Image.fromarray(NOISE[..., 0])
    alpha = NOISE[..., :1]
    on_white = np.rint(NOISE * (alpha / 255) + 255 * (1 - alpha / 255)).astype("uint8")
    pictures = {
        "colour.png": (Image.fromarray(NOISE), NOISE),
        "colour.tiff": (Image.fromarray(NOISE), NOISE),
        "grey.png": (grey, np.repeat(NOISE[..., :1], 3, axis=2)),
        "alpha.png": (Image.fromarray(np.dstack([NOISE, alpha])), on_white),
    }
    for name, (picture, _) in pictures.items():
        picture.save(tmp_path / name)
    table = prediction.predict_images(model, [tmp_path / name for name in pictures])
    assert list(table["id"]) == list(pictures)
    assert table["label"].isna().all()
    expected = prediction.probabilities(
        model, np.stack([pixels for _, pixels in pictures.values()])
    )
    np.testing.assert_allclose(table["probability"], expected, atol=1e-6)


def test_jpeg_and_cmyk_are_read(model, tmp_path):
    smooth = Image.fromarray(NOISE).resize((12, 12)).resize((96, 96), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "smooth.png")
    smooth.save(tmp_path / "smooth.jpg", quality=95)
    smooth.convert("CMYK").save(tmp_path / "smooth.tif")
    table = prediction.predict_images(model, [tmp_path]).set_index("id")["probability"]
    assert table["smooth.jpg"] == pytest.approx(table["smooth.png"], abs=0.02)
    assert table["smooth.tif"] == pytest.approx(table["smooth.png"], abs=0.02)


def test_of_a_larger_picture_the_centre_is_looked_at_with_a_warning(model, tmp_path):
    large = np.zeros((200, 131, 3), "uint8")
    large[52:148, 17:113] = NOISE
    Image.fromarray(large).save(tmp_path / "large.png")
    with pytest.warns(UserWarning, match="1 of 1 pictures are larger"):
        table = prediction.predict_images(model, [tmp_path / "large.png"])
    expected = prediction.probabilities(model, NOISE[None])
    np.testing.assert_allclose(table["probability"], expected, atol=1e-6)


def bad_pictures(folder):
    """Make one bad picture of each kind."""
    Image.fromarray(NOISE[:95]).save(folder / "small.png")
    Image.fromarray(NOISE[..., 0].astype("uint16") * 256).save(folder / "deep.png")
    (folder / "text.png").write_text("no picture")
    Image.fromarray(NOISE).save(folder / "whole.png")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:5000])
    (folder / "empty").mkdir()
    (folder / "other").mkdir()
    Image.fromarray(NOISE).save(folder / "other" / "whole.png")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["small.png"], "is 96×95 px at 0.972 microns per pixel: at least 96×96"),
        (["deep.png"], "8-bit RGB"),
        (["text.png"], "not a picture"),
        (["cut.png"], "not a picture"),
        (["empty"], "holds no PNG, JPEG or TIFF"),
        (["missing.png"], "there is no file"),
        (["whole.png", "other"], "two files are called whole.png"),
        ([], "no picture was given"),
    ],
)
def test_bad_pictures_are_refused_in_one_line(model, tmp_path, names, message):
    bad_pictures(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        prediction.predict_images(model, [tmp_path / name for name in names])
    assert "\n" not in str(error.value)


def folder_of_all_sorts(folder):
    """Make a folder with two pictures, a damaged one, and what macOS and people leave in one."""
    Image.fromarray(NOISE).save(folder / "a.png")
    Image.fromarray(255 - NOISE).save(folder / "b.tif")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:5000])
    (folder / "._a.png").write_bytes(b"\0\5\x16\7")
    (folder / "folder.tif").mkdir()
    Image.fromarray(NOISE).save(folder / "folder.tif" / "c.png")
    (folder / "dead.png").symlink_to(folder / "gone.png")
    (folder / "0.png").symlink_to(folder / "a.png")
    (folder / "notes.txt").write_text("")


def test_a_damaged_picture_does_not_take_the_others_with_it(model, tmp_path, recwarn):
    folder_of_all_sorts(tmp_path)
    left_out = {}
    table = prediction.predict_images(
        model, [tmp_path, tmp_path / "a.png", tmp_path / "." / "b.tif"], left_out=left_out
    )
    assert list(table["id"]) == ["a.png", "b.tif"]
    assert list(left_out) == ["cut.png"]
    told = " ".join(str(each.message) for each in recwarn)
    assert "1 hidden, 1 dead links or no ordinary files, 1 subfolders" in told
    assert "given twice" in told and "damaged or cut short" in told
    with pytest.raises(InputError, match=r"cut\.png .*damaged"):
        prediction.predict_images(model, [tmp_path])


def test_headers_of_all_files_are_checked_before_any_work(model, tmp_path, monkeypatch):
    bad_pictures(tmp_path)
    monkeypatch.setattr(tables, "predict", lambda *_, **__: pytest.fail("predicted"))
    names = ("whole.png", "small.png", "deep.png", "text.png")
    with pytest.raises(InputError, match="3 pictures cannot be read") as error:
        prediction.predict_images(model, [tmp_path / name for name in names], left_out={})
    assert all(name in str(error.value) for name in names[1:])


def test_a_table_is_written_whole_and_keeps_seven_digits(tmp_path):
    table = pd.DataFrame({"id": ["007", "b"], "label": [0, 1], "probability": [1.23456789e-9, 1.0]})
    prediction.write(table, tmp_path / "new" / "table.csv")
    back = pd.read_csv(tmp_path / "new" / "table.csv", dtype={"id": str})
    assert list(back["id"]) == ["007", "b"]
    np.testing.assert_allclose(back["probability"], table["probability"], rtol=1e-6)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["table.csv"]


def test_an_average_has_the_mean_log_odds():
    first = pd.DataFrame({"id": ["a", "b", "c"], "label": [0, 1, 1], "probability": [0.2, 0.5, 1]})
    second = first.assign(probability=[0.8, 0.9, 0.5])
    found = prediction.average([first, second])
    # Odds of 1 and 9 have the geometric mean 3.
    assert found["probability"].to_numpy()[:2] == pytest.approx([0.5, 0.75])
    assert 0.99 < found["probability"][2] < 1
    assert list(found["id"]) == ["a", "b", "c"] and list(found["label"]) == [0, 1, 1]
