import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import three_classes

from pcam_tf import evaluation
from pcam_tf.evaluation import reports
from pcam_tf.figures import html_report


def drawn(seed, **columns):
    labels = np.repeat([0, 1], 60)
    scores = np.random.default_rng(seed).normal(labels * 2.0 - 1)
    ids = [f"p{row}" for row in range(len(labels))]
    probabilities = 1 / (1 + np.exp(-scores))
    return pd.DataFrame({"id": ids, "label": labels, "probability": probabilities, **columns})


class Balanced(HTMLParser):
    """Fails at a tag that closes another than the last one opened."""

    VOID = ("meta", "img", "br")

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(text):
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    return parser.seen


@pytest.mark.parametrize("with_validation", [True, False])
def test_the_page_is_whole_and_needs_nothing_from_elsewhere(with_validation):
    predictions, validation = drawn(0), drawn(1) if with_validation else None
    report = evaluation.report(predictions, validation=validation)
    text = html_report.page(report, predictions, title="test.csv")
    seen = parsed(text)
    pictures = [attributes for tag, attributes in seen if tag == "img"]
    assert len(pictures) == 5
    assert all(each["alt"] and each["src"].startswith("data:image/png") for each in pictures)
    assert not re.search(r"https?://|<script|@import", text)
    assert reports.metric_rows(report["metrics"])[0]["value"] in text
    assert ("temperature" in text) == with_validation
    assert "Not a medical device" in text


def test_names_are_escaped():
    predictions = drawn(0)
    report = evaluation.report(predictions)
    text = html_report.page(report, predictions, title="<script>alert(1)</script>.csv")
    assert "<script>" not in text and "&lt;script&gt;" in text


def test_slides_with_label_faults_have_a_section():
    groups = np.tile(["camelyon16_test_049", "camelyon16_test_001", "camelyon16_test_002"], 40)
    predictions = drawn(0, group=groups)
    report = evaluation.report(predictions)
    text = html_report.page(report, predictions, title="test.csv")
    assert "labels are known to be faulty" in text and "40 patches left out" in text


@pytest.mark.parametrize("with_validation", [True, False])
def test_three_classes_have_a_page(with_validation):
    predictions = three_classes.drawn(120)
    validation = three_classes.drawn(120, seed=1) if with_validation else None
    report = evaluation.report(predictions, validation=validation)
    text = html_report.page(report, predictions, title="test.csv")
    pictures = [attributes for tag, attributes in parsed(text) if tag == "img"]
    assert len(pictures) == 3
    assert all(each["alt"] and each["src"].startswith("data:image/png") for each in pictures)
    for name, count in report["classes"].items():
        assert f"{count} {name}" in text
    for row in [*reports.class_rows(report), *reports.confusion_rows(report)]:
        assert all(f"<td>{cell}</td>" in text for cell in row.values())
    assert ("temperature" in text) == with_validation
    assert "for two classes only" in text


def test_two_classes_have_the_names_of_the_report():
    predictions = drawn(0)
    report = evaluation.report(predictions, classes=("benign", "<malignant>"))
    text = html_report.page(report, predictions, title="test.csv")
    assert "60 benign" in text and "60 &lt;malignant&gt;" in text
    assert "tumour" not in text


def test_a_class_without_patches_has_a_page():
    predictions = three_classes.drawn(120)
    predictions = predictions[predictions["label"] != 1].reset_index(drop=True)
    text = html_report.page(evaluation.report(predictions), predictions, title="test.csv")
    assert "not defined" in text and "0 lobular" in text
