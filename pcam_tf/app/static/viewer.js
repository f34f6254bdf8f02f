// Gradio runs this once for each viewer; `element`, `props`, `watch` and `trigger` are its own.
let scale = 1, x = 0, y = 0, opacity = 50, cell = null, dragStart = null, moved = false;
const pointers = new Map();
const find = (name) => element.querySelector(name);
function redraw() {
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
  redraw();
}
function choose() {
  if (cell) trigger('select', {row: cell.row, column: cell.column});
}
element.addEventListener('input', (event) => {
  if (event.target.type === 'range') { opacity = Number(event.target.value); redraw(); }
});
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-zoom]');
  if (button) zoom(Number(button.dataset.zoom));
});
element.addEventListener('wheel', (event) => {
  // The wheel scrolls the page unless the picture has the focus or Ctrl is held.
  const frame = event.target.closest('.frame');
  if (!frame || !(event.ctrlKey || document.activeElement === frame)) return;
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
}, {passive: false});
element.addEventListener('pointerdown', (event) => {
  if (!event.target.closest('.frame')) return;
  pointers.set(event.pointerId, [event.clientX, event.clientY]);
  dragStart = [event.clientX - x, event.clientY - y, event.clientX, event.clientY];
  moved = pointers.size > 1;
});
window.addEventListener('pointermove', (event) => {
  const before = pointers.get(event.pointerId);
  if (!before || !find('.frame')) return;
  const here = [event.clientX, event.clientY];
  if (pointers.size === 2) {
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
    const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
    const middle = [(here[0] + other[0]) / 2, (here[1] + other[1]) / 2];
    zoom(apart(here) / Math.max(apart(before), 1), ...middle);
  } else if (Math.hypot(here[0] - dragStart[2], here[1] - dragStart[3]) > 4) {
    moved = true;
    x = here[0] - dragStart[0];
    y = here[1] - dragStart[1];
    redraw();
  }
  pointers.set(event.pointerId, here);
});
window.addEventListener('pointercancel', (event) => pointers.delete(event.pointerId));
window.addEventListener('pointerup', (event) => {
  if (!pointers.delete(event.pointerId) || moved || !find('.frame')) return;
  const {rows, columns} = grid(), box = find('.overlay').getBoundingClientRect();
  if (!rows) return;
  cell = {
    row: Math.min(rows - 1, Math.floor((event.clientY - box.top) / box.height * rows)),
    column: Math.min(columns - 1, Math.floor((event.clientX - box.left) / box.width * columns)),
  };
  redraw();
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
    redraw();
  } else if (step) { x -= 60 * step[1]; y -= 60 * step[0]; redraw(); }
  else if (event.key === '+' || event.key === '=') zoom(1.5);
  else if (event.key === '-') zoom(1 / 1.5);
  else if (event.key === '0') zoom(0);
  else if (event.key === 'Enter' || event.key === ' ') choose();
  else return;
  event.preventDefault();
});
window.addEventListener('resize', redraw);
let shownKey = null;
watch('value', () => {
  const key = props.value && props.value.key;
  // A new threshold changes the overlay of the same picture: zoom and position are kept.
  if (key !== shownKey) { scale = 1; x = 0; y = 0; cell = null; }
  shownKey = key;
  requestAnimationFrame(redraw);
});
requestAnimationFrame(redraw);
