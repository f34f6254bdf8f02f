import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tiny_training
from PIL import Image

from pcam_tf import __main__ as command_line
from pcam_tf import data, prediction
from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier, model_files
from pcam_tf.prediction import shards, tables

# So that the tiny splits make four batches, the last one not full.
SMALL_BATCH = 20
PROGRAM = (
    "import sys; from pcam_tf import __main__; from pcam_tf.prediction import tables; "
    f"tables.BATCH_SIZE = {SMALL_BATCH}; sys.exit(__main__.main(sys.argv[1:]))"
)


@pytest.fixture(autouse=True)
def small_batch(monkeypatch):
    monkeypatch.setattr(tables, "BATCH_SIZE", SMALL_BATCH)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return the file of a tiny model."""
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.keras"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
        classifier.save(classifier.build(backbone="Tiny", weights=None, crop_px=48), path)
    return path


@pytest.fixture
def parts(tmp_path):
    """Return three parts of a table, as predicting shards writes them."""
    table = pd.DataFrame(
        {
            "id": [f"p,{row}" for row in range(50)],
            "label": 0,
            "probability": [row / 50 for row in range(50)],
        }
    )
    prediction.write(table, tmp_path / "undivided.csv")
    described = {"split": "test", "models": ["abc"], "patches": 50}
    paths = []
    for number in (1, 2, 3):
        paths.append(tmp_path / f"part-{number}.csv")
        chosen = table[shards.rows(50, (number, 3))]
        shards.write_part(chosen, paths[-1], (number, 3), described)
    return paths


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_packed_parts_are_joined_to_a_plain_or_packed_table(tmp_path, suffix):
    table = pd.DataFrame({"id": [f"p{row}" for row in range(40)], "label": 0, "probability": 0.5})
    described = {"split": "test", "models": ["abc"], "patches": 40}
    paths = []
    for number in (1, 2):
        paths.append(tmp_path / f"part-{number}.csv{suffix}")
        chosen = table[shards.rows(40, (number, 2))]
        shards.write_part(chosen, paths[-1], (number, 2), described)
    for name in ("all.csv", f"all.csv{suffix}"):
        assert shards.merge(paths, tmp_path / name) == 40
        assert pd.read_csv(tmp_path / name)["id"].tolist() == table["id"].tolist()


def predicted(words):
    assert command_line.main(["predict", *map(str, words)]) == 0


@pytest.mark.parametrize(("patches", "count"), [(64, 4), (64, 3), (61, 1), (1000, 7)])
def test_shards_are_whole_batches_and_together_all_rows(patches, count):
    slices = [shards.rows(patches, (number, count)) for number in range(1, count + 1)]
    joined = [row for each in slices for row in range(patches)[each]]
    assert joined == list(range(patches))
    assert all(each.start % SMALL_BATCH == 0 and each.stop > each.start for each in slices)


@pytest.mark.parametrize("text", ["0/4", "5/4", "4", "a/b", "1/0", "-1/4", "1/4/2"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(InputError, match="is no shard: give it as 2/4"):
        shards.parse(text)
    assert shards.parse("2/4") == (2, 4)


def test_more_shards_than_batches_are_refused():
    with pytest.raises(InputError, match="at most 4 shards, not 5"):
        shards.rows(64, (1, 5))


def test_four_shards_at_once_are_the_undivided_table_byte_for_byte(
    model, prepared, tmp_path, capsys
):
    words = ["predict", "--model", str(model), "--data-dir", str(prepared), "--output"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent.parent)}
    files = [str(tmp_path / f"part-{number}.csv") for number in range(1, 5)]
    # Two other processes beside this one: each takes seconds to start.
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words, file, "--shard", f"{number}/4"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number, file in enumerate(files[:2], 1)
    ]  # fmt: skip
    try:
        for number in (3, 4):
            assert command_line.main([*words, files[number - 1], "--shard", f"{number}/4"]) == 0
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * 2, outputs
    assert command_line.main([*words, str(tmp_path / "undivided.csv")]) == 0
    whole = tmp_path / "whole.csv"
    predicted(["--merge", *files[::-1], "--output", whole])
    assert "64 predictions of 4 parts" in capsys.readouterr().out
    assert whole.read_bytes() == (tmp_path / "undivided.csv").read_bytes()


def test_shards_of_pictures_are_the_undivided_table_too(model, tiny_source, tmp_path):
    (tmp_path / "pictures").mkdir()
    patches = data.read_patches(tiny_source, "test[:45]")
    for name, image in zip(patches["id"], patches["image"], strict=True):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{name}.png")
    words = ["--model", model, "--images", tmp_path / "pictures", "--no-test-time-augmentation"]
    files = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for number, file in enumerate(files, 1):
        predicted([*words, "--output", file, "--shard", f"{number}/2"])
    predicted([*words, "--output", tmp_path / "undivided.csv"])
    predicted(["--merge", *files, "--output", tmp_path / "whole.csv"])
    undivided = (tmp_path / "undivided.csv").read_bytes()
    assert (tmp_path / "whole.csv").read_bytes() == undivided
    assert len(undivided.splitlines()) == 46


def test_shards_of_pictures_are_told_apart_by_content(tmp_path):
    path = tmp_path / "one.png"
    digests = []
    for colour in ("red", "blue"):
        Image.new("RGB", (96, 96), colour).save(path)
        digests.append(shards.of_pictures([path], (1, 1))[1]["pictures"])
    assert digests[0] != digests[1]
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "one.png"
    copy.write_bytes(path.read_bytes())
    assert shards.of_pictures([copy], (1, 1))[1]["pictures"] == digests[1]


@pytest.mark.filterwarnings("default:left out")
def test_damaged_pictures_are_left_out_of_a_shard_and_accounted_for(model, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype="uint8")
    for number in range(45):
        Image.fromarray(np.roll(noise, number, axis=0)).save(folder / f"{number:02}.png")
    cut = folder / "07.png"
    cut.write_bytes(cut.read_bytes()[:5000])
    words = ["predict", "--model", model, "--images", folder, "--no-test-time-augmentation"]
    files = [tmp_path / "one.csv", tmp_path / "two.csv"]

    def status(output, *more):
        return command_line.main([str(word) for word in [*words, "--output", output, *more]])

    assert status(files[0], "--shard", "1/2") == 2
    assert "1 of 20 pictures are damaged and left out: 07.png" in capsys.readouterr().err
    assert json.loads(shards.record_path(files[0]).read_text())["left_out"] == ["07.png"]
    assert status(files[1], "--shard", "2/2") == 0
    with pytest.warns(UserWarning, match=r"1 damaged pictures are left out .* 07\.png"):
        assert shards.merge(files, tmp_path / "whole.csv") == 44
    assert status(tmp_path / "undivided.csv") == 2
    undivided = (tmp_path / "undivided.csv").read_bytes()
    assert (tmp_path / "whole.csv").read_bytes() == undivided
    assert len(undivided.splitlines()) == 45


def test_a_shard_says_what_it_is_of(model, tiny_source):
    rows, described = shards.of_split(tiny_source, "test[:50]", (3, 3))
    assert (rows.start, rows.stop, described["patches"]) == (40, 50, 50)
    assert "synthetic" in described["data"] and described["split"] == "test[:50]"
    assert len(model_files.digest(model)) == 64
    assert model_files.digest(model) == model_files.digest(model.parent)
    with pytest.raises(InputError, match="unknown split"):
        shards.of_split(tiny_source, "tests", (1, 1))


def test_parts_are_joined_in_any_order(parts, tmp_path):
    assert shards.merge([parts[2], parts[0], parts[1]], tmp_path / "whole.csv") == 50
    assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "undivided.csv").read_bytes()


def record(path, **changes):
    """Change the record of a part."""
    file = shards.record_path(path)
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | changes))


def of_another_model(parts):
    described = json.loads(shards.record_path(parts[1]).read_text())["of"]
    record(parts[1], of=described | {"models": ["def"]})
    return parts


def of_more_shards(parts):
    record(parts[2], shards=4)
    return parts


def of_another_count(parts):
    described = json.loads(shards.record_path(parts[1]).read_text())["of"]
    record(parts[1], of=described | {"patches": 60})
    return parts


def of_no_such_length(parts):
    for path in parts:
        described = json.loads(shards.record_path(path).read_text())["of"]
        record(path, of=described | {"patches": 60})
    return parts


def with_a_doubled_id(parts):
    described = json.loads(shards.record_path(parts[1]).read_text())["of"]
    table = pd.read_csv(parts[1]).assign(id=[f"p,{row}" for row in range(20)])
    shards.write_part(table[:20], parts[1], (2, 3), described)
    return parts


def changed(parts):
    parts[1].write_text(parts[1].read_text().replace("0.5", "0.6"))
    return parts


def without_record(parts):
    shards.record_path(parts[1]).unlink()
    return parts


def with_a_broken_record(parts):
    shards.record_path(parts[1]).write_text("{}")
    return parts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: parts[:2], "shard 3/3 is missing"),
        (lambda parts: parts[1:2], "shard 1/3, 3/3 is missing"),
        (lambda parts: [*parts, parts[1]], "are both shard 2/3"),
        (lambda parts: [*parts, parts[0].with_name("none.csv")], "cannot read .*none.csv"),
        (of_another_model, r"part-2.csv is of another prediction .*models is \['def'\]"),
        (of_more_shards, "shards is 4 instead of 3"),
        (of_another_count, "patches is 60 instead of 50"),
        (of_no_such_length, "50 rows together, of 60 patches"),
        (with_a_doubled_id, "'p,0' is in .*part-1.csv and again in .*part-2.csv"),
        (changed, "part-2.csv is not the table that its record is about"),
        (without_record, "cannot read .*part-2.csv.shard.json"),
        (with_a_broken_record, "part-2.csv.shard.json is not the record of a shard"),
    ],
)
def test_parts_that_do_not_fit_are_one_line_and_status_2_and_nothing_is_written(
    parts, tmp_path, capsys, change, message
):
    given = change(parts)
    output = tmp_path / "whole.csv"
    words = ["predict", "--merge", *map(str, given), "--output", str(output)]
    assert command_line.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    with pytest.raises(InputError, match=message):
        raise InputError(line)
    assert not output.exists()


def test_a_part_is_not_overwritten_by_the_whole(parts):
    before = parts[0].read_bytes()
    with pytest.raises(InputError, match="would replace"):
        shards.merge(parts, parts[0])
    assert parts[0].read_bytes() == before
