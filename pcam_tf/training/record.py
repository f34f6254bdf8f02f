"""The record of a phase: validation, the best model, history, checkpoints, early stopping."""

import time
from collections.abc import Callable

import keras
import numpy as np
import pandas as pd
import sklearn.metrics

from pcam_tf.errors import InputError
from pcam_tf.files import written_whole
from pcam_tf.models import classifier, copies, outputs
from pcam_tf.training import devices, runs
from pcam_tf.training.recipes import Recipe
from pcam_tf.training.runs import HISTORY_COLUMNS, Run


def build(recipe: Recipe, task) -> keras.Model:
    """Return the untrained classifier of a recipe, see `classifier.build`."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16" if recipe.mixed_precision else "float32")
    try:
        return classifier.build(
            task,
            backbone=recipe.backbone,
            weights=recipe.weights,
            crop_px=recipe.crop_px,
            resize_px=recipe.resize_px,
            dropout=recipe.dropout,
            stochastic_depth=recipe.stochastic_depth,
        )
    finally:
        keras.config.set_dtype_policy(policy)


class Record(keras.callbacks.Callback):
    """After each epoch: validate with the averaged weights, keep the best, note it, checkpoint.

    Keras's BackupAndRestore does not keep what early stopping has counted. Here all of that is read
    from `history.csv`. A row in it is what makes an epoch finished: it is written last.
    """

    def __init__(
        self,
        run: Run,
        phase: str,
        saved: keras.Model,
        validate: Callable[[], np.ndarray],
        labels: np.ndarray,
        after_epoch: Callable[[keras.Model, int], None] | None = None,
    ):
        """Read the history of the run.

        Args:
            run: whose folder is written to.
            phase: "frozen" or "unfrozen".
            saved: the classifier that is saved; its weights are those of the best epoch's.
            validate: returns the probabilities of the validation patches, (n, outputs).
            labels: of the validation patches, (n,).
            after_epoch: see `phases.train`.

        Raises:
            InputError: the validation patches lack a class.
        """
        super().__init__()
        self.run, self.phase, self.saved = run, phase, saved
        self.validate, self.labels = validate, np.asarray(labels)
        self.after_epoch = after_epoch
        self.averager = keras.callbacks.SwapEMAWeights()
        self.path = run.folder / "history.csv"
        self.history = (
            runs.history(run.folder)
            if self.path.is_file()
            else pd.DataFrame(columns=HISTORY_COLUMNS)
        )
        for label, name in enumerate(run.task.classes):
            if label not in self.labels:
                raise InputError(f"the validation split has no {name} patch: its AUC needs one.")

    def set_model(self, model):
        """Take the model that is trained, as Keras's callbacks do."""
        super().set_model(model)
        self.averager.set_model(model)

    def finished_epochs(self) -> int:
        """Return how many epochs of the phase have ended."""
        return int((self.history.phase == self.phase).sum())

    def restore(self) -> None:
        """Load the checkpoint of the phase's last finished epoch, if there is one.

        Raises:
            InputError: the checkpoint is missing.
        """
        done = self.finished_epochs()
        if not done:
            return
        checkpoint = self._checkpoint(done)
        if not checkpoint.is_file():
            raise InputError(
                f"the run cannot continue without {checkpoint}: delete {self.run.folder} and train "
                "anew."
            )
        self.model.load_weights(checkpoint)

    def has_stalled(self) -> bool:
        """Return whether the phase has gone `patience` epochs without a better AUC."""
        aucs = self.history.validation_auc[self.history.phase == self.phase].to_numpy()
        return len(aucs) > 0 and len(aucs) - 1 - aucs.argmax() >= self.run.recipe.patience

    def on_epoch_begin(self, epoch, logs=None):
        """Give the epoch (from 0) its own random numbers."""
        self.started = time.perf_counter()
        devices.set_seeds(self.model.variables, self.run.recipe.seed, epoch)

    def on_epoch_end(self, epoch, logs=None):
        """Validate, keep the best model, write a checkpoint, then the row of the history.

        Raises:
            InputError: the loss is no longer a number; the epoch leaves nothing behind.
        """
        if not np.isfinite(logs["loss"]):
            raise InputError(
                f"the training diverged in {self.phase} epoch {epoch + 1} (loss {logs['loss']:g}): "
                "train into another folder with a lower learning rate."
            )
        self.averager.on_test_begin()
        name = f"the model of {self.phase} epoch {epoch + 1}"
        probabilities = outputs.checked(self.validate(), len(self.labels), self.run.task, name)
        probabilities = probabilities.astype("float64")
        if not self.run.task.is_binary:
            # In float32 their sums differ from 1 by more than scikit-learn allows.
            probabilities /= probabilities.sum(axis=1, keepdims=True)
        auc = self._auc(probabilities)
        if not self.history.validation_auc.max() >= auc:
            self._save_best()
        if self.after_epoch:
            self.after_epoch(self.saved, epoch + 1)
        self.averager.on_test_end()
        with written_whole(self._checkpoint(epoch + 1)) as temporary:
            self.model.save_weights(temporary)
        labels = range(len(self.run.task.classes))
        row = {
            "phase": self.phase,
            "epoch": epoch + 1,
            "loss": logs["loss"],
            "validation_loss": sklearn.metrics.log_loss(self.labels, probabilities, labels=labels),
            "validation_auc": auc,
            "seconds": round(time.perf_counter() - self.started, 2),
        }
        self._note(pd.DataFrame([row]))
        self._checkpoint(epoch).unlink(missing_ok=True)
        print(f" {self.phase} epoch {epoch + 1}: validation AUC {auc:.4f}", flush=True)
        if self.has_stalled():
            self.model.stop_training = True

    def _auc(self, probabilities):
        """Return the AUC, with more than two classes the mean of those of each against the rest."""
        if self.run.task.is_binary:
            return sklearn.metrics.roc_auc_score(self.labels, probabilities.ravel())
        return sklearn.metrics.roc_auc_score(self.labels, probabilities, multi_class="ovr")

    def _note(self, row):
        self.history = pd.concat([self.history, row]) if len(self.history) else row
        with written_whole(self.path) as temporary:
            self.history.to_csv(temporary, index=False)

    def _save_best(self):
        best = self.saved
        if self.run.recipe.mixed_precision:
            best = copies.copied(best, _in_float32)
            best.task = self.run.task
        classifier.save(best, self.run.folder / "model.keras")

    def _checkpoint(self, epoch):
        return self.run.work_dir / f"{self.phase}-{epoch}.weights.h5"


def _in_float32(layer):
    config = layer.get_config()
    if isinstance(layer, keras.layers.Layer):  # an operation such as `x + 3` has no type of its own
        config = config | {"dtype": "float32"}
    return type(layer).from_config(config)
