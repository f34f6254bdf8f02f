"""Predictions tables of three classes for the tests."""

import numpy as np
import pandas as pd
import scipy.special

CLASSES = ("ductal", "lobular", "mucinous")


def table_of(labels, probabilities, **columns):
    """Return a table; probabilities (n, 3) in the order of CLASSES."""
    named = {f"probability_{name}": np.asarray(probabilities)[:, at] for at, name in
             enumerate(CLASSES)}  # fmt: skip
    ids = [f"p{row}" for row in range(len(labels))]
    return pd.DataFrame({"id": ids, "label": np.asarray(labels, "int64"), **named, **columns})


def drawn(patches=300, *, seed=0, temperature=1.0, separation=1.0):
    """Return a table whose logits are right at the temperature 1."""
    generator = np.random.default_rng(seed)
    logits = separation * generator.normal(0, 1.5, (patches, 3))
    probabilities = scipy.special.softmax(logits, axis=1)
    labels = (probabilities.cumsum(axis=1) < generator.uniform(size=(patches, 1))).sum(axis=1)
    return table_of(labels, scipy.special.softmax(logits * temperature, axis=1))


# Predicted 0, 0, 1, 1, 2, 0, 2: three of the first class, two of each other.
SMALL = table_of(
    [0, 0, 0, 1, 1, 2, 2],
    [
        [0.7, 0.2, 0.1],
        [0.5, 0.3, 0.2],
        [0.3, 0.6, 0.1],
        [0.1, 0.8, 0.1],
        [0.2, 0.3, 0.5],
        [0.4, 0.3, 0.3],
        [0.1, 0.1, 0.8],
    ],
)
