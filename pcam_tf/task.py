"""What is asked of a patch: the names of its classes, its size, its scale, its labelled square.

A `Task` is the only place where these stand. Everything from source to report takes them from it.
"""

import dataclasses
from collections.abc import Sequence

from pcam_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class Task:
    """A question asked of patches.

    A task of two classes is answered by one probability, that of the second class. A task of more
    classes is answered by one probability for each class; these add up to 1.

    Attributes:
        name: of the task, such as "pcam".
        classes: names of the classes, two or more; a label is an index into them.
        side_px: side of a patch in pixels; patches are square.
        mpp: microns per pixel; None where it is not known.
        centre_px: side of the centred square that the label is about; None: the whole patch.
        group: what patches come in, such as "slide" or "patient"; the unit of intervals.
    """

    name: str
    classes: tuple[str, ...]
    side_px: int
    mpp: float | None
    centre_px: int | None = None
    group: str = "slide"

    def __post_init__(self):
        object.__setattr__(self, "classes", tuple(self.classes))
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise InputError(f"task {self.name}: give two or more classes with different names.")
        if self.side_px < 1 or not (self.mpp is None or self.mpp > 0):
            raise InputError(f"task {self.name}: the side and the scale must be above 0.")
        if self.centre_px is not None and not 0 < self.centre_px <= self.side_px:
            raise InputError(f"task {self.name}: the centre must be 1 to {self.side_px} px.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a patch: (side, side, 3)."""
        return self.side_px, self.side_px, 3

    @property
    def is_binary(self) -> bool:
        """Whether there are two classes, and so one probability."""
        return len(self.classes) == 2

    @property
    def outputs(self) -> int:
        """Number of probabilities that a classifier returns for a patch."""
        return 1 if self.is_binary else len(self.classes)

    @property
    def probability_columns(self) -> tuple[str, ...]:
        """Names of the columns of probabilities in a predictions table."""
        return probability_columns(self.classes)

    @property
    def centre(self) -> slice:
        """Rows, and columns, of a patch that its label is about."""
        side = self.centre_px or self.side_px
        first = (self.side_px - side) // 2
        return slice(first, first + side)

    def to_json(self) -> dict:
        """Return the task as a dictionary that JSON can hold."""
        return dataclasses.asdict(self) | {"classes": list(self.classes)}


def probability_columns(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns of probabilities: one for two classes, else one a class."""
    if len(classes) == 2:
        return ("probability",)
    return tuple(f"probability_{name}" for name in classes)


def from_json(content: dict) -> Task:
    """Return the task that `Task.to_json` described.

    Raises:
        InputError: it is not such a description.
    """
    try:
        return Task(**content)
    except TypeError as error:
        raise InputError(f"not a description of a task ({error}).") from error


# PatchCamelyon (B. Veeling et al., MICCAI 2018): does the centre hold a pixel of tumour?
PCAM = Task("pcam", ("normal", "tumour"), side_px=96, mpp=0.972, centre_px=32, group="slide")

# BreakHis (F. A. Spanhol et al., IEEE TBME 63, 2016): which tumour of the breast? Its files do not
# state a scale. A label is about a whole field; a patch is a crop of it that fits a field of 200X.
BREAKHIS = Task(
    "breakhis",
    (
        "adenosis",
        "fibroadenoma",
        "phyllodes_tumor",
        "tubular_adenoma",
        "ductal_carcinoma",
        "lobular_carcinoma",
        "mucinous_carcinoma",
        "papillary_carcinoma",
    ),
    side_px=128,
    mpp=None,
    group="case",
)
# The five classes with at least four cases in the part of the archive that the numbers are from.
BREAKHIS_5 = dataclasses.replace(
    BREAKHIS,
    name="breakhis-5",
    classes=tuple(BREAKHIS.classes[index] for index in (1, 3, 4, 6, 7)),
)
# The classes of kaiko-ai/eva's benchmark: those with at least seven patients in the whole archive.
BREAKHIS_4 = dataclasses.replace(
    BREAKHIS, name="breakhis-4", classes=tuple(BREAKHIS.classes[index] for index in (1, 3, 4, 6))
)
BREAKHIS_MALIGNANT = dataclasses.replace(
    BREAKHIS, name="breakhis-malignant", classes=("benign", "malignant")
)
