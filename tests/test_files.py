import concurrent.futures
import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pcam_tf import errors, files
from pcam_tf.errors import InputError

ROOT = Path(__file__).parent.parent


def test_unknown_suggests_the_nearest_in_any_case_and_lists_all():
    error = errors.unknown("backbone", "mobilenetv3smal", ["Xception", "MobileNetV3Small"])
    assert isinstance(error, InputError)
    assert isinstance(error, ValueError)
    assert str(error) == (
        "unknown backbone 'mobilenetv3smal': did you mean 'MobileNetV3Small'? "
        "There are: MobileNetV3Small, Xception."
    )


def test_unknown_suggests_nothing_if_nothing_is_near():
    assert "did you mean" not in str(errors.unknown("split", "holdout", ["train", "test"]))


def test_a_missing_extra_is_named_with_its_command():
    error = errors.missing_extra("shap", "explain")
    assert isinstance(error, InputError)
    assert str(error) == "shap is not installed: run `pip install 'pcam_tf[explain]'`."


def test_a_file_appears_only_once_it_is_whole(tmp_path):
    path = tmp_path / "new" / "table.weights.h5"
    with files.written_whole(path) as temporary:
        # In the same folder, so that the renaming is atomic; Keras looks at the suffixes.
        assert temporary.parent == path.parent
        assert temporary.name.endswith("table.weights.h5")
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_the_old_file_and_no_other(tmp_path, stop):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(stop), files.written_whole(path) as temporary:
        temporary.write_text("half")
        raise stop
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_error_of_one_line(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with (
        pytest.raises(InputError, match=f"cannot write {path}: {os.strerror(errno.ENOSPC)}"),
        files.written_whole(path) as temporary,
    ):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_impossible_path_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "table.csv", tmp_path / "folder"):
        with pytest.raises(InputError, match="cannot write") as caught:
            files.write_json(path, {})
        assert "\n" not in str(caught.value)
    assert {each.name for each in tmp_path.iterdir()} == {"file", "folder"}


def test_json_rereads_and_keeps_the_order_of_its_keys(tmp_path):
    content = {"b": [1, 2.5, None], "a": {"text": "0.97 µm"}}
    files.write_json(tmp_path / "report.json", content)
    read = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert read == content
    assert list(read) == ["b", "a"]


def test_json_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "report.json", {"set": {1}})
    assert not list(tmp_path.iterdir())


def write(path, text="new"):
    with files.written_whole(path) as temporary:
        temporary.write_text(text)


@pytest.mark.parametrize(
    "links",
    [
        {"link": "real.csv"},
        {"link": "second", "second": "third", "third": "real.csv"},
        {"link": "folder/second", "folder/second": "../real.csv"},
    ],
)
@pytest.mark.parametrize("old", ["old", None])
def test_a_link_stays_and_the_file_it_points_to_is_written(tmp_path, links, old):
    (tmp_path / "folder").mkdir()
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    if old:
        (tmp_path / "real.csv").write_text(old)
    files.check_outputs([tmp_path / "link"])
    assert (tmp_path / "real.csv").exists() == bool(old)
    write(tmp_path / "link")
    assert (tmp_path / "real.csv").read_text() == "new"
    assert not (tmp_path / "real.csv").is_symlink()
    assert {name: str((tmp_path / name).readlink()) for name in links} == links
    assert len(list(tmp_path.rglob("*"))) == 2 + len(links)


def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    for use in (write, lambda path: files.check_outputs([path])):
        with pytest.raises(InputError, match="cannot write"):
            use(tmp_path / "one")
    assert (tmp_path / "one").is_symlink()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_a_replaced_file_keeps_its_mode(tmp_path, mode):
    path = tmp_path / "table.csv"
    path.write_text("old")
    path.chmod(mode)
    write(path)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", mode)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_that_the_umask_gives(tmp_path, umask):
    before = os.umask(umask)
    try:
        write(tmp_path / "table.csv")
    finally:
        os.umask(before)
    assert (tmp_path / "table.csv").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_device_is_written_to_and_stays_a_device(tmp_path):
    null = tmp_path / "null"
    try:
        os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")
    (tmp_path / "link").symlink_to("null")
    for path in (null, tmp_path / "link"):
        files.check_outputs([path])
        write(path)
    assert stat.S_ISCHR(null.lstat().st_mode)
    assert (tmp_path / "link").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_device_that_takes_nothing_is_an_error_of_one_line():
    with pytest.raises(InputError, match=f"/dev/full: {os.strerror(errno.ENOSPC)}"):
        write("/dev/full")


def test_a_named_pipe_gets_the_content_once_it_is_whole(tmp_path):
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    files.check_outputs([pipe])  # does not wait for a reader
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        content = pool.submit(pipe.read_text)
        write(pipe)
        assert content.result(timeout=20) == "new"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_standard_output_is_written_in_its_order(tmp_path, name, kind):
    """Also where it is an ordinary file: to replace that would lose what was printed before."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    script = (
        "import sys; from pcam_tf import files; print('first')\n"
        "assert files.is_standard_output(sys.argv[1])\n"
        "files.check_outputs([sys.argv[1]])\n"
        "with files.written_whole(sys.argv[1]) as temporary: temporary.write_text('second\\n')\n"
        "print('third')"
    )
    with (tmp_path / "printed").open("w+") as file:
        file.write("older\n")
        file.flush()
        done = subprocess.run(
            [sys.executable, "-c", script, name],
            stdout=file if kind == "file" else subprocess.PIPE,
            check=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    printed = done.stdout if kind == "pipe" else (tmp_path / "printed").read_text()
    assert printed.removeprefix("older\n") == "first\nsecond\nthird\n"
    assert {each.name for each in tmp_path.iterdir()} == {"link", "printed"}


def test_a_pipe_that_can_only_be_read_is_refused():
    reading, writing = os.pipe()
    try:
        with pytest.raises(InputError, match="open for reading only"):
            files.check_outputs([f"/dev/fd/{reading}"])
        files.check_outputs([f"/dev/fd/{writing}"])
        write(f"/dev/fd/{writing}")
        assert os.read(reading, 100) == b"new"
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    ("output", "what"),
    [
        ("table.csv", "would replace what this command reads: give"),
        ("folder/../table.csv", "would replace what this command reads, table.csv: give"),
        ("link.csv", "would replace what this command reads, .*table.csv: give"),
        ("hard.csv", "would replace what this command reads, "),
        ("other.csv", "are one file"),
        ("file/table.csv", "cannot write"),
        ("folder", "cannot write .*folder: it is a folder"),
        (f"{'long' * 80}.csv", "cannot write"),
        ("/proc/table.csv", "cannot write"),
        ("/proc/new/table.csv", "cannot write"),
    ],
)
def test_outputs_that_cannot_be_or_would_destroy_an_input_are_refused(
    tmp_path, monkeypatch, output, what
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "table.csv").write_text("id,label")
    (tmp_path / "link.csv").symlink_to("table.csv")
    (tmp_path / "hard.csv").hardlink_to("table.csv")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=what) as caught:
        files.check_outputs(["other.csv", None, output], ["missing.csv", "table.csv"])
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "table.csv").read_text() == "id,label"


@pytest.mark.parametrize("output", ["new.csv", "new/new/new.csv", "table.csv", "/dev/null"])
def test_the_trial_of_an_output_leaves_nothing_behind(tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text("old")
    files.check_outputs([output, "/dev/null"], ["/dev/null", "other.csv"])
    assert [each.name for each in tmp_path.iterdir()] == ["table.csv"]
    assert (tmp_path / "table.csv").read_text() == "old"


def test_a_name_that_is_not_utf8_is_refused_and_named():
    files.check_name("Gewebe µ.png")
    with pytest.raises(InputError, match=r"the name a\\udcff\.png is not UTF-8: rename"):
        files.check_name(os.fsdecode(b"a\xff.png"))


def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path):
    lock = tmp_path / "new" / "lock"
    script = (
        "import sys; from pcam_tf import files\n"
        "with files.locked(sys.argv[1], 'busy'): print('held', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, lock],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    with process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="busy"), files.locked(lock, "busy"):
            pytest.fail("two processes hold the lock")
        process.kill()
        process.wait()
        again = pytest.raises(InputError, match="busy")
        with files.locked(lock, "busy"), again, files.locked(lock, "busy"):
            pytest.fail("it is held twice")
    with files.locked(lock, "busy"):
        pass


def test_a_lock_that_cannot_be_made_is_refused_and_one_that_is_not_supported_is_done_without(
    tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"), files.locked(tmp_path / "file/a", "busy"):
        pytest.fail("there is no such folder")

    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="has no locks"), files.locked(tmp_path / "lock", "busy"):
        pass


def test_a_folder_of_something_else_or_with_a_damaged_note_is_refused(tmp_path):
    note = tmp_path / "run" / "about.json"
    files.claim(note, {"side": (1, 2), "seed": 0}, "run")
    files.claim(note, {"side": [1, 2], "seed": 0}, "run")
    other = {"side": (1, 2), "batch_size": 3, "seed": 0}
    with pytest.raises(InputError, match=r"another run \(it differs in batch size\): delete it or"):
        files.claim(note, other, "run")
    assert json.loads(note.read_text()) == {"side": [1, 2], "seed": 0}
    files.claim(note, other, "run", lambda stored: {"batch_size": 3} | stored)
    for damaged in ("{", "[]", "{}"):
        note.write_text(damaged)
        with pytest.raises(InputError, match=r"about\.json is damaged: delete the study"):
            files.claim(note, other, "study", lambda stored: stored | {"seed": stored["seed"]})
        assert note.read_text() == damaged
