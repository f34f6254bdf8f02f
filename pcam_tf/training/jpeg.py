"""Baseline JPEG compression of batches, in operations that every backend and XLA have."""

import numpy as np
import scipy.fft
from keras import ops

# T.81, annex K.1: the steps to which luminance and chrominance are rounded at quality 50.
_LUMINANCE_STEPS = """
    16 11 10 16  24  40  51  61   12 12 14 19  26  58  60  55
    14 13 16 24  40  57  69  56   14 17 22 29  51  87  80  62
    18 22 37 56  68 109 103  77   24 35 55 64  81 104 113  92
    49 64 78 87 103 121 120 101   72 92 95 98 112 100 103  99"""
_CHROMINANCE_STEPS = """
    17 18 24 47 99 99 99 99   18 21 26 66 99 99 99 99
    24 26 56 99 99 99 99 99   47 66 99 99 99 99 99 99
    99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99
    99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99"""
# JFIF: from RGB to luminance, blue and red difference.
_YCBCR = np.array(
    [[0.299, -0.168736, 0.5], [0.587, -0.331264, -0.418688], [0.114, 0.5, -0.081312]], "float32"
)


def compressed(patches, quality):
    """Return patches as JPEG keeps them, but for the rounding of pixels before and after.

    Args:
        patches: float32 (b, side, side, 3), RGB 0..255; the side a multiple of 16 px.
        quality: float32 (b,), 1..100, as libjpeg counts it.
    """
    side = patches.shape[1]
    scale = ops.where(quality < 50, 50 / quality, 2 - quality / 50)
    cosine = scipy.fft.dct(np.eye(8), axis=0, norm="ortho")
    halve = np.kron(np.eye(side // 2), [[0.5, 0.5]])
    full = np.kron(np.eye(side // 8), cosine)
    half = np.kron(np.eye(side // 16), cosine)
    ycbcr = ops.matmul(patches, _YCBCR) - np.float32([128, 0, 0])
    channels = [
        _rounded(ycbcr[..., 0], scale, _LUMINANCE_STEPS, full, full.T),
        _rounded(ycbcr[..., 1], scale, _CHROMINANCE_STEPS, half @ halve, (half @ halve * 2).T),
        _rounded(ycbcr[..., 2], scale, _CHROMINANCE_STEPS, half @ halve, (half @ halve * 2).T),
    ]
    ycbcr = ops.stack(channels, axis=-1) + np.float32([128, 0, 0])
    return ops.clip(ops.matmul(ycbcr, np.linalg.inv(_YCBCR)), 0, 255)


def _rounded(channel, scale, steps, forward, backward):
    """Return a channel (b, side, side) with its cosine transform rounded to whole steps."""
    blocks = forward.shape[0] // 8
    steps = np.tile(np.array(steps.split(), "float32").reshape(8, 8), (blocks, blocks))
    steps = ops.clip(ops.round(steps * ops.reshape(scale, (-1, 1, 1))), 1, 255)
    forward, backward = forward.astype("float32"), backward.astype("float32")
    coefficients = ops.matmul(ops.matmul(forward, channel), forward.T)
    coefficients = ops.round(coefficients / steps) * steps
    return ops.matmul(ops.matmul(backward, coefficients), backward.T)
