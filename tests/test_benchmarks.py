import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import bench, growth, region_agreement, rows
from pcam_tf.files import write_json


def test_a_ratio_above_one_means_that_ours_is_better():
    faster = rows.row("speed", "patches/s", [30, 20, 40], [10, 10, 10], limit=[50])
    assert (faster["ours"], faster["plain"], faster["limit"]) == (30, 10, 50)
    assert (faster["ratio"], faster["ratio_low"], faster["ratio_high"]) == (3, 2, 4)
    sooner = rows.row("time", "s", [2], [10], lower_is_better=True)
    assert sooner["ratio"] == 5
    alone = rows.row("memory", "MiB", [700])
    assert alone["plain"] is alone["ratio"] is None
    text = bench.as_text([faster, alone])
    assert text[0]["speed-up"] == "3.0 (2.0–4.0)" and text[1]["speed-up"] == ""


def test_tasks_are_run_by_turns():
    done = []
    tasks = {name: lambda name=name: done.append(name) or len(done) for name in ("ours", "plain")}
    assert rows.interleaved(tasks, 2) == {"ours": [1, 3], "plain": [2, 4]}
    assert done == ["ours", "plain", "ours", "plain"]


def test_a_command_is_measured_in_seconds_and_mebibytes():
    seconds, peak = growth.measured([sys.executable, "-c", "kept = bytearray(200 << 20)"])
    assert seconds > 0 and 200 < peak < 400
    with pytest.raises(RuntimeError, match=r"ended with 1: (.|\n)*no such thing"):
        growth.measured([sys.executable, "-c", "raise ValueError('no such thing')"])


def test_masks_that_are_moved_agree_less_and_their_boundaries_are_as_far_apart():
    truth = np.zeros((20, 30), bool)
    truth[5:15, 8:20] = True
    moved = np.roll(truth, 2, axis=1)
    assert region_agreement.dice_of(truth, truth.astype(int)) == 1
    assert region_agreement.dice_of(moved, truth.astype(int)) == pytest.approx(10 / 12)
    assert region_agreement.boundary_distance(truth, truth) == 0
    assert 0.5 < region_agreement.boundary_distance(moved, truth) < 2
    left, more = np.zeros((2, 20, 30), bool)
    left[:, :10] = more[:, :14] = True  # masks that reach the edge
    assert region_agreement.boundary_distance(left, more) == 4


def test_parts_measured_before_are_kept_where_all_else_is_the_same(tmp_path):
    path = tmp_path / "bench.json"
    about = {"size": "full", "patches": "patch_camelyon 2.0.0", "machine": "two cores"}
    assert bench.earlier_parts(path, about) == {}
    write_json(path, about | {"parts": {"input": {"rows": []}}})
    assert bench.earlier_parts(path, about) == {"input": {"rows": []}}
    assert bench.earlier_parts(path, about | {"machine": "four cores"}) == {}


def test_the_benchmarks_run_and_all_ways_agree(tmp_path):
    output = tmp_path / "bench"
    # In a process of its own: trainings make this one deterministic, which rules XLA out.
    command = [sys.executable, "-m", "benchmarks.bench", "--size", "smoke", "--output", str(output)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    parts = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))["parts"]
    assert list(parts) == list(bench.PARTS)
    found = [each for part in parts.values() for each in part["rows"]]
    assert all(np.isfinite(each["ours"]) for each in found)
    # A share of time spent waiting is a difference of two times, both of a few steps here.
    assert all(each["ours"] > 0 for each in found if each["unit"] != "share")
    for part in (
        "input pipeline",
        "prediction; baseline",
        "heat map of a slide",
        "training to",
        "predict, 256 patches",
    ):
        assert any(part in each["what"] for each in found), part
    assert output.with_suffix(".png").stat().st_size > 10_000
    assert "| speed-up" in ended.stdout
