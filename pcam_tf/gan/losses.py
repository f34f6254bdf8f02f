"""The losses of R3GAN: a relativistic pairing loss with penalties on real and generated patches.

N. Huang et al., "The GAN is dead; long live the GAN! A modern GAN baseline", NeurIPS 2024. The
pairing loss is that of A. Jolicoeur-Martineau (ICLR 2019); the penalties are R1 and R2 of
L. Mescheder et al. (ICML 2018). That a real patch is also paired with itself under another class
follows the matching-aware critic of S. Reed et al. (ICML 2016).
"""

import tensorflow as tf
from keras import ops


def critic_loss(real, generated):
    """Return the critic's loss of scores (n,) and (n,): small if each real one is the higher."""
    return ops.mean(ops.softplus(generated - real))


def generator_loss(real, generated):
    """Return the generator's loss of scores (n,) and (n,): small if each generated one is."""
    return ops.mean(ops.softplus(real - generated))


def of_class(scores, labels):
    """Return the score of each patch for its class: (n, classes) and labels (n,) to (n,)."""
    return ops.sum(scores * ops.one_hot(labels, scores.shape[-1]), axis=-1)


def class_loss(scores, labels):
    """Return a loss of real patches' scores (n, classes): small if the own class has the highest.

    Without it nothing tells the critic that a real patch of another class is not real here, and
    the generator not what a class looks like.
    """
    own = of_class(scores, labels)[:, None]
    others = 1 - ops.one_hot(labels, scores.shape[-1])
    return ops.sum(ops.softplus(scores - own) * others) / ops.sum(others)


def penalty(critic, patches, labels):
    """Return the mean squared norm of the gradient of a critic's scores by its patches.

    It is R1 of real patches and R2 of generated ones. Its weight in the critic's loss is gamma / 2.
    """
    with tf.GradientTape() as tape:
        tape.watch(patches)
        scores = ops.sum(of_class(critic(patches, training=True), labels))
    gradient = tape.gradient(scores, patches)
    return ops.mean(ops.sum(ops.square(gradient), axis=(1, 2, 3)))
