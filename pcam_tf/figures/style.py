"""The style of all figures: colours, fonts, empty figures, and how a figure is written."""

import io
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

from pcam_tf.files import written_whole

# Okabe and Ito's palette, which readers with any colour vision can tell apart. Of two classes the
# first is blue and the second vermilion in every figure; lines differ in their dashes as well.
NORMAL, TUMOUR, NEUTRAL, GREEN = "#0072B2", "#D55E00", "#555555", "#009E73"
_CLASS_COLOURS = (NORMAL, TUMOUR, GREEN, "#E69F00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
_HATCHES = ("", "//", "..", "\\\\", "xx", "--", "++", "oo")
# Of one series more than there are, the first style comes again.
SERIES = (
    (NEUTRAL, "--"),
    (GREEN, "-"),
    ("#CC79A7", "-."),
    ("#E69F00", ":"),
    ("#56B4E9", (0, (8, 2))),
    ("#000000", (0, (1, 4))),
    (TUMOUR, (0, (5, 1, 1, 1, 1, 1))),
    (NORMAL, (0, (3, 3))),
)
STYLE = {
    **sns.axes_style("whitegrid"),
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.labelsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "savefig.facecolor": "auto",
    "savefig.bbox": None,
    "savefig.transparent": False,
}


def class_colours(count: int) -> list[str]:
    """Return a colour for each of `count` classes; from the ninth class on, colours repeat."""
    return [_CLASS_COLOURS[index % len(_CLASS_COLOURS)] for index in range(count)]


def class_hatches(count: int) -> list[str]:
    """Return matplotlib's hatch for each of `count` classes, for readers who see no colours."""
    return [_HATCHES[index % len(_HATCHES)] for index in range(count)]


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the project's style, whatever the caller's matplotlib is set to."""

    @wraps(draw)
    def styled(*arguments, **options):
        with mpl.rc_context(STYLE):
            return draw(*arguments, **options)

    return styled


class _Shown(Figure):
    """A figure that a notebook shows where it is a cell's last value.

    Jupyter shows a plain Figure as text until the caller has made one by pyplot.
    """

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        with mpl.rc_context(STYLE):
            self.savefig(content, format="png")
        return content.getvalue()


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, 150 dots an inch, whole or not at all; the same bytes every time.

    If its name ends in .pdf, .svg or the like, it is written in that format. Any other ending gives
    PNG, so that a wrong one does not lose the figure.

    Raises:
        InputError: `path` cannot be written.
    """
    ending = Path(path).suffix.lower().lstrip(".")
    kind = ending if ending in figure.canvas.get_supported_filetypes() else "png"
    metadata = {"Software": None} if kind == "png" else None
    # Ticks are made as they are drawn, in the style of that moment.
    with written_whole(path) as temporary, mpl.rc_context(STYLE):
        figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, width × height in inches, that a notebook shows as a picture."""
    return _Shown(figsize=(width, height), layout="constrained")
