import json

import numpy as np
import pytest
from command_runner import refused, run
from PIL import Image

from pcam_tf.evaluation import reports
from pcam_tf.models import model_files

POLYGON = [[[0, 0], [3200, 0], [3200, 3200], [0, 3200], [0, 0]]]
TUMOUR = {
    "type": "Feature",
    "geometry": {"type": "Polygon", "coordinates": POLYGON},
    "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
}


def test_froc(tmp_path, capsys):
    for name in ("detections", "annotations"):
        (tmp_path / name).mkdir()
    (tmp_path / "slides.csv").write_text(
        "slide,width,height,mpp\na,9600,9600,0.25\nb,9600,9600,0.25\nc,9600,9600,0.25\n"
    )
    (tmp_path / "detections/a.csv").write_text("0.9,100,100\n0.5,9000,9000\n")
    (tmp_path / "detections/b.csv").write_text("")
    collection = {"type": "FeatureCollection", "features": [TUMOUR]}
    (tmp_path / "annotations/a.geojson").write_text(json.dumps(collection))
    words = ["froc", tmp_path / "detections", tmp_path / "annotations"]
    words += ["--slides", tmp_path / "slides.csv", "--output", tmp_path / "froc.json"]
    assert run(*words) == 0
    printed = capsys.readouterr().out
    assert "2 slides, 1 lesions (1 found)" in printed
    assert "no detections: c." in printed
    result = json.loads((tmp_path / "froc.json").read_text())
    assert (result["lesions"], result["itc"], result["false_positives"]) == (1, 0, 1)
    assert result["mean"] == 1
    assert (tmp_path / "froc.png").stat().st_size > 1000

    (tmp_path / "detections/stranger.csv").write_text("")
    refused(run(*words), capsys, "no row for stranger.csv")
    refused(run("froc", tmp_path / "nowhere", *words[2:]), capsys, "is no folder")


def picture(path, seed=0):
    """Write a region of 400 px that is stained everywhere."""
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    blocks = rng.integers((120, 50, 120), (220, 140, 220), (25, 25, 3), dtype="uint8")
    Image.fromarray(blocks.repeat(16, axis=0).repeat(16, axis=1)).save(path)
    return path


def test_slides_are_predicted_one_after_the_other(tmp_path, capfd):
    paths = [picture(tmp_path / f"{name}.png", seed) for seed, name in enumerate("ab")]
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(paths[0].read_bytes()[:300])
    words = ["slide", paths[0], damaged, paths[1], "--output", tmp_path / "out", "--mpp", 0.972]
    status = run(*words)
    refused(status, capfd, "1 slides failed, damaged first; 2 of 3 slides are in")
    states = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.rglob("state.*")}
    assert {name: each["state"] for name, each in states.items()} == {
        "a": "finished", "damaged": "failed", "b": "finished",
    }  # fmt: skip
    assert "damaged" in states["damaged"]["error"]
    rows = (tmp_path / "out/a/cells.csv").read_text().splitlines()
    assert len(rows) == 1 + 13 * 13
    damaged.write_bytes(picture(tmp_path / "c.png", 3).read_bytes())
    before = (tmp_path / "out/a/cells.csv").read_bytes()
    assert run(*words) == 0
    assert "507 cells of tissue; 3 of 3 slides are in" in capfd.readouterr().out
    assert (tmp_path / "out/a/cells.csv").read_bytes() == before


def test_shards_of_slides_are_all_slides_once(tmp_path, capfd):
    paths = [picture(tmp_path / f"{name}.png") for name in "abc"]
    words = ["slide", *paths, "--output", tmp_path / "out", "--mpp", 0.972]
    assert run(*words, "--shard", "2/2") == 0
    names = lambda: sorted(path.name for path in (tmp_path / "out").iterdir())  # noqa: E731
    assert names() == ["b", "slides.csv"]
    assert run(*words, "--shard", "1/2") == 0
    assert names() == ["a", "b", "c", "slides.csv"]
    capfd.readouterr()
    refused(run(*words, "--shard", "1/4"), capfd, "3 slides make at most 3 shards, not 4")


BAD = [
    (["nowhere.svs"], "No such file"),
    (["a.png"], "states no scale that can be used: give --mpp"),
    (["a.png", "--mpp", "0"], "0 microns per pixel: give a number from 0.1 to 5"),
    (["a.png", "--mpp", "250"], "give a number from 0.1 to 5"),
    (["a.png", "--mpp", "1", "--stride", "5"], "a step of 5 px: give 12 to 96 px"),
    (["a.png", "--mpp", "1", "--shard", "3/2"], "is no shard"),
    (["."], "is a folder: give the slides in it"),
    (["a.png", "other/a.png", "--mpp", "1"], "two slides are called a"),
    (["a.png", "b.png", "--mpp", "1", "--mask", "m.geojson"], "--mask is of one slide"),
    (["a.png", "--mpp", "1", "--mask", "m.geojson"], "cannot read m.geojson"),
    (["a.png", "--mpp", "1", "--model", "no.keras"], "there is no model"),
    (["a.png", "--mpp", "1", "--output", "b.png"], "cannot write b.png/a"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[each[1][:30] for each in BAD])
def test_bad_slides_are_refused_in_one_line(tmp_path, capfd, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "other/a.png"):
        picture(tmp_path / name)
    refused(run("slide", "--output", "out", *words), capfd, message)


def test_a_slide_gets_outlines_candidates_pictures_and_a_report(tmp_path, capfd):
    path = picture(tmp_path / "a.png")
    words = ["slide", path, "--output", tmp_path / "out", "--mpp", 0.972]
    assert run(*words) == 0
    printed = capfd.readouterr().out
    report = reports.read_run_report(model_files.SHIPPED_MODEL.parent)["unfrozen"]
    threshold = report["one_view"]["thresholds"]["specificity_95"]
    assert "1 of 1 slides are in" in printed
    assert f"tumour is outlined from {threshold:.3f} on" in printed
    names = {each.name for each in (tmp_path / "out/a").iterdir() if each.name[0] != "."}
    assert names == {
        "cells.csv", "run.json", "state.json", "heat_map.ome.tif", "overview.png", "tumour.geojson",
        "lesions.csv", "thumbnail.jpg", "tissue.jpg", "tissue.geojson", "report.html",
        "findings.json",
    }  # fmt: skip
    words[3] = tmp_path / "again"
    assert run(*words) == 0
    for name in names:
        assert (tmp_path / "out/a" / name).read_bytes() == (
            tmp_path / "again/a" / name
        ).read_bytes(), name
    words[3] = tmp_path / "out"
    before = (tmp_path / "out/a/report.html").stat()
    assert run(*words) == 0  # nothing is written again
    assert (tmp_path / "out/a/report.html").stat() == before
    assert run(*words, "--threshold", 0, "--asap") == 0
    findings = json.loads((tmp_path / "out/a/findings.json").read_text())
    assert findings["tumour_mm2"] == findings["tissue_mm2"] > 0
    assert (tmp_path / "out/a/tumour.xml").is_file()
    (tmp_path / "truth").mkdir()
    output = tmp_path / "froc.json"
    capfd.readouterr()
    assert run("froc", tmp_path / "out", tmp_path / "truth", "--output", output) == 0
    assert "1 slides, 0 lesions" in capfd.readouterr().out
    refused(run(*words, "--threshold", 2), capfd, "a threshold of 2.0: give a probability")
