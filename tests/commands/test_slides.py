import json

from command_runner import refused, run

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
