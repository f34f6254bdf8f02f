"""The viewer's picture as Bokeh draws it: tiles, heat map, outlines, marks, overview, scale bar.

Coordinates are microns from the slide's top left: x to the right, y upwards, so y is negative.
`static/viewer_picture.js` moves and fills what is named here; the numbers come from `viewer`.
"""

import matplotlib as mpl
import numpy as np
from bokeh.document import Document
from bokeh.embed.util import standalone_docs_json
from bokeh.models import (
    ColumnDataSource,
    LinearColorMapper,
    MetricLength,
    PanTool,
    Range1d,
    RangeTool,
    ScaleBar,
    WheelZoomTool,
    WMTSTileSource,
)
from bokeh.plotting import figure

from pcam_tf.app import tiles
from pcam_tf.slides import reader
from pcam_tf.slides.grid import Grid

_TILE_UNITS = tiles.TILE_PX // 2  # half as many as there are pixels, so that Bokeh never enlarges
COLOURS = "viridis"  # light is probable; stands out from pink and violet, for all colour vision
_CHOSEN, _SEEN = "#000000", "#ffffff"
_OUTLINE = "#111111"


def documents(slide: reader.Slide, address: str, grid: Grid | None, heat: dict[str, np.ndarray]):
    """Return the picture and its overview for `Bokeh.embed.embed_items`, and their models' ids.

    Args:
        slide: that is shown.
        address: of the slide's tiles and overview, relative to the page.
        grid: of the heat map, if there is one.
        heat: float32 (rows, columns), by name of the class; NaN where there is no tissue.
    """
    width, height = (side * slide.mpp for side in slide.size)
    picture = _figure("picture", width, height)
    picture.add_tools(PanTool(), wheel := WheelZoomTool(zoom_on_axis=False, speed=1 / 500))
    picture.toolbar.active_scroll = wheel
    # Below the tiles: what is seen first, and what shines through the seams between tiles.
    thumbnail = {"url": [f"{address}/overview.jpg"], "x": [0], "y": [0]}
    picture.image_url("url", "x", "y", width, height, source=thumbnail, level="image")
    picture.add_tile(_tile_source(slide, f"{address}/tiles/{{Z}}/{{X}}/{{Y}}.jpg"), smoothing=True)
    if grid:
        _add_heat(picture, grid, heat)
    _add_marks(picture)
    picture.add_layout(_scale_bar(picture.x_range))
    # The page puts the same picture behind it.
    overview = _figure("overview", width, height)
    overview.update(background_fill_color=None, border_fill_color=None)
    overview.add_tools(window := RangeTool(x_range=picture.x_range, y_range=picture.y_range))
    window.overlay.update(  # moved, but not resized: that would stretch the picture
        resizable="none", movable="both", use_handles=False,
        fill_color="#0072B2", fill_alpha=0.15, line_color="#0072B2", line_width=2,
    )  # fmt: skip
    document = Document()
    roots = (picture, overview)
    for plot in roots:
        document.add_root(plot)
    return standalone_docs_json(roots), {plot.name: plot.id for plot in roots}


def _figure(name, width, height):
    plot = figure(
        name=name, x_range=Range1d(0, width), y_range=Range1d(-height, 0), tools="",
        toolbar_location=None, sizing_mode="stretch_both", min_border=0, outline_line_color=None,
        background_fill_color="white", border_fill_color="white", lod_threshold=None,
    )  # fmt: skip
    plot.axis.visible = False
    plot.grid.visible = False
    return plot


def _tile_source(slide, url):
    deepest = tiles.full_level(slide)
    resolution = slide.mpp * 2.0**deepest * tiles.TILE_PX / _TILE_UNITS
    return WMTSTileSource(
        name="tiles", url=url, tile_size=_TILE_UNITS,
        min_zoom=0, max_zoom=deepest + tiles.ENLARGED_LEVELS,
        x_origin_offset=0, y_origin_offset=_TILE_UNITS * resolution,
        initial_resolution=resolution, wrap_around=False, attribution="",
    )  # fmt: skip


def _add_heat(picture, grid, heat):
    mapper = LinearColorMapper(name="colours", palette=["#000000"], low=0, high=1)
    mapper.nan_color = (0, 0, 0, 0)
    picture.image(
        list(heat)[-1], x=0, y=0, anchor="top_left", origin="top_left",
        dw=grid.columns * grid.step_um, dh=grid.rows * grid.step_um, color_mapper=mapper,
        source=ColumnDataSource({name: [values] for name, values in heat.items()}), name="heat",
    )  # fmt: skip
    lines = ColumnDataSource({name: [] for name in ("x0", "y0", "x1", "y1")}, name="outlines")
    for colour, line_width in (("white", 4), (_OUTLINE, 2)):
        picture.segment("x0", "y0", "x1", "y1", source=lines, line_color=colour,
                        line_width=line_width, line_cap="square")  # fmt: skip


def _add_marks(picture):
    """Add the places looked at, the chosen one, and the line that measures."""
    for name, colour in (("seen", _SEEN), ("chosen", _CHOSEN)):
        source = ColumnDataSource({"x": [], "y": [], "side": []}, name=name)
        for outer, line_width in (("white" if colour == _CHOSEN else "black", 5), (colour, 2)):
            picture.rect("x", "y", "side", "side", source=source, fill_color=None,
                         line_color=outer, line_width=line_width)  # fmt: skip
    line = ColumnDataSource({"x": [], "y": []}, name="line")
    for colour, line_width in (("white", 5), ("#0072B2", 2)):
        picture.line("x", "y", source=line, line_color=colour, line_width=line_width)
        picture.scatter("x", "y", source=line, size=line_width + 5, color=colour)


def _scale_bar(x_range):
    return ScaleBar(
        range=x_range, unit="µm", dimensional=MetricLength(), location="bottom_left",
        bar_length=0.15, background_fill_alpha=0.85, label_text_font_size="14px", bar_line_width=3,
    )  # fmt: skip


def palette() -> list[str]:
    """Return the colours of probabilities from 0 to 1, nearly transparent at 0, as #rrggbbaa."""
    shares = np.linspace(0, 1, 256)
    colours = mpl.colormaps[COLOURS](shares)
    colours[:, 3] = np.clip(shares * 1.6, 0.12, 1)
    return [mpl.colors.to_hex(each, keep_alpha=True) for each in colours]
