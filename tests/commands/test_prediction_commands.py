import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds
from command_runner import refused, run
from PIL import Image

from pcam_tf import evaluation
from pcam_tf.models import model_files
from pcam_tf.prediction import tables


def test_two_models_are_averaged(prepared, model_file, tmp_path, capsys):
    words = ["predict", "--data-dir", prepared, "--split", "test[:8]", "--model", model_file]
    words += ["--no-test-time-augmentation", "--output"]
    assert run(*words, tmp_path / "one.csv") == 0
    shipped = model_files.SHIPPED_MODEL
    both = ["--average", "--model", model_file, shipped]
    assert run(*words, tmp_path / "average.csv", *both) == 0
    words[words.index(model_file)] = shipped
    assert run(*words, tmp_path / "shipped.csv") == 0
    one, shipped, average = (
        pd.read_csv(tmp_path / f"{name}.csv") for name in ("one", "shipped", "average")
    )
    low = np.minimum(one["probability"], shipped["probability"])
    high = np.maximum(one["probability"], shipped["probability"])
    assert average["probability"].between(low, high).all()
    assert (average["probability"] - one["probability"]).abs().max() > 1e-3
    for wrong in (["--average"], both[1:]):
        words = ["predict", "--data-dir", prepared, "--model", shipped, *wrong]
        assert run(*words, "--output", tmp_path / "wrong.csv") == 2
        assert "--average takes several models" in capsys.readouterr().err
    assert not (tmp_path / "wrong.csv").exists()


def test_slides_travel_from_the_source_to_the_report(
    prepared, model_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(tables, "BATCH_SIZE", 32)
    copied = tmp_path / "data"
    shutil.copytree(prepared, copied)
    rows = [{"id": f"test_{row}", "group": f"00{row % 12}"} for row in range(64)]
    version_dir = copied / "patch_camelyon" / "2.0.0"
    pd.DataFrame(rows).to_csv(version_dir / "groups.csv", index=False)
    words = ["predict", "--data-dir", copied, "--model", model_file, "--no-test-time-augmentation"]
    assert run(*words, "--output", tmp_path / "whole.csv") == 0
    table = evaluation.read_predictions(tmp_path / "whole.csv")
    assert list(table) == ["id", "label", "probability", "group"]
    given = {row["id"]: row["group"] for row in rows}
    assert (table["group"] == table["id"].map(given)).all()
    for part in (1, 2):
        assert run(*words, "--shard", f"{part}/2", "--output", tmp_path / f"{part}.csv") == 0
    merged = tmp_path / "merged.csv"
    assert run("merge", tmp_path / "1.csv", tmp_path / "2.csv", "--output", merged) == 0
    assert merged.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert run("evaluate", merged) == 0
    assert "patches resampled by group" in capsys.readouterr().out
    # Other splits know no slides, and plain TFDS reads the directory as before.
    assert run(*words, "--split", "validation[:4]", "--output", tmp_path / "v.csv") == 0
    assert list(pd.read_csv(tmp_path / "v.csv")) == ["id", "label", "probability"]
    assert len(tfds.load("patch_camelyon", split="test", data_dir=copied)) == 64


def test_kaggle_takes_the_probability_as_label(prepared, model_file, tmp_path, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype="uint8")
    Image.fromarray(noise).save(tmp_path / "0b2e.tif")
    words = ["predict", "--model", model_file, "--images", tmp_path / "0b2e.tif"]
    assert run(*words, "--output", tmp_path / "table.csv") == 0
    kaggle = ["--format", "kaggle", "--output", tmp_path / "kaggle.csv"]
    assert run(*words, *kaggle) == 0
    table, submission = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("table", "kaggle"))
    assert list(submission) == ["id", "label"] and list(submission["id"]) == ["0b2e"]
    assert list(submission["label"]) == list(table["probability"])
    capfd.readouterr()
    refused(run(*words, "--format", "csv"), capfd, "choose table or kaggle")
    whole = ["predict", "--data-dir", prepared, "--shard", "1/2", "--model", model_file]
    refused(run(*whole, *kaggle), capfd, "without --shard")


def test_predict_pictures(model_file, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype="uint8")
    Image.fromarray(noise).save(tmp_path / "one.png")
    output = tmp_path / "pictures.csv"
    assert run("predict", "--images", tmp_path, "--model", model_file, "--output", output) == 0
    table = pd.read_csv(output)
    assert list(table["id"]) == ["one.png"]
    assert table["label"].isna().all()
    assert table["probability"].between(0, 1).all()


def test_the_scale_of_pictures_may_be_given(model_file, prepared, tmp_path, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype="uint8")
    large = Image.fromarray(noise).resize((384, 384), Image.Resampling.BICUBIC)
    large.save(tmp_path / "stated.tif", resolution=25_400 / 0.243, resolution_unit=2)
    large.save(tmp_path / "silent.png")
    words = ["predict", "--model", model_file, "--output", tmp_path / "table.csv"]
    assert run(*words, "--images", tmp_path / "stated.tif") == 0
    stated = pd.read_csv(tmp_path / "table.csv")["probability"][0]
    assert "rescaled from 0.243 to 0.972" in capfd.readouterr().err
    assert run(*words, "--images", tmp_path / "silent.png", "--mpp", 0.243) == 0
    assert pd.read_csv(tmp_path / "table.csv")["probability"][0] == stated
    refused(run(*words, "--images", tmp_path / "silent.png", "--mpp", 0), capfd, "from 0.1 to 5")
    refused(run(*words, "--data-dir", prepared, "--mpp", 0.5), capfd, "--images")


def test_test_time_augmentation_does_not_depend_on_which_way_is_up(model_file, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype="uint8")
    Image.fromarray(noise).save(tmp_path / "one.png")
    Image.fromarray(np.rot90(noise)).save(tmp_path / "two.png")
    words = ["predict", "--images", tmp_path, "--model", model_file]
    assert run(*words, "--output", tmp_path / "eight.csv") == 0
    first, second = pd.read_csv(tmp_path / "eight.csv")["probability"]
    assert first == pytest.approx(second, abs=1e-6)
    words += ["--no-test-time-augmentation", "--output", tmp_path / "one.csv"]
    assert run(*words) == 0
    first, second = pd.read_csv(tmp_path / "one.csv")["probability"]
    assert first != pytest.approx(second, abs=1e-6)


def bad_data_dir(folder, prepared, kind):
    """Return a data directory with one fault."""
    if kind == "missing":
        return folder / "missing"
    if kind == "empty":
        return folder
    copy = folder / "copy"
    shutil.copytree(prepared, copy)
    version_dir = copy / "patch_camelyon" / "2.0.0"
    if kind == "version":
        version_dir.rename(version_dir.with_name("1.0.0"))
    elif kind == "no description":
        (version_dir / "dataset_info.json").unlink()
    elif kind == "damaged description":
        (version_dir / "features.json").write_text("{")
    else:
        record = next(version_dir.glob("*test.tfrecord*"))
        content = record.read_bytes()
        half = len(content) // 2
        if kind == "truncated":
            record.write_bytes(content[:half])
        elif kind == "damaged":
            record.write_bytes(content[:half] + bytes(100) + content[half + 100 :])
        elif kind == "no file":
            record.unlink()
    return copy


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "there is no data directory"),
        ("empty", "holds nothing where patch_camelyon/2.0.0 is needed"),
        ("version", "holds only version 1.0.0"),
        ("no description", "prepare it anew"),
        ("damaged description", "prepare it anew"),
        ("truncated", "is truncated"),
        ("damaged", "damaged"),
        ("no file", "is missing"),
    ],
)
def test_a_bad_data_directory_is_refused(prepared, model_file, tmp_path, capfd, kind, message):
    bad = bad_data_dir(tmp_path, prepared, kind)
    output = tmp_path / "predictions.csv"
    status = run("predict", "--data-dir", bad, "--model", model_file, "--output", output)
    refused(status, capfd, message)
    assert not output.exists()


def test_a_full_disk_is_one_line_and_leaves_the_old_table(
    prepared, model_file, tmp_path, capfd, monkeypatch
):
    output = tmp_path / "predictions.csv"
    output.write_text("old")

    def full(self, path, **_):
        Path(path).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    status = run("predict", "--data-dir", prepared, "--model", model_file, "--output", output)
    refused(status, capfd, "No space left")
    assert output.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]
