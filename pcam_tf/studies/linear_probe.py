"""A linear probe: logistic regression on the frozen features of a backbone or an encoder.

Features are computed once. They are kept in parts, under a name that changes with the weights, so
that an interrupted probe goes on and no feature of another encoder is taken for one of this.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
import sklearn.linear_model
import sklearn.metrics
import sklearn.pipeline
import sklearn.preprocessing
import threadpoolctl
import tqdm

from pcam_tf import data, prediction
from pcam_tf.files import claim, write_json, written_whole
from pcam_tf.models import engines
from pcam_tf.models.engines import Engine

PART = 1024  # patches a file
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Features(NamedTuple):
    """Features of a split: ids and labels (n,), values float32 (n, features)."""

    ids: np.ndarray
    labels: np.ndarray
    values: np.ndarray


def probe(extractor: keras.Model, source, folder: str | Path) -> dict:
    """Train a linear probe on the training split; choose its strength on validation.

    Writes into `folder`: `features-<digest>/<split>/<number>.npz` (`id`, `label` and `features`,
    float16, of up to 1,024 patches each), `predictions-validation.csv`, `predictions-test.csv` and
    `probe.json`, which is what is returned.

    Args:
        extractor: from raw patches (n, side, side, 3) to features (n, features).
        source: a prepared source of patches.
        folder: made where it is missing.

    Returns:
        `digest` of the extractor; `features`, how many a patch; `patches` of each split;
        `validation_loss` by strength; `strength`, that with the least: scikit-learn's C.

    Raises:
        InputError: the source lacks a split, or `folder` cannot be written to or holds features of
            other patches.
    """
    folder, digest = Path(folder), digest_of(extractor)
    total = sum(data.count(source, split) for split in data.SPLITS)
    engine = engines.fastest(extractor, total)
    place = folder / f"features-{digest[:12]}"
    claim(place / "patches.json", data.described(source), "probe")
    of = {split: features(engine, source, split, place / split) for split in data.SPLITS}
    model, losses = fitted(of["train"], of["validation"])
    task = data.task_of(source)
    for split in ("validation", "test"):
        values = model.predict_proba(of[split].values)
        columns = values[:, 1:] if task.is_binary else values
        table = pd.DataFrame({"id": of[split].ids, "label": of[split].labels})
        table[list(task.probability_columns)] = columns
        prediction.write(data.with_groups(table, source), folder / f"predictions-{split}.csv")
    result = {
        "digest": digest,
        "features": of["train"].values.shape[1],
        "patches": {split: len(each.ids) for split, each in of.items()},
        "strength": min(losses, key=losses.get),
        "validation_loss": {str(strength): loss for strength, loss in losses.items()},
    }
    write_json(folder / "probe.json", result)
    return result


def features(engine: Engine, source, split: str, folder: Path) -> Features:
    """Return the features of a split; parts that are in `folder` are read, others computed."""
    total, parts = data.count(source, split), []
    with tqdm.tqdm(total=total, desc=f"features of {split}", unit="patch") as bar:
        for first in range(0, total, PART):
            path = folder / f"{first // PART:05}.npz"
            if not path.is_file():
                rows = slice(first, min(first + PART, total))
                _write_part(engine, source, split, rows, path)
            with np.load(path) as part:
                parts.append(Features(part["id"], part["label"], part["features"]))
            bar.update(len(parts[-1].ids))
    ids, labels, values = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Features(ids, labels, values.astype("float32"))


def _write_part(engine, source, split, rows, path):
    batches = list(data.arrays(data.batches(source, split, batch_size=128, rows=rows)))
    values = [engine.predict_on_batch(batch["image"].astype("float32")) for batch in batches]
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            id=np.concatenate([batch["id"] for batch in batches]).astype(str),
            label=np.concatenate([batch["label"] for batch in batches]),
            features=np.concatenate(values).astype("float16"),
        )


def fitted(train: Features, validation: Features) -> tuple[sklearn.pipeline.Pipeline, dict]:
    """Return the probe of the strength with the least cross-entropy on validation.

    Features are standardised by the training patches.

    Returns:
        The fitted probe, and the cross-entropy of each of `STRENGTHS`.
    """
    losses, probes = {}, {}
    # Threads of BLAS wait for each other far longer than these products take.
    with threadpoolctl.threadpool_limits(1):
        for strength in STRENGTHS:
            probes[strength] = sklearn.pipeline.make_pipeline(
                sklearn.preprocessing.StandardScaler(),
                sklearn.linear_model.LogisticRegression(C=strength, max_iter=300, tol=1e-3),
            ).fit(train.values, train.labels)
            losses[strength] = float(
                sklearn.metrics.log_loss(
                    validation.labels,
                    probes[strength].predict_proba(validation.values),
                    labels=probes[strength].classes_,
                )
            )
    return probes[min(losses, key=losses.get)], losses


def digest_of(model: keras.Model) -> str:
    """Return the SHA-256 of a model's layers and weights; names of layers do not count."""
    digest = hashlib.sha256()
    for layer in model.layers:
        config = json.dumps(_unnamed(layer.get_config()), sort_keys=True, default=str)
        digest.update(f"{type(layer).__name__} {config}".encode())
        for weight in layer.get_weights():
            digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()


def _unnamed(config):
    if isinstance(config, dict):
        return {key: _unnamed(each) for key, each in config.items() if key != "name"}
    return [_unnamed(each) for each in config] if isinstance(config, list | tuple) else config
