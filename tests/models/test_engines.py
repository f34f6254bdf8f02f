import concurrent.futures
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pandas as pd
import pytest
import tiny_training
from PIL import Image

from pcam_tf import __main__, data, prediction, synthetic
from pcam_tf.app import findings
from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier, engines, model_files

NOISE = np.random.default_rng(0).integers(0, 256, (33, 96, 96, 3), dtype="uint8")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a small, untrained classifier in a file, with its export beside it."""
    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
        model = classifier.build(backbone="Tiny", weights=None, crop_px=48)
    # Untrained, it would call every patch 0.5.
    model.get_layer("tumour_probability").kernel.assign(10 * model.get_weights()[-2])
    path = tmp_path_factory.mktemp("exported") / "model.keras"
    classifier.save(model, path)
    assert engines.export(path) == path.with_name("model.litert")
    return path


@pytest.fixture
def model_file(exported, tmp_path):
    """Return a copy of both files, to spoil."""
    shutil.copytree(exported.parent, tmp_path / "run")
    return tmp_path / "run" / "model.keras"


@pytest.mark.parametrize("count", [1, 2, 5, 8, 9, 33])
def test_any_number_of_patches_is_predicted_as_keras_would(exported, count):
    engine, model = engines.load(exported.parent), classifier.load(exported)
    assert isinstance(engine, engines.LiteRT)
    patches = NOISE[:count].astype("float32")
    found = engine.predict_on_batch(patches)
    assert found.shape == (count, 1) and found.dtype == "float32"
    np.testing.assert_allclose(found, model.predict_on_batch(patches), atol=1e-5)
    np.testing.assert_array_equal(engine.predict_on_batch(NOISE[:count]), found)
    assert count == 1 or np.ptp(found) > 1e-3


def test_no_patches_and_patches_of_another_shape(exported):
    engine = engines.load(exported)
    assert engine.predict_on_batch(NOISE[:0]).shape == (0, 1)
    for wrong in (NOISE[0], NOISE[:, :95], NOISE[..., :1]):
        with pytest.raises(InputError, match="give \\(n, 96, 96, 3\\)"):
            engine.predict_on_batch(wrong)


def test_many_threads_get_their_own_answers(exported):
    engine = engines.load(exported)
    expected = engine.predict_on_batch(NOISE)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        starts = [start for start in range(25) for _ in range(4)]
        found = threads.map(lambda start: engine.predict_on_batch(NOISE[start : start + 9]), starts)
        for start, got in zip(starts, found, strict=True):
            np.testing.assert_allclose(got, expected[start : start + 9], atol=1e-6)


def test_the_shipped_export_predicts_as_its_model():
    engine = engines.load()
    assert isinstance(engine, engines.LiteRT)
    assert engines.export_file(model_files.SHIPPED_MODEL).stat().st_size < 10_000_000
    patches = np.concatenate([synthetic.draw_patches(40, split="test").image, NOISE[:8]])
    for augmented in (False, True):
        expected, found = (
            prediction.probabilities(each, patches, test_time_augmentation=augmented)
            for each in (classifier.load(), engine)
        )
        np.testing.assert_allclose(found, expected, atol=1e-3)
        assert np.ptp(found) > 0.5


@pytest.mark.real
def test_the_shipped_export_predicts_real_patches_as_its_model(real_source):
    patches = data.read_patches(real_source, "validation[:200]")["image"]
    expected, found = (
        prediction.probabilities(each, patches) for each in (classifier.load(), engines.load())
    )
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_small_export_is_smaller_and_predicts_the_same(model_file):
    size = engines.export_file(model_file).stat().st_size
    expected = engines.load(model_file).predict_on_batch(NOISE)
    export = engines.export(model_file, small=True)
    assert export.stat().st_size < size
    found = engines.load(model_file).predict_on_batch(NOISE)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert not np.array_equal(found, expected)


def spoil(model_file, kind):
    """Make the export of a model one that cannot be used."""
    export = engines.export_file(model_file)
    content = export.read_bytes()
    middle = len(content) // 2
    if kind == "stale":
        model = classifier.load(model_file)
        model.set_weights([2 * weights for weights in model.get_weights()])
        classifier.save(model, model_file)
    elif kind == "truncated":
        export.write_bytes(content[:middle])
    elif kind == "damaged":
        export.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    elif kind == "empty":
        export.write_bytes(b"")
    elif kind == "text":
        export.write_text("no export")
    elif kind == "no model in it":
        with zipfile.ZipFile(export) as archive:
            about = archive.read("export.json")
        with zipfile.ZipFile(export, "w") as archive:
            archive.writestr("export.json", about)
            archive.writestr("model.tflite", bytes(64))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("stale", "is of another model than"),
        ("truncated", "is damaged"),
        ("damaged", "is damaged"),
        ("empty", "is damaged"),
        ("text", "is damaged"),
        ("no model in it", "LiteRT cannot run"),
    ],
)
def test_an_export_that_cannot_be_used_is_noticed(model_file, kind, message):
    spoil(model_file, kind)
    with pytest.raises(InputError, match=message) as error:
        engines.load(model_file, "litert")
    assert "\n" not in str(error.value)
    assert f"python -m pcam_tf export --model {model_file}" in str(error.value)
    with pytest.warns(UserWarning, match=message) as warned:
        engine = engines.load(model_file)
    assert isinstance(engine, keras.Model)
    assert len(warned) == 1 and "\n" not in str(warned[0].message)
    engines.export(model_file)
    assert isinstance(engines.load(model_file), engines.LiteRT)


def test_without_an_export_keras_predicts(model_file):
    engines.export_file(model_file).unlink()
    assert isinstance(engines.load(model_file), keras.Model)
    with pytest.raises(InputError, match="has no export"):
        engines.load(model_file, "litert")


def test_without_litert_keras_predicts(model_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.warns(UserWarning, match="LiteRT cannot be imported"):
        assert isinstance(engines.load(model_file), keras.Model)
    with pytest.raises(InputError, match="pip install ai-edge-litert"):
        engines.load(model_file, "litert")
    assert isinstance(engines.load(model_file, "tensorflow"), keras.Model)


def test_a_model_that_litert_predicts_otherwise_is_not_exported(model_file, monkeypatch):
    before = engines.export_file(model_file).read_bytes()
    monkeypatch.setattr(engines, "TOLERANCE", 0)
    with pytest.raises(InputError, match="an output moves by"):
        engines.export(model_file)

    def fails(_):
        raise RuntimeError("no such operation\nin many lines")

    monkeypatch.setattr(engines, "_converted", fails)
    with pytest.raises(InputError, match="cannot be exported for LiteRT \\(no such operation\\)"):
        engines.export(model_file)
    assert engines.export_file(model_file).read_bytes() == before


def test_many_patches_of_any_model_go_through_litert(model_file):
    extractor = classifier.feature_extractor(classifier.load(model_file))
    assert engines.fastest(extractor, 10) is extractor
    fast = engines.fastest(extractor, 10**6)
    assert isinstance(fast, engines.LiteRT)
    expected = extractor.predict_on_batch(NOISE)
    assert expected.shape[1] > 1
    np.testing.assert_allclose(fast.predict_on_batch(NOISE), expected, atol=1e-4)
    assert fast.predict_on_batch(NOISE[:0]).shape == (0, expected.shape[1])


def test_what_litert_cannot_run_is_left_to_keras(model_file, monkeypatch):
    model = classifier.load(model_file)
    monkeypatch.setattr(engines, "TOLERANCE", 0)
    with pytest.warns(UserWarning, match="LiteRT cannot run .* TensorFlow does"):
        assert engines.fastest(model, 10**6) is model


def test_the_page_reads_with_either_engine(exported):
    fast, slow = (findings.load_reader(exported, engine) for engine in ("litert", "tensorflow"))
    assert isinstance(fast.engine, engines.LiteRT) and slow.engine is slow.model
    for read in (findings.probabilities, findings.probabilities_one_view):
        np.testing.assert_allclose(read(fast, NOISE[:3]), read(slow, NOISE[:3]), atol=1e-5)
    assert fast.name == slow.name
    explained = [findings.explanation(each, NOISE[0], 1) for each in (fast, slow)]
    np.testing.assert_allclose(*explained, atol=1e-4)


def run(*words) -> int:
    return __main__.main([str(word) for word in words])


def test_a_model_is_exported_and_predicts_by_either_engine(model_file, tmp_path, capsys):
    engines.export_file(model_file).unlink()
    assert run("export", "--model", model_file.parent) == 0
    assert "exported to" in capsys.readouterr().out
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for patch, name in zip(NOISE[:3], "abc", strict=True):
        Image.fromarray(patch).save(pictures / f"{name}.png")
    tables = []
    for engine in ("litert", "tensorflow"):
        words = ["predict", "--images", pictures, "--model", model_file, "--engine", engine]
        assert run(*words, "--output", tmp_path / f"{engine}.csv") == 0
        tables.append(pd.read_csv(tmp_path / f"{engine}.csv"))
    pd.testing.assert_frame_equal(*tables, atol=1e-5, rtol=0)


def test_an_engine_that_there_is_not_is_one_line(model_file, tmp_path, capsys):
    output = tmp_path / "table.csv"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    words = ["predict", "--images", pictures, "--model", model_file, "--output", output]
    assert run(*words, "--engine", "litret") == 2  # before the folder is found to be empty
    assert "error: unknown engine 'litret': did you mean 'litert'?" in capsys.readouterr().err
    spoil(model_file, "truncated")
    Image.fromarray(NOISE[0]).save(pictures / "one.png")
    assert run(*words, "--engine", "litert") == 2
    printed = capsys.readouterr().err
    assert printed.count("error: ") == 1 and "is damaged" in printed and "Traceback" not in printed
    assert not output.exists()


def test_pictures_are_predicted_without_tensorflow(tmp_path):
    Image.fromarray(NOISE[0]).save(tmp_path / "one.png")
    script = (
        "import sys; from pcam_tf import __main__; status = __main__.main(sys.argv[1:]); "
        "heavy = {'tensorflow', 'keras', 'tensorflow_datasets'} & set(sys.modules); "
        "print(heavy); sys.exit(status or bool(heavy))"
    )
    words = ["predict", "--images", tmp_path, "--output", tmp_path / "table.csv"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(pd.read_csv(tmp_path / "table.csv")["id"]) == ["one.png"]
