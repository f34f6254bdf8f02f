"""The section on its slide: what takes up which stain, what the lens blurs, what the camera sees.

`tissue` and `nuclei` say what lies where; here it becomes densities of haematoxylin and
eosin, and these a photograph by the Beer–Lambert model of `stain`.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pcam_tf import stain
from pcam_tf.synthetic.nuclei import Cells
from pcam_tf.synthetic.tissue import (
    PATCH_PX,
    X_PX,
    Y_PX,
    Host,
    Nests,
    Noise,
    cut,
    log_normal,
    per_patch,
)


class Slide(NamedTuple):
    """What a laboratory, its scanner and the patient give to all patches of one slide.

    Or the slides of N patches: each array then has one more axis, the first.
    """

    stain_vectors: np.ndarray  # float32 (2, 3)
    gains: np.ndarray  # float32 (2,): strength of each stain
    background: np.ndarray  # float32 (3,): grey level of light without tissue
    blur_px: float
    tissue_shares: np.ndarray  # (5,): of each kind of host tissue
    tumour_scale: float  # distance between tumour cells relative to the usual
    histiocyte_share: float
    cytoplasm: np.ndarray  # float32 (2,): densities of tumour cytoplasm


def draw_slide(rng: np.random.Generator) -> Slide:
    """Draw one slide."""
    vectors = np.stack([stain.HAEMATOXYLIN, stain.EOSIN]) + rng.normal(0, 0.03, (2, 3))
    # Laboratories and scanners range from blue and magenta to brown and salmon.
    warmth = rng.uniform(0, 1)
    vectors += np.multiply(warmth, [[-0.04, 0.06, 0.30], [0.04, -0.10, 0.30]])
    vectors[1] += rng.uniform(0.02, 0.12), -0.05, 0.12
    vectors = np.maximum(vectors, 0.01)
    return Slide(
        stain_vectors=np.float32(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)),
        gains=np.float32(rng.uniform([0.8, 0.75], [1.15, 1.3])),
        background=np.float32(rng.uniform(226, 247) + rng.uniform(-4, 4, 3)),
        blur_px=rng.uniform(0.40, 0.75),
        tissue_shares=rng.dirichlet([7, 7, 4, 2.5, 1.5]),
        tumour_scale=rng.uniform(0.9, 1.12),
        histiocyte_share=rng.uniform(0.03, 0.12),
        cytoplasm=np.float32(rng.uniform([0.15, 0.32], [0.30, 0.50])),
    )


def slides_of(slides: Iterable[Slide], which: np.ndarray) -> Slide:
    """Return the slides of N patches, given the number of each one's among `slides`."""
    return Slide(*(np.stack(values)[which] for values in zip(*slides, strict=True)))


def draw_densities(
    rng: np.random.Generator, noise: Noise, nests: Nests, host: Host, cells: Cells, slides: Slide
) -> np.ndarray:
    """Return the densities of both stains, float32 (N, 96, 96, 2), as the lens shows them."""
    count = len(nests.depth)
    grain, cloud = cut(rng, noise.fine, count), cut(rng, noise.medium, count)
    stains = stain_host(rng, host, grain, cloud)
    inside = np.clip(nests.depth / 1.2 + 0.5, 0, 1)  # of nests, with a soft edge
    cytoplasm = _stain_cytoplasm(rng, cells.body, slides.cytoplasm, grain, cloud)
    haematoxylin, eosin = (
        outer + inside * (inner - outer) for outer, inner in zip(stains, cytoplasm, strict=True)
    )
    left = _draw_gaps(rng, noise, nests, inside) * np.clip(0.5 - host.hole, 0, 1)
    walls = (0.2 + 0.06 * cloud).clip(0) * np.exp(-((host.hole + 0.8) ** 2) / 1.2)  # of fat cells

    ink = per_patch(log_normal(rng, count, 0.2))  # how deep the section's nuclei took the stain
    densities = np.empty((2, *grain.shape), np.float32)
    free = 1 - cells.cover
    densities[0] = haematoxylin.clip(0) * left * free + ink * cells.haematoxylin
    densities[1] = (eosin.clip(0) * left + walls) * free + 0.3 * cells.cover
    densities *= 1 + 0.06 * host.wave  # a section is nowhere of one thickness
    for density, gain in zip(densities, slides.gains.T, strict=True):
        density *= per_patch(gain * log_normal(rng, count, 0.22))
    blur_px = slides.blur_px + abs(rng.normal(0, 0.15, count))
    return blur(densities, blur_px)


def stain_host(rng: np.random.Generator, host: Host, grain: np.ndarray, cloud: np.ndarray):
    """Return haematoxylin and eosin between the nuclei of lymphoid tissue, sinus and stroma."""
    count = len(grain)
    collagen = per_patch(rng.uniform(0.25, 0.70, count))  # how dense a patch's is
    tone = per_patch(log_normal(rng, count, 0.3))
    eosin = (0.34 + 0.07 * grain + 0.08 * cloud) * tone
    haematoxylin = (0.30 + 0.05 * grain + 0.05 * cloud) * tone
    eosin += host.sinus * (0.13 + 0.06 * cloud + 0.05 * host.fibres - eosin)
    haematoxylin += host.sinus * (0.07 - haematoxylin)
    eosin += host.stroma * (collagen * (1 + 0.30 * host.fibres + 0.12 * cloud) - eosin)
    haematoxylin += host.stroma * (0.10 + 0.04 * host.fibres - haematoxylin)
    return haematoxylin, eosin


def _stain_cytoplasm(
    rng: np.random.Generator,
    body: np.ndarray,
    usual: np.ndarray,
    grain: np.ndarray,
    cloud: np.ndarray,
):
    """Return haematoxylin and eosin of tumour cytoplasm around the `usual` (N, 2) of the slide.

    Each cell has its own tone and is granular, with membranes between cells.
    """
    count = len(body)
    tones = np.exp(0.14 * rng.standard_normal((body.max() + 1, 2), np.float32))
    tones[0] = 0.7  # between cells
    # Membranes are dark lines in some tumours, pale clefts in others.
    contrast = per_patch(rng.uniform(-0.5, 0.5, count))
    usual = usual * np.exp(rng.normal(0, 0.3, (count, 2)))
    return granular_cytoplasm(body, tones, contrast, usual, grain, cloud)


def granular_cytoplasm(
    body: np.ndarray,
    tones: np.ndarray,
    contrast: float | np.ndarray,
    usual: np.ndarray,
    grain: np.ndarray,
    cloud: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return haematoxylin and eosin of cytoplasm, each (N, height, width).

    Args:
        body: int (N, height, width), whose cytoplasm a pixel is; 0 for none.
        tones: (cells + 1, 2), the factors of each cell, that of no cell first.
        contrast: of membranes, from -1, pale, to dark.
        usual: (N, 2), the mean densities.
        grain, cloud: noise, (N, height, width).
    """
    tone = tones[body]
    membrane = np.zeros_like(grain)
    membrane[:, 1:] += body[:, 1:] != body[:, :-1]
    membrane[:, :, 1:] += body[:, :, 1:] != body[:, :, :-1]
    texture = 1 + 0.16 * grain + 0.10 * cloud
    haematoxylin = per_patch(usual[:, 0]) * tone[..., 0] * texture
    eosin = per_patch(usual[:, 1]) * tone[..., 1] * texture
    return haematoxylin, eosin * (1 + contrast * np.minimum(membrane, 1))


def _draw_gaps(
    rng: np.random.Generator, noise: Noise, nests: Nests, inside: np.ndarray
) -> np.ndarray:
    """Return the share of each pixel's matrix and cytoplasm, 0..1, that gaps leave."""
    count = len(inside)
    # Nests shrink when the tissue is fixed: a cleft opens around some.
    width = per_patch(rng.uniform(-0.8, 0.9, count).clip(0))
    cleft = width * np.exp(-((nests.depth + 1.5) ** 2) / 2)
    # Some tumours fall apart into single cells with clear gaps between.
    loose = cut(rng, noise.medium, count) - per_patch(rng.uniform(0.2, 2.4, count))
    return (1 - cleft) * (1 - inside * np.clip(1.5 * loose, 0, 0.9))


def blur(densities: np.ndarray, blur_px: np.ndarray) -> np.ndarray:
    """Blur (2, N, 96, 96) with a Gaussian of its own width for each patch; return (N, 96, 96, 2).

    Five taps an axis do: no lens here blurs by more than about a pixel.
    """
    taps = np.exp(-np.float32([0, 1, 4])[:, None] / (2 * np.float32(blur_px) ** 2))
    taps /= taps[0] + 2 * taps[1] + 2 * taps[2]
    blurred = np.empty((*densities.shape[1:], 2), np.float32)
    for patch, (middle, near, far) in enumerate(taps.T):  # one by one, so that each stays in cache
        p = np.pad(densities[:, patch], ((0, 0), (2, 2), (2, 2)), mode="edge")
        p = middle * p[:, 2:-2] + near * (p[:, 1:-3] + p[:, 3:-1]) + far * (p[:, :-4] + p[:, 4:])
        p = (
            middle * p[..., 2:-2]
            + near * (p[..., 1:-3] + p[..., 3:-1])
            + far * (p[..., :-4] + p[..., 4:])
        )
        blurred[patch] = np.moveaxis(p, 0, -1)
    return blurred


def photograph(
    rng: np.random.Generator, noise: Noise, densities: np.ndarray, slides: Slide
) -> np.ndarray:
    """Return the uint8 picture (N, 96, 96, 3) of `densities` under an uneven, noisy light."""
    count = len(densities)
    y, x = Y_PX / PATCH_PX, X_PX / PATCH_PX
    tilt_y, tilt_x, vignette = rng.normal(0, 0.012, (3, count, 1, 1)).astype(np.float32)
    light = (1 + tilt_y * y + tilt_x * x - abs(vignette) * (y**2 + x**2))[..., None]
    light = light * slides.background[:, None, None]
    for channel in range(3):
        light[..., channel] *= 1 + 0.012 * cut(rng, noise.camera, count)
    return stain.mix(densities, slides.stain_vectors[:, None, None], light)
