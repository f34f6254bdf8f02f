"""Remedies for class imbalance: on which patches, and by which loss, a head is trained in each.

All remedies train the same head on features of one frozen backbone, with the same optimiser, number
of steps and batch size. Only the patches of a batch and the loss differ.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

BATCH, STEPS, LEARNING_RATE = 256, 800, 1e-3
FOCUS = 2.0
# Of the generated patches, those that a classifier is surest of.
SELECTED = 0.5


@dataclasses.dataclass(frozen=True)
class Pool:
    """Features that heads are trained on; rows of tumour are of class 1.

    Attributes:
        normal, tumour: of the real patches, (n, features) and (m, features).
        augmented_normal: of the real patches, each strongly augmented once, (n, features).
        augmented_tumour: of several augmented views of each, (views × m, features).
        generated: of generated tumour patches, at least 2 × (n - m) for all remedies;
            (0, features) where there is no generator.
    """

    normal: np.ndarray
    tumour: np.ndarray
    augmented_normal: np.ndarray
    augmented_tumour: np.ndarray
    generated: np.ndarray

    @property
    def missing(self) -> int:
        """Number of tumour patches that are lacking for a balance."""
        return len(self.normal) - len(self.tumour)


PLAIN = "plain"
OVERSAMPLING = "oversampling + augmentation"
GENERATED = ("generated", "generated, selected", "generated + class weights")
REMEDIES = (PLAIN, "class weights", "focal loss", OVERSAMPLING, *GENERATED)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a head is trained.

    Attributes:
        features: (n, features).
        labels: int64 (n,).
        class_weights: weigh both classes alike.
        focal: use the focal loss.
    """

    features: np.ndarray
    labels: np.ndarray
    class_weights: bool = False
    focal: bool = False


def plan(remedy: str, pool: Pool, seed: int) -> Plan:
    """Return how a head is trained by a remedy.

    plain: the patches as they are. class weights: errors weigh inversely to the frequency of the
    class. focal loss: errors that are small weigh less (T.-Y. Lin et al., ICCV 2017), gamma 2.
    oversampling + augmentation: as many views of tumour as normal patches, half of both strongly
    augmented. generated: generated tumour patches up to a balance. generated, selected: those half
    of twice as many that the head of class weights is surest are tumour. generated + class weights:
    as many generated as real tumour patches, and class weights for the rest.

    Args:
        remedy: one of `REMEDIES`.
        pool: features of the patches that the remedy may use.
        seed: of choices among them, and of the head that selects.
    """
    if remedy == OVERSAMPLING:
        return _oversampled(pool, np.random.default_rng([seed, 4]))
    if remedy == "generated":
        return _with(pool, pool.generated[: pool.missing])
    if remedy == "generated, selected":
        candidates = pool.generated[: round(pool.missing / SELECTED)]
        scores = probabilities(fit(plan("class weights", pool, seed), seed), candidates)
        return _with(pool, candidates[np.argsort(-scores, kind="stable")[: pool.missing]])
    if remedy == "generated + class weights":
        return _with(pool, pool.generated[: len(pool.tumour)], class_weights=True)
    own = {"class_weights": remedy == "class weights", "focal": remedy == "focal loss"}
    return _with(pool, pool.generated[:0], **own)


def _with(pool, generated, **options):
    """Return the plan of all real patches and some generated ones."""
    return Plan(
        np.concatenate([pool.normal, pool.tumour, generated]),
        np.repeat([0, 1], [len(pool.normal), len(pool.tumour) + len(generated)]),
        **options,
    )


def _oversampled(pool, rng):
    count = len(pool.normal)
    halves = []
    for plain, augmented in (
        (pool.normal, pool.augmented_normal),
        (pool.tumour, pool.augmented_tumour),
    ):
        for part, wanted in ((plain, count - count // 2), (augmented, count // 2)):
            # Every row once before any twice.
            order = np.concatenate(
                [rng.permutation(len(part)) for _ in range(-(-wanted // len(part)))]
            )
            halves.append(part[order[:wanted]])
    return Plan(np.concatenate(halves), np.repeat([0, 1], count))


def fit(planned: Plan, seed: int, steps: int = STEPS) -> keras.Model:
    """Return a logistic head trained by a plan: features (n, features) to probabilities (n, 1).

    Args:
        planned: see `plan`.
        seed: of the head's first weights and of the order of the patches.
        steps: of AdamW, whose rate falls to 0 as a cosine.
    """
    keras.utils.set_random_seed(seed)
    counts = np.bincount(planned.labels, minlength=2)
    share = 0.5 if planned.class_weights else counts[1] / len(planned.labels)
    # From 0 instead, so few steps would not bring the bias down to a low prevalence.
    log_odds = keras.initializers.Constant(np.log(share / (1 - share)))
    standardise = keras.layers.Normalization()
    standardise.adapt(planned.features)
    head = keras.Sequential([
        keras.Input(planned.features.shape[1:]),
        standardise,
        keras.layers.Dropout(0.2, seed=seed),
        keras.layers.Dense(1, "sigmoid", kernel_initializer="zeros", bias_initializer=log_odds),
    ])  # fmt: skip
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    loss = (
        keras.losses.BinaryFocalCrossentropy(gamma=FOCUS)
        if planned.focal
        else keras.losses.BinaryCrossentropy()
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.01)
    # One call of TensorFlow for all these steps; a step by itself takes less than the call.
    together = next(count for count in (40, 20, 10, 5, 1) if steps % count == 0)
    head.compile(optimizer, loss, steps_per_execution=together)
    weights = len(planned.labels) / (2 * np.maximum(counts, 1))
    head.fit(
        _batches(planned, seed, steps),
        steps_per_epoch=steps,
        shuffle=False,
        class_weight=dict(enumerate(weights)) if planned.class_weights else None,
        verbose=0,
    )
    return head


def _batches(planned, seed, steps):
    """Return `steps` batches of rows, each row once before any twice."""
    rng = np.random.default_rng([seed, 5])
    rounds = -(-steps * BATCH // len(planned.labels))
    order = np.concatenate([rng.permutation(len(planned.labels)) for _ in range(rounds)])
    features, labels = tf.constant(planned.features), tf.constant(planned.labels)
    rows = tf.data.Dataset.from_tensor_slices(order).batch(BATCH).take(steps)
    return rows.map(lambda chosen: (tf.gather(features, chosen), tf.gather(labels, chosen)))


def probabilities(head: keras.Model, features: np.ndarray) -> np.ndarray:
    """Return the probability of tumour of each row, float32 (n,)."""
    return head.predict(features, batch_size=2048, verbose=0)[:, 0]
