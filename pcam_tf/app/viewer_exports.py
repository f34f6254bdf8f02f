"""What the viewer gives away: outlines for QuPath, a table of cells, a picture, a report."""

import base64
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from PIL import Image

from pcam_tf.app import areas, findings, overlays, viewer_figure, views, visit_files
from pcam_tf.app.findings import Reader
from pcam_tf.app.viewed import Viewed
from pcam_tf.errors import InputError
from pcam_tf.figures import slide_pictures, style
from pcam_tf.slides import outline_files, tumour_areas
from pcam_tf.slides.heat_maps import HeatMap

MOST_PLACES = 60  # of a report
_MOST_PX = 2400  # side of a picture
_DPI = 100
_AREAS = 20  # of a report
# Whether the model reads fields in one pass, to what the report says of it.
_READS = {
    True: "The model has read whole fields in one pass",
    False: "The heat map reads each place in one view",
}
_OVERVIEW_PX = 600


class Look(NamedTuple):
    """How the heat map is looked at."""

    index: int  # of the class
    threshold: float
    opacity: float = 0.45  # 0: no colours
    outlines: bool = True
    only_above: bool = False  # whether lower probabilities have no colour


def geojson(found: Viewed, reader: Reader, look: Look) -> bytes:
    """Return areas and cells as GeoJSON that QuPath opens, in level-0 pixels.

    Of two classes the measurements are the model's own probabilities, as `slide` writes them; of
    more they are calibrated.

    Raises:
        InputError: there is no heat map, or no such class.
    """
    heat, name = found.heat(look.index), reader.task.classes[look.index]
    written, threshold = heat, look.threshold
    if found.raw is not None and look.index == 1:
        called = found.raw[heat >= threshold]  # the same cells, by their other number
        written, threshold = found.raw, float(called.min(initial=np.inf))
    called_areas = tumour_areas.tumour_areas(written, threshold)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "outlines.geojson"
        heat_map = HeatMap(found.name, found.grid, written)
        outline_files.write_geojson(path, heat_map, called_areas, found.slide.size, name)
        return path.read_bytes()


def cells_table(found: Viewed, reader: Reader) -> pd.DataFrame:
    """Return a row a tissue cell: place in microns and level-0 pixels, probabilities, step, scale.

    `probability` is the model's own, as `slide` and `predict` write it, where it is known;
    `calibrated_probability` is what the viewer shows.
    """
    first = found.heat(0)
    rows, columns = np.nonzero(np.isfinite(first))
    um, px = found.grid.centres_um()[rows, columns], found.grid.centres_px()[rows, columns]
    table = {"row": rows, "column": columns, "x_um": um[:, 0], "y_um": um[:, 1],
             "x_px": px[:, 0], "y_px": px[:, 1]}  # fmt: skip
    if found.raw is not None:
        table["probability"] = found.raw[rows, columns]
    names = reader.task.probability_columns
    indices = [1] if reader.task.is_binary else range(len(reader.task.classes))
    for column, index in zip(names, indices, strict=True):
        table[f"calibrated_{column}"] = found.heat(index)[rows, columns]
    scale = {"step_um": found.grid.step_um, "level0_mpp": found.slide.mpp}
    return pd.DataFrame(table | scale).round(6)


def picture(
    found: Viewed, reader: Reader, look: Look, box_um: Sequence[float], width_px: int
) -> bytes:
    """Return a part of a slide under its heat map as PNG, with legend and scale bar.

    Args:
        found: the slide.
        reader: the model.
        look: how the heat map is looked at.
        box_um: left, top, right and bottom in microns; what lies beyond the slide is left out.
        width_px: of the part on the screen.

    Raises:
        InputError: the part is empty, or the file is damaged.
    """
    size = [side * found.slide.mpp for side in found.slide.size]
    left, top, right, bottom = np.clip(box_um, 0, [*size, *size]).tolist()
    width, height = right - left, bottom - top
    if min(width, height) <= 0 or width_px < 1:
        raise InputError("there is nothing of the slide in this picture.")
    mpp = max((box_um[2] - box_um[0]) / width_px, max(width, height) / _MOST_PX)
    corner = [int(each / mpp) for each in (left, top)]
    sides = [max(int(each / mpp), 1) for each in (width, height)]
    pixels = found.slide.window(*corner, *sides, mpp)
    figure = _figure(found, reader, look, pixels, (left, top, mpp))
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    return content.getvalue()


@style.styled
def _figure(found, reader, look, pixels, place):
    left, top, mpp = place
    height, width = pixels.shape[:2]
    has_heat = found.probabilities is not None
    scale = max(width, 500) / width / _DPI
    figure = style.new_figure(width * scale + (1.3 if has_heat else 0.2), height * scale + 0.7)
    axes = figure.subplots()
    axes.imshow(pixels, interpolation="antialiased")
    axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    if has_heat:
        _draw_heat(figure, axes, found, reader, look, place)
    slide_pictures.scale_bar(axes, mpp, width)
    axes.set_title(found.name, loc="left")
    axes.set_xlabel(f"{views.RESEARCH_ONLY} x {left:,.0f} µm, y {top:,.0f} µm")
    return figure


def _draw_heat(figure, axes, found, reader, look, place):
    left, top, mpp = place
    heat, step = found.heat(look.index), found.grid.step_um
    right, bottom = found.grid.columns * step, found.grid.rows * step
    extent = np.array([0 - left, right - left, bottom - top, 0 - top]) / mpp - 0.5
    limits = axes.axis()
    shown = np.where(heat < look.threshold, np.nan, heat) if look.only_above else heat
    colours = ListedColormap(viewer_figure.palette()).with_extremes(bad=(0, 0, 0, 0))(shown)
    colours[..., 3] *= look.opacity
    axes.imshow(colours, extent=extent, interpolation="nearest")
    if look.outlines:
        lines = areas.outlines(heat, found.grid, look.threshold).reshape(-1, 2, 2)
        lines = (lines - [left, top]) / mpp - 0.5
        for colour, width in (("white", 2.4), ("black", 1.2)):
            axes.add_collection(LineCollection(lines, colors=colour, linewidths=width))
    axes.axis(limits)
    bar = figure.colorbar(
        mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 1), viewer_figure.COLOURS), ax=axes,
        label=f"probability of {reader.task.classes[look.index]}", pad=0.02, aspect=30,
    )  # fmt: skip
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1])
    bar.ax.axhline(look.threshold, color="black", linewidth=2)


def report(found: Viewed, reader: Reader, look: Look, setting: str, places: Sequence[dict]) -> str:
    """Return a page on a slide: its overview, its areas, and the places that were looked at.

    Args:
        found: the slide.
        reader: the model.
        look: how the heat map is looked at.
        setting: the name of the threshold, or "".
        places: what `viewed.place` returned for each.
    """
    size = [side * found.slide.mpp for side in found.slide.size]
    width_px = _OVERVIEW_PX * min(size[0] / size[1], 1)
    whole = picture(found, reader, look, (0, 0, *size), max(int(width_px), 1))
    pictures = [("The slide and its heat map", Image.open(io.BytesIO(whole)))]
    rows = [("Slide", found.name)]
    table = areas.areas_above(found.heat(look.index), found.grid, look.threshold)
    rows += list(_area_rows(table, reader.task.classes[look.index]))
    for number, place in enumerate(places, 1):
        pictures += _place_pictures(number, place, reader)
        x, y = (f"{place[name]:,.0f} µm" for name in ("x_um", "y_um"))
        probability = findings.percent(place["probabilities"][look.index])
        rows.append((f"Place {number}", f"x {x}, y {y}: {probability}, {place['words']}."))
    rows += [
        ("Threshold", f"{findings.percent(look.threshold)} {setting and f'({setting})'}"),
        ("Views", f"{_READS[reader.fields is not None]}; these are its probabilities."),
        ("Scale", f"{found.slide.mpp:g} microns per pixel, cells of {found.grid.step_um:.1f} µm"),
        ("Model", reader.name),
        ("Date", visit_files.now()),
    ]
    return visit_files.report(rows, pictures, list(found.notes))


def _area_rows(table, name):
    count = "1 area is" if len(table) == 1 else f"{len(table):,} areas are"
    yield "Areas", f"{count} called {name}, {table['area_mm2'].sum():.3f} mm² together."
    for area in table.head(_AREAS).itertuples():
        yield (
            f"Area {area.area}",
            f"up to {findings.percent(area.probability)}, {area.area_mm2:.4f} mm², "
            f"x {area.x_um:,.0f} µm, y {area.y_um:,.0f} µm",
        )


def _place_pictures(number, place, reader):
    pixels = np.asarray(_picture_of(place["patch"]).convert("RGB"))
    nothing = Image.new("RGBA", pixels.shape[1::-1])
    yield f"Place {number}", overlays.over_patch(pixels, nothing, reader.task)
    if place["explanation"]:
        explained = overlays.over_patch(pixels, _picture_of(place["explanation"]), reader.task)
        yield f"Place {number}. {place['legend']}", explained


def _picture_of(data_url):
    return Image.open(io.BytesIO(base64.b64decode(data_url.partition(",")[2])))
