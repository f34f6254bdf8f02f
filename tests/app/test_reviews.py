import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import warnings

import pandas as pd
import pytest

from pcam_tf import __main__
from pcam_tf.app import reviews
from pcam_tf.errors import InputError


def add(path, patch_id="a", probability=0.7, agrees=True, threshold=0.4, **words):
    call = int(probability >= threshold)
    review = reviews.Review(
        patch_id=patch_id, probability=probability, threshold=threshold, setting="Balanced",
        call=call, label=call if agrees else 1 - call, model="a model", **words,
    )  # fmt: skip
    reviews.append(path, review)


@pytest.mark.parametrize(
    ("probability", "agrees", "label"), [(0.7, True, 1), (0.7, False, 0), (0.1, True, 0),
                                         (0.1, False, 1), (0.4, True, 1)]
)  # fmt: skip
def test_the_label_is_the_reviewers(tmp_path, probability, agrees, label):
    add(tmp_path / "reviews.csv", probability=probability, agrees=agrees)
    row = pd.read_csv(tmp_path / "reviews.csv").iloc[0]
    assert row["label"] == label and row["probability"] == probability
    assert row["agrees"] == ("yes" if agrees else "no")


def test_of_two_reviews_both_are_kept_and_the_last_counts(tmp_path, capsys):
    path = tmp_path / "new" / "reviews.csv"
    add(path, 'odd, "name"\n', agrees=False)
    add(path, "b", probability=0.2)
    add(path, 'odd, "name"\n', agrees=True)
    assert len(pd.read_csv(path)) == 3
    table = reviews.latest(path)
    assert list(table["id"]) == ["b", 'odd, "name"\n'] and list(table["label"]) == [0, 1]
    assert __main__.main(["evaluate", str(path)]) == 2
    assert "for the second time" in capsys.readouterr().err
    assert __main__.main(["evaluate", str(path), "--latest"]) == 0
    assert path.with_suffix(".report.json").exists()


def test_reviews_of_one_class_are_no_evaluation(tmp_path):
    add(tmp_path / "reviews.csv")
    with pytest.raises(InputError, match="one class only"):
        reviews.latest(tmp_path / "reviews.csv")
    with pytest.raises(InputError, match="there is no"):
        reviews.latest(tmp_path / "none.csv")


def add_many(path, name):
    for number in range(40):
        add(path, f"{name}-{number}", probability=number / 40)


def test_several_processes_write_to_one_file(tmp_path):
    path = tmp_path / "reviews.csv"
    # Forking a process in which TensorFlow runs may hang.
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=add_many, args=(path, name)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(reviews.latest(path)) == 120
    assert path.read_text().count("id,label") == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_nothing_is_lost_when_the_process_is_killed(tmp_path):
    path = tmp_path / "reviews.csv"
    script = (
        "import sys, itertools; from pcam_tf.app import reviews\n"
        "for number in itertools.count():\n"
        "    review = reviews.Review(patch_id=str(number), probability=number % 2, threshold=0.5,\n"
        "                            setting='s', call=number % 2, label=number % 2, model='m')\n"
        "    reviews.append(sys.argv[1], review)\n"
        "    print(number, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE)
    with process:
        said = [int(process.stdout.readline()) for _ in range(25)]
        process.send_signal(signal.SIGKILL)
        said += [int(line) for line in process.stdout.read().split()]
    table = reviews.latest(path)
    assert set(map(str, said)) <= set(table["id"])
    assert path.read_bytes().endswith(b"\n")


def test_a_torn_line_does_not_take_the_next_one_with_it(tmp_path):
    path = tmp_path / "reviews.csv"
    add(path, "a")
    with path.open("a") as file:
        file.write("b,1,0.9")
    add(path, "c", probability=0.1)
    assert path.read_text().splitlines()[-1].startswith("c,0,0.1,")
    assert list(reviews.latest(path)["id"]) == ["a", "b", "c"]


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "other.csv").write_text("id,label,probability\n")
    with pytest.raises(InputError, match="not a file of reviews"):
        reviews.check(tmp_path / "other.csv")
    assert (tmp_path / "other.csv").read_text() == "id,label,probability\n"
    with pytest.raises(InputError, match="cannot write"):
        reviews.check(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(InputError, match="in an ordinary file"):
            reviews.check(path)
    reviews.check(tmp_path / "new.csv")
    reviews.check(tmp_path / "new.csv")
    assert (tmp_path / "new.csv").read_text() == ",".join(reviews.COLUMNS) + "\n"


def saved(path, change):
    """Write a file of three reviews of two patches, then save it as a spreadsheet program would."""
    add(path, "a", probability=0.7, agrees=False)
    add(path, "b", probability=0.25)
    add(path, "a", probability=0.7, agrees=True)
    path.write_bytes(change(path.read_bytes()))


def german(content):
    rows = [line.split(",") for line in content.decode().splitlines()]
    rows[1:] = [
        [cell.replace(".", ",") if number in (2, 4) else cell for number, cell in enumerate(row)]
        for row in rows[1:]
    ]
    return b"\xef\xbb\xbf" + "\r\n".join(";".join(row) for row in rows).encode() + b"\r\n"


SAVED = {
    "a byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "Windows line ends": lambda content: content.replace(b"\n", b"\r\n"),
    "semicolons": lambda content: content.replace(b",", b";"),
    "tabs": lambda content: content.replace(b",", b"\t"),
    "empty columns": lambda content: content.replace(b"\n", b",,\n"),
    "quoted or renamed columns": lambda content: content.replace(
        b"id,label,probability", b'"id","Label","probability"'
    ),
    "decimal commas": german,
}


@pytest.mark.parametrize("kind", SAVED)
def test_a_file_that_a_spreadsheet_saved_is_kept_read_and_named(tmp_path, capsys, kind):
    path = tmp_path / "reviews.csv"
    saved(path, SAVED[kind])
    before = path.read_bytes()
    for act in (reviews.check, add):
        with pytest.raises(InputError, match="was saved by a spreadsheet program") as error:
            act(path)
        message = str(error.value)
        assert "\n" not in message and "Rename it" in message
        assert kind in message or kind == "decimal commas"
        assert path.read_bytes() == before
    with pytest.warns(UserWarning, match="was saved by a spreadsheet program") as warned:
        table = reviews.latest(path)
    assert kind in str(warned[0].message)
    assert dict(zip(table["id"], table["label"], strict=True)) == {"a": 1, "b": 0}
    assert sorted(table["probability"]) == [0.25, 0.7]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert __main__.main(["evaluate", str(path), "--latest"]) == 0
    assert "was saved by a spreadsheet program" in capsys.readouterr().err


def test_rewritten_times_are_named_and_a_sorted_file_is_read_by_time(tmp_path):
    path = tmp_path / "reviews.csv"
    header = "id,label,probability,agrees,threshold,time,model"  # of the first version
    rows = [
        "a,0,0.7,no,0.4,2026-01-02T10:00:00+00:00,m",
        "b,0,0.2,yes,0.4,2026-01-02T10:00:00+00:00,m",
        "a,1,0.7,yes,0.4,2026-01-02T11:00:00+00:00,m",
    ]
    for order in ([0, 1, 2], [2, 1, 0]):
        path.write_text("\n".join([header, *(rows[row] for row in order)]) + "\n")
        table = reviews.latest(path).set_index("id")
        assert table.loc["a", "label"] == 1
    path.write_text(
        "\n".join([header, *rows]).replace("2026-01-02T10:00:00+00:00", "02.01.26 10:00")
    )
    with pytest.warns(UserWarning, match="times in another format"):
        assert reviews.latest(path).set_index("id").loc["a", "label"] == 1


@pytest.mark.parametrize("cell", ["01. Jul", "70%", "#NUM!"])
def test_a_number_that_became_something_else_is_named(tmp_path, cell):
    path = tmp_path / "reviews.csv"
    saved(path, lambda content: content.replace(b"0.25", cell.encode()))
    with pytest.raises(InputError, match=f"'{cell}' is no probability") as error:
        reviews.latest(path)
    assert "id b" in str(error.value) and "\n" not in str(error.value)


def test_a_full_disk_is_said_and_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "reviews.csv"
    add(path)
    before, write = path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda file, content: write(file, content[:9]))
    with pytest.raises(InputError, match="No space left"):
        add(path, "b")
    assert path.read_bytes() == before


def test_the_lock_is_an_empty_hidden_file(tmp_path):
    add(tmp_path / "reviews.csv")
    others = [file for file in tmp_path.iterdir() if file.name != "reviews.csv"]
    assert all(file.name.startswith(".") and not file.stat().st_size for file in others)
    assert [file.name for file in tmp_path.glob("*.csv")] == ["reviews.csv"]


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "pcam_tf.app.page", raising=False)
    with pytest.raises(InputError, match=r"gradio is not installed.*pcam_tf\[app\]"):
        importlib.import_module("pcam_tf.app.page")


def test_two_names_of_one_file_have_one_lock(tmp_path):
    (tmp_path / "link.csv").symlink_to("folder/reviews.csv")
    add(tmp_path / "link.csv", "a")
    add(tmp_path / "folder" / "reviews.csv", "b", probability=0.1)
    assert len(reviews.latest(tmp_path / "link.csv")) == 2
    assert (tmp_path / "link.csv").is_symlink()
    assert [each.name for each in tmp_path.rglob(".*.lock")] == [".reviews.csv.lock"]
    assert not (tmp_path / ".link.csv.lock").exists()


def test_readers_agree_with_the_model_and_with_each_other(tmp_path, capsys):
    path = tmp_path / "reviews.csv"
    for number in range(10):
        words = {"probability": number / 10, "threshold": 0.5}
        add(path, str(number), agrees=False, reviewer="A. B.", **words)  # a first thought
        add(path, str(number), agrees=number != 7, reviewer="A. B.", **words)
        add(path, str(number), agrees=number > 1, reviewer="C", unsure=number == 1, **words)
    found = reviews.agreements(path)
    assert list(found) == ["the model and A. B.", "the model and C", "A. B. and C"]
    assert [each["agreed"] for each in found.values()] == [9, 8, 7]
    assert [each["unsure"] for each in found.values()] == [0, 1, 1]
    # 9 of 10 agree; by chance 0.5·0.4 + 0.5·0.6 = 0.5 would.
    assert found["the model and A. B."]["kappa"] == pytest.approx((0.9 - 0.5) / 0.5)
    assert __main__.main(["evaluate", str(path), "--latest"]) == 0
    printed = capsys.readouterr().out
    assert "the model and A. B.: 9 of 10 patches" in printed and "Cohen's kappa 0.80" in printed
    assert "The readers chose these patches themselves" in printed
    report = json.loads(path.with_suffix(".report.json").read_text())
    assert report["agreement"]["A. B. and C"]["patches"] == 10


def test_of_the_first_version_the_model_and_one_reader_agree(tmp_path):
    path = tmp_path / "reviews.csv"
    header = "id,label,probability,agrees,threshold,time,model"
    rows = ["a,1,0.7,yes,0.4,2026-01-02T10:00:00+00:00,m", "b,1,0.2,no,0.4,2026-01-02T10:00:00Z,m"]
    path.write_text("\n".join([header, *rows]) + "\n")
    found = reviews.agreements(path)["the model and a reviewer without a name"]
    assert (found["agreed"], found["patches"]) == (1, 2)
    with pytest.raises(InputError, match="of an earlier version"):
        add(path)


def test_a_file_of_the_second_version_is_read_and_left_as_it_is(tmp_path):
    path = tmp_path / "reviews.csv"
    add(path, "a", probability=0.7, reviewer="A. B.")
    add(path, "b", probability=0.2, reviewer="A. B.")
    lines = path.read_text().splitlines()
    assert lines[0].endswith(",comment,file,file_sha256,x_um,y_um,x_px,y_px")
    path.write_text("".join(line.removesuffix(",,,,,,") + "\n" for line in lines[1:]))
    second = lines[0].removesuffix(",file,file_sha256,x_um,y_um,x_px,y_px")
    path.write_text(f"{second}\n{path.read_text()}")
    assert reviews.agreements(path)["the model and A. B."]["agreed"] == 2
    assert len(reviews.latest(path)) == 2
    before = path.read_bytes()
    with pytest.raises(InputError, match="of an earlier version, with fewer columns"):
        add(path)
    assert path.read_bytes() == before


def test_a_place_is_kept_with_its_file_and_read_again(tmp_path):
    path = tmp_path / "reviews.csv"
    origin = reviews.Origin("=a, slide.svs", "f" * 64, 31.104, 62.208, 128.0, 256.0)
    add(path, "a", origin=origin)
    add(path, "b", probability=0.1)
    table = reviews.latest(path)
    place = [table[name].iloc[0] for name in ("file", "file_sha256", "x_um", "y_um", "x_px")]
    assert place == ["'=a, slide.svs", "f" * 64, "31.10", "62.21", "128.00"]
    assert table["file"].iloc[1] == ""
