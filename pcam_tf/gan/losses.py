"""The losses of R3GAN: a relativistic pairing loss with penalties on real and generated patches.

N. Huang et al., "The GAN is dead; long live the GAN! A modern GAN baseline", NeurIPS 2024. The
pairing loss is that of A. Jolicoeur-Martineau (ICLR 2019); the penalties are R1 and R2 of
L. Mescheder et al. (ICML 2018), here of the maps that the critic sees (`projection`) instead of
pixels. That a real patch is also paired with itself under another class follows the matching-aware
critic of S. Reed et al. (ICML 2016).
"""

import tensorflow as tf
from keras import ops


def critic_loss(real, generated):
    """Return the critic's loss of scores (n, maps) twice: small if each real one is the higher."""
    return ops.mean(ops.softplus(generated - real))


def generator_loss(real, generated):
    """Return the generator's loss of scores (n, maps) twice: small if each generated one is."""
    return ops.mean(ops.softplus(real - generated))


def of_class(scores, labels):
    """Return the scores (n, maps) of the class of each patch, from (n, maps, classes)."""
    return ops.sum(scores * _one_hot(scores, labels), axis=-1)


def class_loss(scores, labels):
    """Return a loss of real patches' scores (n, maps, classes): small if the own class leads.

    Without it little tells the critic that a real patch of another class is not real here, and the
    generator not what a class looks like. Too much of it, and patches become more typical of their
    class than real ones are.
    """
    others = ops.broadcast_to(1 - _one_hot(scores, labels), scores.shape)
    own = of_class(scores, labels)[..., None]
    return ops.sum(ops.softplus(scores - own) * others) / ops.sum(others)


def penalty(critic, maps, labels):
    """Return the mean squared norm of the gradient of a critic's scores by the maps of patches.

    It is R1 of real patches and R2 of generated ones, the mean over the maps. Its weight in the
    critic's loss is gamma / 2.
    """
    with tf.GradientTape() as tape:
        tape.watch(maps)
        scores = ops.sum(of_class(critic(maps, training=True), labels))
    gradients = tape.gradient(scores, maps)
    squares = [ops.mean(ops.sum(ops.square(each), axis=(1, 2, 3))) for each in gradients]
    return sum(squares) / len(squares)


def _one_hot(scores, labels):
    return ops.one_hot(labels, scores.shape[-1])[:, None]
