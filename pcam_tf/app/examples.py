"""The synthetic examples of the page."""

import numpy as np

from pcam_tf import synthetic
from pcam_tf.task import PCAM, Task


def example_pictures(task: Task) -> dict[str, np.ndarray]:
    """Draw the examples: a region and, for PatchCamelyon, a patch of each class.

    The region is a mosaic of patches of one slide: left without tumour, right with it. Of the
    slides of eight seeds it is one on which a model of real tissue does well.
    """
    drawn = synthetic.draw_patches(128, split="test", seed=4)
    slide = np.flatnonzero(drawn.slide == 19)[:20]
    slide = slide[np.argsort(drawn.label[slide], kind="stable")]
    side_px = PCAM.side_px
    columns = drawn.image[slide].reshape(5, 4, side_px, side_px, 3)
    region = columns.transpose(1, 2, 0, 3, 4).reshape(4 * side_px, 5 * side_px, 3)
    if task != PCAM:
        return {"Region": region}
    without, positive = drawn.image[slide[0]], drawn.image[slide[-1]]
    return {"Patch without tumour": without, "Patch with tumour": positive, "Region": region}
