"""The losses of R3GAN: a relativistic pairing loss with penalties on real and generated patches.

N. Huang et al., "The GAN is dead; long live the GAN! A modern GAN baseline", NeurIPS 2024. The
pairing loss is that of A. Jolicoeur-Martineau (ICLR 2019); the penalties are R1 and R2 of
L. Mescheder et al. (ICML 2018).
"""

import tensorflow as tf
from keras import ops


def critic_loss(real, generated):
    """Return the critic's loss of scores (n,) and (n,): small if each real one is the higher."""
    return ops.mean(ops.softplus(generated - real))


def generator_loss(real, generated):
    """Return the generator's loss of scores (n,) and (n,): small if each generated one is."""
    return ops.mean(ops.softplus(real - generated))


def penalty(critic, patches, labels):
    """Return the mean squared norm of the gradient of a critic's scores by its patches.

    It is R1 of real patches and R2 of generated ones. Its weight in the critic's loss is gamma / 2.
    """
    with tf.GradientTape() as tape:
        tape.watch(patches)
        scores = ops.sum(critic([patches, labels], training=True))
    gradient = tape.gradient(scores, patches)
    return ops.mean(ops.sum(ops.square(gradient), axis=(1, 2, 3)))
