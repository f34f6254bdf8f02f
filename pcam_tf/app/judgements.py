"""A reviewer's judgement of the answer that is on the screen, and of no other."""

import json
from typing import NamedTuple

from pcam_tf.app import findings
from pcam_tf.app.findings import Point, Reader
from pcam_tf.app.reviews import Review
from pcam_tf.app.visit import Visit
from pcam_tf.errors import InputError


class Answer(NamedTuple):
    """What the page says of the chosen patch: all that a reviewer judges."""

    patch_id: str
    call: int  # index of the class
    threshold: float | None
    setting: str  # name of the operating point

    @property
    def token(self) -> str:
        """The answer as text, which a browser gives back with the reviewer's judgement."""
        return json.dumps(self)


def answer(visit: Visit, point: Point) -> Answer | None:
    """Return what the page says of the chosen patch; None where there is nothing to judge."""
    patch = visit.chosen_patch
    if patch is None or not patch.has_tissue:
        return None
    call = int(findings.calls(patch.probabilities, point))
    return Answer(patch.patch_id, call, point.threshold, visit.setting)


def judged(
    reader: Reader, visit: Visit, point: Point, token: str, *, agrees: bool, **words: str | bool
) -> Review:
    """Return the review of the answer that the reviewer saw.

    Args:
        reader: the model, of two classes.
        visit: the visitor's.
        point: the operating point in use.
        token: of the answer that was shown when the reviewer judged.
        agrees: whether the reviewer agrees with the call.
        words: `reviewer`, `unsure` and `comment`, see `Review`.

    Raises:
        InputError: that is not what the page shows by now, or there is nothing to judge.
    """
    patch, shown = visit.chosen_patch, answer(visit, point)
    if patch and not patch.has_tissue:
        raise InputError("there is no tissue in this patch, so there is no call to review.")
    if shown is None or shown.token != token:
        raise InputError(
            "nothing was saved: the page has another answer by now. Look at it, and judge again."
        )
    return Review(
        patch_id=shown.patch_id,
        probability=float(patch.probabilities[1]),
        threshold=shown.threshold,
        setting=shown.setting,
        call=shown.call,
        label=shown.call if agrees else 1 - shown.call,
        model=reader.name,
        origin=patch.origin,
        **words,
    )


def keep_review(visit: Visit, review: Review, text: str) -> None:
    """Keep a review with the chosen patch, and its text in the log."""
    visit.chosen_patch.review = review
    for row in visit.log:
        if row["id"] == review.patch_id:
            row["reviewer"] = text
