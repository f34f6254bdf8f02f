import json

import numpy as np
import pytest

from benchmarks import bench, rows


def test_ratios_above_one_speak_for_ours():
    faster = rows.row("speed", "patches/s", [30, 20, 40], [10, 10, 10], limit=[50])
    assert (faster["ours"], faster["plain"], faster["limit"]) == (30, 10, 50)
    assert (faster["ratio"], faster["ratio_low"], faster["ratio_high"]) == (3, 2, 4)
    sooner = rows.row("time", "s", [2], [10], lower_is_better=True)
    assert sooner["ratio"] == 5
    alone = rows.row("memory", "MiB", [700])
    assert alone["plain"] is alone["ratio"] is None
    text = bench.as_text([faster, alone])
    assert text[0]["times better"] == "3.0 (2.0–4.0)" and text[1]["times better"] == ""


def test_tasks_are_run_by_turns():
    done = []
    tasks = {name: lambda name=name: done.append(name) or len(done) for name in ("ours", "plain")}
    assert rows.interleaved(tasks, 2) == {"ours": [1, 3], "plain": [2, 4]}
    assert done == ["ours", "plain", "ours", "plain"]


@pytest.mark.notebook
def test_the_benchmarks_run_and_all_ways_agree(tmp_path, capsys):
    output = tmp_path / "bench"
    assert bench.main(["--size", "smoke", "--output", str(output)]) == 0
    found = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    parts = ("input pipeline", "prediction", "training to", "peak memory")
    for part in parts:
        assert any(part in each["what"] for each in found["rows"]), part
    assert all(np.isfinite(each["ours"]) and each["ours"] >= 0 for each in found["rows"][:3])
    assert output.with_suffix(".png").stat().st_size > 10_000
    assert "| times better" in capsys.readouterr().out
