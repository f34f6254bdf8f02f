"""Heat maps of drawn slides by a model of drawn patches: what they have to reach."""

import pytest

from benchmarks import synthetic_slides
from pcam_tf import data, prediction, training
from pcam_tf.evaluation import reports
from pcam_tf.training import recipes


@pytest.mark.slow
def test_drawn_tumour_is_found_where_it_was_drawn(tmp_path):
    source, run = data.open_source(None), tmp_path / "run"
    training.train(recipes.preset("smoke"), source, run)
    prediction.predict_run(run, source, test_time_augmentation=False)
    reports.report_run(run)
    rows, summary = synthetic_slides.measure(
        run, tmp_path, slides=6, side_px=1536, mpps=(0.25, 0.4961, 1.0)
    )
    with_tumour = [row for row in rows if row["auc"] is not None]
    assert len(with_tumour) == 4
    for row in with_tumour:
        assert row["auc"] >= 0.95, row
        assert max(map(abs, row["offset"])) <= 1, row
    assert summary["lesions"] > 4
    assert summary["sensitivities"]["1"] == 1
