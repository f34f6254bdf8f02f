"""A picture under an overlay in the browser: zoom, pan, opacity and choice of a cell, all offline.

The three texts are what `gradio.HTML` takes as `html_template`, `css_template` and `js_on_load`;
its value is what `of_patch` and `of_region` return. Mouse, touch and keyboard do the same: the
arrows move the picture or, where cells can be chosen, a frame around a cell, and Enter chooses.
"""

import html

import numpy as np
from PIL import Image

from pcam_tf.app import overlays

HTML = """
${value ? `
<div class="viewer" data-rows="${value.rows}" data-columns="${value.columns}">
  <div class="frame" tabindex="0" role="group" aria-label="${value.alt} ${value.keys}"
    style="aspect-ratio: ${value.width} / ${value.height};
           width: min(100%, max(20rem, ${(value.most * value.width / value.height).toFixed(1)}vh))">
    <div class="stage">
      <img class="tissue" src="${value.tissue}" alt="${value.alt}" draggable="false">
      <img class="overlay" src="${value.overlay}" alt="" draggable="false"
        style="width: ${value.overlay_width}%; height: ${value.overlay_height}%;
               image-rendering: ${value.rows ? 'pixelated' : 'auto'}">
      ${value.square ? '<div class="square"></div>' : ''}
      <div class="cell" hidden></div>
    </div>
  </div>
  <div class="controls">
    <label>${value.slider}
      <input type="range" min="0" max="100" step="1" aria-label="${value.slider}"></label>
    <span class="buttons">
      <button type="button" data-zoom="1.5" aria-label="zoom in">+</button>
      <button type="button" data-zoom="0.667" aria-label="zoom out">−</button>
      <button type="button" data-zoom="0">whole picture</button>
    </span>
  </div>
  <p class="legend">${value.legend}</p>
</div>` : ''}
"""

CSS = """
.frame { position: relative; overflow: hidden; background: #fff; cursor: grab;
  border: 1px solid #999; max-width: 100%; touch-action: pan-y; box-sizing: border-box; }
.frame:focus-visible { outline: 3px solid #0072B2; outline-offset: 2px; }
.viewer[data-rows]:not([data-rows="0"]) .frame { cursor: crosshair; }
.stage { position: absolute; inset: 0; transform-origin: 0 0; }
.stage img { position: absolute; left: 0; top: 0; margin: 0; max-width: none; user-select: none; }
.tissue { width: 100%; height: 100%; }
.square { position: absolute; left: 33.333%; top: 33.333%; width: 33.333%; height: 33.333%;
  border: 2px solid #fff; outline: 1px solid #000; box-sizing: border-box; }
.cell { position: absolute; border: 2px solid #fff; outline: 2px solid #000;
  box-sizing: border-box; pointer-events: none; }
.controls { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: center;
  margin-top: .5rem; }
.controls label { display: flex; align-items: center; gap: .6rem; }
.controls input { width: 11rem; accent-color: #D55E00; min-height: 1.5rem; }
.controls button { border: 1px solid #888; border-radius: 4px; padding: .2rem .7rem;
  min-height: 2.2rem; min-width: 2.4rem; background: transparent; color: inherit;
  font-size: .95rem; font-weight: 400; }
.controls button:focus-visible, .controls input:focus-visible { outline: 3px solid #0072B2; }
.legend { font-size: .9rem; margin: .4rem 0 0; }
"""

JS = """
let scale = 1, x = 0, y = 0, opacity = 50, cell = null, from = null, moved = false;
const touches = new Map();
const find = (name) => element.querySelector(name);
function place() {
  const frame = find('.frame');
  if (!frame) return;
  const {clientWidth: width, clientHeight: height} = frame;
  x = Math.min(0, Math.max(x, width * (1 - scale)));
  y = Math.min(0, Math.max(y, height * (1 - scale)));
  find('.stage').style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
  find('.overlay').style.opacity = opacity / 100;
  find('input').value = opacity;
  find('.frame').style.touchAction = scale > 1 ? 'none' : 'pan-y';
  const box = find('.cell'), {rows, columns} = grid();
  box.hidden = !cell || !rows;
  if (!box.hidden) {
    const wide = props.value.overlay_width / columns, high = props.value.overlay_height / rows;
    Object.assign(box.style, {left: `${cell.column * wide}%`, top: `${cell.row * high}%`,
      width: `${wide}%`, height: `${high}%`});
  }
}
function grid() {
  const data = find('.viewer').dataset;
  return {rows: Number(data.rows), columns: Number(data.columns)};
}
function zoom(factor, clientX, clientY) {
  const box = find('.frame').getBoundingClientRect();
  const across = (clientX ?? box.left + box.width / 2) - box.left;
  const down = (clientY ?? box.top + box.height / 2) - box.top;
  const wanted = factor ? Math.min(16, Math.max(1, scale * factor)) : 1;
  x = across - (across - x) * wanted / scale;
  y = down - (down - y) * wanted / scale;
  scale = wanted;
  place();
}
function choose() {
  if (cell) trigger('select', {row: cell.row, column: cell.column});
}
element.addEventListener('input', (event) => {
  if (event.target.type === 'range') { opacity = Number(event.target.value); place(); }
});
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-zoom]');
  if (button) zoom(Number(button.dataset.zoom));
});
element.addEventListener('wheel', (event) => {
  // The page scrolls under the pointer, until the picture is the one being worked with.
  const frame = event.target.closest('.frame');
  if (!frame || !(event.ctrlKey || document.activeElement === frame)) return;
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
}, {passive: false});
element.addEventListener('pointerdown', (event) => {
  if (!event.target.closest('.frame')) return;
  touches.set(event.pointerId, [event.clientX, event.clientY]);
  from = [event.clientX - x, event.clientY - y, event.clientX, event.clientY];
  moved = touches.size > 1;
});
window.addEventListener('pointermove', (event) => {
  const before = touches.get(event.pointerId);
  if (!before || !find('.frame')) return;
  const here = [event.clientX, event.clientY];
  if (touches.size === 2) {
    const other = [...touches].find(([id]) => id !== event.pointerId)[1];
    const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
    const middle = [(here[0] + other[0]) / 2, (here[1] + other[1]) / 2];
    zoom(apart(here) / Math.max(apart(before), 1), ...middle);
  } else if (Math.hypot(here[0] - from[2], here[1] - from[3]) > 4) {
    moved = true;
    x = here[0] - from[0];
    y = here[1] - from[1];
    place();
  }
  touches.set(event.pointerId, here);
});
window.addEventListener('pointercancel', (event) => touches.delete(event.pointerId));
window.addEventListener('pointerup', (event) => {
  if (!touches.delete(event.pointerId) || moved || !find('.frame')) return;
  const {rows, columns} = grid(), box = find('.overlay').getBoundingClientRect();
  if (!rows) return;
  cell = {
    row: Math.min(rows - 1, Math.floor((event.clientY - box.top) / box.height * rows)),
    column: Math.min(columns - 1, Math.floor((event.clientX - box.left) / box.width * columns)),
  };
  place();
  choose();
});
element.addEventListener('keydown', (event) => {
  if (!event.target.matches('.frame')) return;
  const {rows, columns} = grid();
  const steps = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
  const step = steps[event.key];
  if (step && rows && !event.shiftKey) {
    cell = cell ?? {row: rows >> 1, column: columns >> 1};
    cell.row = Math.min(rows - 1, Math.max(0, cell.row + step[0]));
    cell.column = Math.min(columns - 1, Math.max(0, cell.column + step[1]));
    place();
  } else if (step) { x -= 60 * step[1]; y -= 60 * step[0]; place(); }
  else if (event.key === '+' || event.key === '=') zoom(1.5);
  else if (event.key === '-') zoom(1 / 1.5);
  else if (event.key === '0') zoom(0);
  else if (event.key === 'Enter' || event.key === ' ') choose();
  else return;
  event.preventDefault();
});
window.addEventListener('resize', place);
let shown = null;
watch('value', () => {
  const now = props.value && props.value.key;
  // Another threshold redraws the lines of the same picture, which stays where it was moved to.
  if (now !== shown) { scale = 1; x = 0; y = 0; cell = null; }
  shown = now;
  requestAnimationFrame(place);
});
requestAnimationFrame(place);
"""


def of_patch(patch: np.ndarray, overlay: Image.Image, *, key: str, alt: str) -> dict:
    """Return what shows a patch, uint8 (96, 96, 3), under its explanation.

    Args:
        patch: the tissue.
        overlay: what to lay over it, of the same field of view.
        key: tells one picture from another.
        alt: the picture in words.
    """
    return {
        **_common(Image.fromarray(patch), overlay, key=key, alt=alt),
        "most": 45,
        "square": True,
        "slider": "Explanation",
        "keys": "Plus and minus zoom, arrows move.",
        "legend": "Orange speaks for tumour, blue against it; strong and weak are relative to this "
        "patch. The square is the part that the answer is about.",
    }


def of_region(
    region: np.ndarray, overlay: Image.Image, cells: tuple[int, int], stride_px: int, **words: str
) -> dict:
    """Return what shows a region, uint8 (height, width, 3), under its heat map.

    Args:
        region: the tissue.
        overlay: of the grid of cells, which may reach beyond the region.
        cells: (rows, columns) of the grid.
        stride_px: side of a cell in pixels of the region.
        words: `key` and `alt`, as for `of_patch`.
    """
    height, width = region.shape[:2]
    return {
        **_common(overlays.shown(region), overlay, **words),
        "overlay_width": 100 * cells[1] * stride_px / width,
        "overlay_height": 100 * cells[0] * stride_px / height,
        "rows": cells[0],
        "columns": cells[1],
        "most": 62,
        "slider": "Heat map",
        "keys": "Plus and minus zoom, arrows choose a place, Enter looks at it.",
        "legend": "The stronger the orange, the more probable is tumour; a black line encloses "
        "what is called tumour. Places without tissue are left out. Click a place to look at it; "
        "drag to move, and zoom by the buttons or, once you have clicked, by the wheel.",
    }


def _common(tissue, overlay, *, key, alt):
    return {
        "tissue": overlays.data_url(tissue),
        "overlay": overlays.data_url(overlay),
        "width": tissue.width,
        "height": tissue.height,
        "overlay_width": 100,
        "overlay_height": 100,
        "rows": 0,
        "columns": 0,
        "square": False,
        "key": key,
        # The templates put values into the page as they are.
        "alt": html.escape(alt),
    }
