import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcam_tf.slides import slide_runs


def started(path, output):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "pcam_tf", "--quiet", "slide", path, "--output", output]
    return subprocess.Popen(command, env=environment)


def content(folder):
    return {
        path.name: path.read_bytes()
        for path in folder.rglob("*") if path.is_file() and path.name[0] != "."
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_command_that_is_killed_anywhere_ends_with_the_same_bytes(slide_file, tmp_path):
    path = slide_file(kind="tiff", mpp=0.25, levels=1, quality=86)
    assert started(path, tmp_path / "whole").wait() == 0
    whole = content(tmp_path / "whole")
    journal = tmp_path / "killed/slide" / slide_runs.UNFINISHED
    is_there = [
        lambda: journal.exists(),
        lambda: (tmp_path / "killed/slide/run.json").exists(),
        lambda: (tmp_path / "killed/slide/heat_map.ome.tif").exists(),
    ]
    for is_time in is_there:
        process = started(path, tmp_path / "killed")
        while process.poll() is None and not is_time():
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert started(path, tmp_path / "killed").wait() == 0
    found = content(tmp_path / "killed")
    assert found.keys() == whole.keys()
    for name, expected in whole.items():
        assert found[name] == expected, name
