"""One training on several GPUs or machines: who leads, and who computes which share of a batch.

TensorFlow's `tf.distribute` does the work. A batch is as large as on one device and is shared out
among all replicas, one a device; gradients, and the statistics of BatchNormalization, are those of
the whole batch. Worker 0 is the chief: it alone reads and writes the run's folder.
"""

import contextlib
import json
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from pcam_tf.errors import InputError, first_line, unknown

NAMES = ("one", "mirrored", "multi-worker")
_EXAMPLE = (
    'TF_CONFIG=\'{"cluster": {"worker": ["HOST0:2222", "HOST1:2222"]}, '
    '"task": {"type": "worker", "index": 0}}\''
)
# What separates the seeds of two replicas; a model has far fewer random layers.
_SEEDS_APART = 100_000


class Workers:
    """The devices that train together.

    Attributes:
        strategy: of `tf.distribute`, or None: one device, trained by Keras's `fit`.
        count: workers, which are processes, on one machine or several.
        index: which of them this one is; 0 is the chief.
        replicas: devices of all workers together.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None, index=0, count=1):
        self.strategy, self.index, self.count = strategy, index, count
        self.replicas = strategy.num_replicas_in_sync if strategy else 1

    @property
    def is_chief(self) -> bool:
        """Whether this is the one that reads and writes the run's folder."""
        return self.index == 0

    @property
    def own(self) -> range:
        """The numbers of this worker's replicas; each worker has as many as any other."""
        each = self.replicas // self.count
        return range(self.index * each, (self.index + 1) * each)

    def scope(self) -> contextlib.AbstractContextManager:
        """Return the context in which variables are made that all replicas keep alike."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def told(self, *numbers: float) -> np.ndarray:
        """Return the chief's numbers, (n,) float64, on every worker, once all have come this far.

        Raises:
            InputError: another worker has ended meanwhile.
        """
        numbers = np.array(numbers, "float64")
        if self.count == 1:
            return numbers

        with self.readable_errors():
            told = self._of_first_replica(tf.constant(numbers))
            return self.strategy.experimental_local_results(told)[0].numpy()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float64)])
    def _of_first_replica(self, numbers):
        def told(numbers):
            replica = tf.distribute.get_replica_context()
            first = replica.replica_id_in_sync_group == 0
            return replica.all_reduce("SUM", tf.where(first, numbers, tf.zeros_like(numbers)))

        return self.strategy.run(told, args=(numbers,))

    def spread(self, variables: Sequence[keras.Variable]) -> None:
        """Give every worker the chief's values; but for seeds, which are set anew each epoch."""
        if self.count == 1:
            return
        chosen = [each for each in variables if "seed_generator" not in each.path]
        # float64 holds float32 exactly, and counts of steps as well.
        values = [np.asarray(each, "float64") for each in chosen]
        told = self.told(*np.concatenate([each.ravel() for each in values]))
        ends = np.cumsum([each.size for each in values])[:-1]
        for variable, value in zip(chosen, np.split(told, ends), strict=True):
            variable.assign(value.reshape(variable.shape).astype(variable.dtype))

    def set_seeds(self, variables: Sequence[keras.Variable], seed: int, epoch: int) -> None:
        """Set the state of each generator of random numbers for an epoch (from 0).

        Every epoch draws from seeds of its own, so that a resumed run draws the same. A million
        apart, since each draw within an epoch moves a state on by one. So does every replica,
        whose patches would otherwise all be augmented alike.
        """
        for index, variable in enumerate(variables):
            if variable.path.endswith("seed_generator_state"):
                local = (
                    self.strategy.experimental_local_results(variable.value)
                    if self.strategy
                    else [variable]
                )
                for replica, state in zip(self.own, local, strict=True):
                    state.assign([seed + index + _SEEDS_APART * replica, 1_000_000 * (epoch + 1)])

    def fit(
        self,
        model: keras.Model,
        shares: tf.data.Dataset,
        *,
        first: int,
        last: int,
        patches: int,
        batch_size: int,
        class_weight: dict[int, float] | None,
        callbacks: list[keras.callbacks.Callback],
    ) -> None:
        """Train as Keras's `fit` does, each replica on its shares of the batches.

        Keras 3's own `fit` does not run on several workers: it fails on the first batch.

        Args:
            model: compiled within `scope`.
            shares: this worker's, see `data.shares`.
            first: the epoch to begin with, from 0.
            last: the epoch to end before.
            patches: patches an epoch, of all replicas together.
            batch_size: patches a step, of all replicas together.
            class_weight: weight of each label, or None.
            callbacks: those of Keras; what the chief's say about stopping holds for all workers.

        Raises:
            InputError: another worker has ended meanwhile.
        """
        weight_of = [(class_weight or {}).get(label, 1.0) for label in (0, 1)]

        def weighted(share):
            # Keras takes the mean over a replica's share, divided by the number of replicas. Of
            # shares that differ in size this makes the mean over the batch.
            size = tf.cast(tf.shape(share["label"])[0], "float32")
            factor = size * self.replicas / tf.cast(share["of"], "float32")
            return (
                share["image"],
                share["label"],
                factor * tf.gather(np.float32(weight_of), share["label"]),
            )

        def replica_step(images, labels, weights):
            with tf.GradientTape() as tape:
                predicted = model(images, training=True)
                loss = model.compute_loss(images, labels, predicted, weights, training=True)
                scaled = model.optimizer.scale_loss(loss)
            gradients = tape.gradient(scaled, model.trainable_variables)
            model.optimizer.apply(gradients, model.trainable_variables)
            return loss

        @tf.function
        def step(iterator):
            losses = self.strategy.run(replica_step, args=next(iterator))
            return self.strategy.reduce("SUM", losses, axis=None)

        with self.scope():
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
        # Without an end, so that no worker asks the others at each step whether they have one.
        endless = shares.map(weighted).repeat().prefetch(2)
        batches = iter(self.strategy.distribute_datasets_from_function(lambda _: endless))
        sizes = [min(batch_size, patches - done) for done in range(0, patches, batch_size)]
        model.stop_training = False
        calls = keras.callbacks.CallbackList(
            callbacks,
            add_progbar=self.is_chief,
            model=model,
            epochs=last,
            steps=len(sizes),
            verbose=1,
        )
        with self.readable_errors():
            calls.on_train_begin()
            for epoch in range(first, last):
                calls.on_epoch_begin(epoch)
                losses = []
                for number in range(len(sizes)):
                    calls.on_train_batch_begin(number)
                    losses.append(float(step(batches)))
                    logs = {"loss": float(np.average(losses, weights=sizes[: number + 1]))}
                    calls.on_train_batch_end(number, logs)
                    if model.stop_training:
                        break
                calls.on_epoch_end(epoch, logs)
                if self.told(model.stop_training)[0]:
                    break
            calls.on_train_end()

    @contextlib.contextmanager
    def readable_errors(self) -> Iterator[None]:
        """Turn what TensorFlow reports when another worker has ended into one clear line.

        Raises:
            InputError: another worker has ended inside the block.
        """
        try:
            yield
        except tf.errors.OpError as error:
            gone = isinstance(error, tf.errors.UnavailableError) or "ollective" in error.message
            if self.count == 1 or not gone:
                raise
            raise InputError(
                f"worker {self.index} of {self.count} has lost another one: see why that ended, "
                "then start all again by the same commands, which go on from the last finished "
                "epoch."
            ) from error


ONE = Workers()


def open_workers(name: str) -> Workers:
    """Return the devices of a strategy; to be called before TensorFlow computes anything.

    Args:
        name: "one": one device, the first GPU where there is one. "mirrored": all GPUs of this
            machine. "multi-worker": all GPUs, or the processors, of all machines that TF_CONFIG
            names; waits until each has called this.

    Raises:
        InputError: there is no such strategy, TF_CONFIG is missing or wrong, or its address of this
            worker cannot be listened on.
    """
    if name not in NAMES:
        raise unknown("strategy", name, NAMES)
    if name == "one":
        return ONE
    if name == "mirrored":
        return Workers(tf.distribute.MirroredStrategy())
    addresses, index = _cluster(os.environ.get("TF_CONFIG"))
    print(f"worker {index} of {len(addresses)} waits for the others", file=sys.stderr, flush=True)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise InputError(
            f"worker {index} cannot join the others as {addresses[index]} ({reason}): check that "
            "TF_CONFIG gives this machine's address and a free port."
        ) from error
    return Workers(strategy, index, len(addresses))


def _cluster(text):
    """Return the workers' addresses in TF_CONFIG and which of them this process is."""
    if not text:
        raise InputError(
            "--strategy multi-worker finds its workers in TF_CONFIG, which is not set: set it as "
            f"in {_EXAMPLE}."
        )
    try:
        config = json.loads(text)
        addresses, task = config["cluster"]["worker"], config["task"]
        if set(config["cluster"]) != {"worker"} or task["type"] != "worker":
            raise InputError("it names tasks other than workers")
        if not all(re.fullmatch(r"[^\s:]+:\d{1,5}", address) for address in addresses):
            raise InputError("a worker's address is not HOST:PORT")
        if len(set(addresses)) != len(addresses) or not addresses:
            raise InputError("it names no worker, or one twice")
        for address in addresses:
            # TensorFlow would try for an hour.
            socket.getaddrinfo(address.split(":")[0], None)
        if task["index"] not in range(len(addresses)):
            raise InputError(f"there is no worker {task['index']!r} among {len(addresses)}")
        return addresses, int(task["index"])
    except InputError as error:
        reason = str(error)
    except KeyError as error:
        reason = f"it has no {error}"
    except OSError:
        reason = f"the host of {address} is not known here"
    except (ValueError, TypeError):
        reason = "it is not JSON of the form needed"
    raise InputError(f"TF_CONFIG cannot be used: {reason}; set it as in {_EXAMPLE}.")


def synchronised(model: keras.Model) -> keras.Model:
    """Let BatchNormalization normalise by the statistics of the whole batch, not of a share."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
        elif isinstance(layer, keras.Model):
            synchronised(layer)
    return model
