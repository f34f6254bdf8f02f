"""One training: both networks, their optimisers, the running average, and one step of it."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from pcam_tf.files import written_whole
from pcam_tf.gan import augmentation, losses, networks, projection
from pcam_tf.gan.recipes import Recipe
from pcam_tf.training import batch_normalization

_STATISTICS = 16  # batches whose statistics the averaged generator gets


class State:
    """All that changes in a training, and the step that changes it.

    A step depends on this state, its patches, the recipe's seed and its number alone, so a state
    that is stored and loaded continues as if nothing had happened.
    """

    def __init__(self, recipe: Recipe, shape: networks.Shape):
        self.recipe, self.shape = recipe, shape
        self.generator = networks.generator(shape, recipe.seed)
        self.projection = projection.projection(shape.side_px, recipe.seed)
        self.critic = networks.critic(self.projection.outputs, shape.classes, recipe.seed)
        self.average = networks.generator(shape, recipe.seed)
        self.optimizers = []
        for network in self.networks:
            rate = keras.optimizers.schedules.CosineDecay(
                recipe.learning_rate, recipe.steps, alpha=0.1
            )
            name = f"{network.name}_adam"  # see `networks`, of names
            optimizer = keras.optimizers.Adam(rate, beta_1=0.0, beta_2=0.99, name=name)
            optimizer.build(network.trainable_variables)
            self.optimizers.append(optimizer)
        self._update = tf.function(self._updated, autograph=False)

    @property
    def networks(self) -> tuple[keras.Model, keras.Model]:
        """Both networks that are trained."""
        return self.generator, self.critic

    @property
    def variables(self) -> list:
        """Everything that is stored; the projection follows from the seed."""
        models = (self.generator, self.critic, self.average)
        return [v for part in (*models, *self.optimizers) for v in part.variables]

    def step(self, number: int, patches: np.ndarray, labels: np.ndarray) -> dict:
        """Take one step (from 0) and return what was measured in it, as tensors.

        Args:
            number: of the step.
            patches: uint8 (batch, side, side, 3).
            labels: (batch,); the generated patches have the same.
        """
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, 1, number])
        latents = rng.standard_normal((len(patches), self.shape.latents), "float32")
        draws = [augmentation.draw(rng, len(patches), recipe.side_px) for _ in range(2)]
        real = tf.constant(patches.astype("float32") / 127.5 - 1)
        tensors = tf.nest.map_structure(tf.constant, (latents, *draws))
        keep = tf.constant(self._momentum(number), "float32")
        return self._update(real, tf.constant(labels.astype("int32")), *tensors, keep)

    def _momentum(self, number):
        """Return the share of the average that stays in a step."""
        seen = self.recipe.kimg_of(number + 1)
        half_life = min(self.recipe.averaging_kimg, seen / 20)
        return 0.5 ** (self.recipe.kimg_of(1) / half_life)

    def _updated(self, real, labels, latents, real_draws, fake_draws, keep):
        generator, critic = self.generator.trainable_variables, self.critic.trainable_variables
        with tf.GradientTape() as generator_tape:
            generated = self.generator([latents, labels], training=True)
            fake = self.projection(augmentation.augmented(generated, fake_draws))
        real = self.projection(augmentation.augmented(real, real_draws))
        # One pass through the critic serves both networks, which are then updated together.
        with tf.GradientTape(persistent=True) as critic_tape:
            critic_tape.watch(fake)
            by_class = self.critic(real, training=True)
            real_scores = losses.of_class(by_class, labels)
            fake_scores = losses.of_class(self.critic(fake, training=True), labels)
            critic_loss = losses.critic_loss(real_scores, fake_scores)
            class_loss = losses.class_loss(by_class, labels)
            penalty = losses.penalty(self.critic, real, labels)
            penalty += losses.penalty(self.critic, fake, labels)
            recipe = self.recipe
            whole = critic_loss + recipe.class_weight * class_loss + recipe.gamma / 2 * penalty
            generator_loss = losses.generator_loss(real_scores, fake_scores)
        gradients = critic_tape.gradient(whole, critic)
        of_fake = critic_tape.gradient(generator_loss, fake)
        own = generator_tape.gradient(fake, generator, output_gradients=of_fake)
        for optimizer, changes, variables in zip(
            self.optimizers, (own, gradients), (generator, critic), strict=True
        ):
            optimizer.apply_gradients(zip(changes, variables, strict=True))
        pairs = zip(
            self.average.trainable_variables, self.generator.trainable_variables, strict=True
        )
        for mean, new in pairs:
            mean.assign(keep * mean + (1 - keep) * new)
        return {
            "critic_loss": critic_loss,
            "class_loss": class_loss,
            "generator_loss": generator_loss,
            "margin": ops.mean(real_scores - fake_scores),
            "generator_gradient": tf.linalg.global_norm(own),
            "penalty": penalty,
        }

    def set_statistics(self) -> None:
        """Set the statistics of the averaged generator, which no step changes, to its own."""
        rng = np.random.default_rng([self.recipe.seed, 3])
        shape = (_STATISTICS, self.recipe.batch_size, self.shape.latents)
        labels = np.arange(self.recipe.batch_size) % self.shape.classes
        batches = ([each, labels] for each in rng.standard_normal(shape, "float32"))
        batch_normalization.reestimate(self.average, batches)

    def save(self, path: str | Path, **more: np.ndarray) -> None:
        """Write the state, and `more` arrays beside it, whole or not at all."""
        arrays = {str(number): np.asarray(v) for number, v in enumerate(self.variables)}
        with written_whole(path) as temporary:
            np.savez(temporary, **arrays, **more)

    def load(self, path: str | Path) -> dict[str, np.ndarray]:
        """Set the state to that of a file, and return what was stored beside it."""
        with np.load(path) as stored:
            names = [str(number) for number in range(len(self.variables))]
            for name, variable in zip(names, self.variables, strict=True):
                variable.assign(stored[name])
            return {name: stored[name] for name in stored.files if name not in names}


def generate(
    generator: keras.Model, latents: np.ndarray, labels: np.ndarray, batch_size: int = 128
) -> np.ndarray:
    """Return generated patches, uint8 (n, side, side, 3).

    Args:
        generator: see `networks.generator`.
        latents: float32 (n, latents).
        labels: (n,).
        batch_size: patches at once.
    """
    parts = [
        np.asarray(
            generator.predict_on_batch([
                latents[first : first + batch_size],
                np.asarray(labels[first : first + batch_size], "int32"),
            ])
        )
        for first in range(0, len(latents), batch_size)
    ]  # fmt: skip
    return np.clip(np.round((np.concatenate(parts) + 1) * 127.5), 0, 255).astype("uint8")
