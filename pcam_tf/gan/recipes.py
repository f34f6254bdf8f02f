"""The recipe of a generator: everything that decides its training, apart from the patches."""

import dataclasses

import numpy as np

from pcam_tf.errors import InputError
from pcam_tf.gan.networks import GROUP, Shape
from pcam_tf.task import Task


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides how a generator is trained.

    Attributes:
        side_px: side of the centre of a patch that is generated.
        overall, width: see `networks.Shape`.
        batch_size: patches a step, as many of each class.
        learning_rate: of Adam (beta 0 and 0.99) in both networks; it falls to a tenth as a cosine.
        gamma: weight of both penalties, halved, see `losses.penalty`.
        class_weight: of `losses.class_loss` in the critic's loss.
        averaging_kimg: half-life of the running average of the generator's weights, in thousands
            of patches; at first a twentieth of those seen.
        kimg: length, in thousands of real patches seen (repeats count).
        check_kimg: distance of two checks: KID, diversity, a sheet of samples, a checkpoint.
        seed: of everything that is drawn.
    """

    side_px: int = 48
    overall: int = 64
    width: int = 16
    batch_size: int = 32
    learning_rate: float = 4e-4
    gamma: float = 4.0
    class_weight: float = 0.3
    averaging_kimg: float = 5.0
    kimg: float = 160.0
    check_kimg: float = 5.0
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.kimg < np.inf:
            raise InputError(f"a training of {self.kimg:g} thousand patches: give more than 0.")
        if self.seed < 0:
            raise InputError(f"a seed of {self.seed}: give 0 or more.")

    @property
    def steps(self) -> int:
        """Number of steps."""
        return max(1, round(1000 * self.kimg / self.batch_size))

    @property
    def steps_between_checks(self) -> int:
        """Number of steps between two checks."""
        return max(1, round(1000 * self.check_kimg / self.batch_size))

    def kimg_of(self, steps: int) -> float:
        """Return the thousands of patches seen after a number of steps."""
        return steps * self.batch_size / 1000

    def shape_for(self, task: Task) -> Shape:
        """Return the size of the networks.

        Raises:
            InputError: the side does not fit the patches of the task, or the batch its classes.
        """
        smallest = task.centre_px or task.side_px
        if not smallest <= self.side_px <= task.side_px:
            raise InputError(
                f"a generator of {self.side_px} px does not fit {task.name} patches: choose "
                f"{smallest} to {task.side_px} px."
            )
        if self.batch_size % (GROUP * len(task.classes)):
            raise InputError(
                f"batches of {self.batch_size} patches cannot be shared by {len(task.classes)} "
                f"classes in groups of {GROUP}: choose a multiple of {GROUP * len(task.classes)}."
            )
        return Shape(self.side_px, len(task.classes), self.overall, self.width)
