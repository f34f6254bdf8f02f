"""The losses of R3GAN: a relativistic pairing loss with penalties on real and generated patches.

N. Huang et al., "The GAN is dead; long live the GAN! A modern GAN baseline", NeurIPS 2024. The
pairing loss is that of A. Jolicoeur-Martineau (ICLR 2019); the penalties are R1 and R2 of
L. Mescheder et al. (ICML 2018).
"""

import tensorflow as tf
from keras import ops

# Beyond this, the critic's own loss is 0 in float32, and its gradient cannot be scaled back.
_MOST_MARGIN = 30.0


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


def generator_gradient(critic_gradient, real, generated):
    """Return the gradient of the generator's loss by its patches, from that of the critic's loss.

    Both losses depend on a generated patch through its score alone, so the one gradient is the
    other, times minus exp(margin), patch by patch. One pass through the critic then serves both
    networks (C. Shen et al., "Training generative adversarial networks in one stage", CVPR 2021).

    Args:
        critic_gradient: of `critic_loss` by the generated patches, (n, side, side, 3).
        real: scores (n,).
        generated: scores (n,).
    """
    margin = ops.minimum(real - generated, _MOST_MARGIN)
    return -critic_gradient * ops.reshape(ops.exp(margin), (-1, 1, 1, 1))
