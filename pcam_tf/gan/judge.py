"""What generated patches are like, always beside the same number for real patches."""

import dataclasses
from collections.abc import Callable

import numpy as np
import sklearn.linear_model
import sklearn.metrics
import sklearn.model_selection
import sklearn.pipeline
import sklearn.preprocessing

from pcam_tf.errors import InputError
from pcam_tf.evaluation import intervals
from pcam_tf.gan import distances, memorisation
from pcam_tf.gan.features import Features
from pcam_tf.gan.patches import Patches
from pcam_tf.task import Task

MOST = 500
LEAST = 20


@dataclasses.dataclass(frozen=True)
class Sets:
    """The patches that are compared, all of the same side.

    Attributes:
        generated: by the generator.
        training: that the generator was trained on.
        held_out: real patches of other slides.
    """

    generated: Patches
    training: Patches
    held_out: Patches


def judge(
    sets: Sets,
    task: Task,
    features: Features,
    probabilities: Callable[[np.ndarray], np.ndarray] | None = None,
    seed: int = 0,
) -> dict[str, dict]:
    """Return what generated patches are like: name of a class, or "both" -> its numbers.

    `kid`, `precision`, `recall` compare generated with training patches. `..._floor` compares one
    half of the training patches with the other, `..._other_slides` the held-out patches with the
    training patches: all with as many patches. `real_or_generated_auc` is a classifier's (logistic
    regression on features, five folds) that tells generated from held-out patches; its floor is of
    training against held-out patches. `label_fidelity` is the share to which `probabilities` gives
    the right side of 0.5; its reference is that of held-out patches. For copies see
    `memorisation.check`. `label_auc` of "both" is the AUC of `probabilities` between the classes,
    which a threshold that does not fit generated patches leaves as it is.

    Args:
        sets: the patches.
        task: of the patches; two classes if there are `probabilities`.
        features: from patches to features.
        probabilities: from features to the probability of the second class; None for no fidelity.
        seed: of the choice of patches.

    Raises:
        InputError: patches of different sides, or too few of a class.
    """
    _check_sides(sets)
    values = {kind: features(part.image) for kind, part in vars(sets).items()}
    rng = np.random.default_rng(seed)
    found = {
        name: _of_class(sets, values, label, name, features, probabilities, rng)
        for label, name in enumerate(task.classes)
        if (sets.generated.label == label).any()
    }
    if probabilities is not None and len(found) == len(task.classes):
        found["both"] = {
            f"label_auc{suffix}": intervals.auc(vars(sets)[kind].label, probabilities(values[kind]))
            for suffix, kind in (("", "generated"), ("_real", "held_out"))
        }
    return found


def _check_sides(sets):
    sides = {name: part.image.shape[1] for name, part in vars(sets).items()}
    if len(set(sides.values())) > 1:
        raise InputError(f"patches of different sides cannot be compared: {sides}.")


def _of_class(sets, values, label, name, features, probabilities, rng):
    rows = {}
    for kind, part in vars(sets).items():
        rows[kind] = rng.permutation(np.flatnonzero(part.label == label))
        if len(rows[kind]) < LEAST:
            raise InputError(
                f"{len(rows[kind])} {kind.replace('_', '-')} patches of class {name}: judging "
                f"needs {LEAST} or more."
            )
    # Both halves of the training patches and all other sets have this size.
    count = min(MOST, len(rows["training"]) // 2, *map(len, rows.values()))
    found = {kind: values[kind][each[: 2 * count]] for kind, each in rows.items()}
    generated, held_out = found["generated"][:count], found["held_out"][:count]
    first, second = found["training"][:count], found["training"][count:]
    numbers = {"patches": count}
    for kind, other in (("", generated), ("_floor", second), ("_other_slides", held_out)):
        numbers[f"kid{kind}"] = distances.kid(first, other)
        precision, recall = distances.precision_and_recall(first, other)
        numbers[f"precision{kind}"], numbers[f"recall{kind}"] = precision, recall
    numbers["real_or_generated_auc"] = told_apart(generated, held_out)
    numbers["real_or_generated_auc_floor"] = told_apart(first, held_out)
    if probabilities is not None:
        for kind, part in (("", generated), ("_real", held_out)):
            numbers[f"label_fidelity{kind}"] = float(((probabilities(part) >= 0.5) == label).mean())
    copies = memorisation.check(
        sets.generated.image[rows["generated"][:MOST]],
        sets.training.image,
        sets.held_out.image[rows["held_out"][:MOST]],
        features,
        values["training"],
        copied=rows["training"],
    )
    return numbers | {
        "highest_correlation": float(copies.nearest.max()),
        "copies": copies.patches,
        "copies_by_pixels": copies.by_pixels,
        "copies_by_features": copies.by_features,
    }


def told_apart(first: np.ndarray, second: np.ndarray) -> float:
    """Return the AUC of a classifier that tells two sets of features apart, by five folds.

    Args:
        first: (n, features), n at least 5.
        second: (m, features), m at least 5.
    """
    values = np.concatenate([first, second])
    labels = np.repeat([0, 1], [len(first), len(second)])
    model = sklearn.pipeline.make_pipeline(
        sklearn.preprocessing.StandardScaler(),
        sklearn.linear_model.LogisticRegression(C=1e-3, max_iter=200),
    )
    folds = sklearn.model_selection.StratifiedKFold(5, shuffle=True, random_state=0)
    scores = sklearn.model_selection.cross_val_predict(
        model, values, labels, cv=folds, method="decision_function"
    )
    return float(sklearn.metrics.roc_auc_score(labels, scores))


def rows(judged: dict[str, dict]) -> list[dict]:
    """Return a table: a row a measure, with generated patches, the floor and other slides."""
    table = []
    for name, numbers in judged.items():
        for measure, floor, other in (
            ("kid", "_floor", "_other_slides"),
            ("precision", "_floor", "_other_slides"),
            ("recall", "_floor", "_other_slides"),
            ("real_or_generated_auc", None, "_floor"),
            ("label_fidelity", None, "_real"),
            ("label_auc", None, "_real"),
        ):
            if measure in numbers:
                cells = [numbers.get(f"{measure}{kind}") for kind in ("", floor, other)]
                text = ["–" if each is None else f"{each:.3f}" for each in cells]
                table.append(
                    dict(zip(("class", "measure", "generated", "real, same slides",
                              "real, other slides"),
                             (name, measure.replace("_", " "), *text), strict=True))
                )  # fmt: skip
        for way in ("pixels", "features"):
            if near := numbers.get(f"copies_by_{way}"):
                text = {kind: f"{near[kind]} of {of}" for kind, of in numbers["copies"].items()}
                table.append({
                    "class": name,
                    "measure": f"too near by {way}",
                    "generated": text["generated"],
                    "real, same slides": f"planted copies: {text['planted']}",
                    "real, other slides": text["held_out"],
                })  # fmt: skip
    return table
