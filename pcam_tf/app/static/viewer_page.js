// The viewer's controls, panel and list of findings round the picture of `viewer_picture.js`.
import {openPicture} from './viewer_picture.js';

const PER_POWER = 10; // microns a pixel at 1×
const MOST_PLACES = 60; // in a report
const DOUBLE_MS = 230; // a second click within it zooms
const find = (id) => document.getElementById(id);
const key = document.body.dataset.key, stored = `viewer ${key}`;
const picture = await openPicture(key, find('picture'), find('overview'));
const hasHeat = Boolean(picture.grid), kept = JSON.parse(sessionStorage.getItem(stored) ?? '{}');
const state = {
  seen: kept.seen ?? [], place: null, answer: null, areas: [], finding: -1, line: [],
  isMeasuring: false,
};
const percent = (share) => (share > 0 && share < 0.01 ? 'below 1 %'
  : share > 0.99 && share < 1 ? 'above 99 %' : `${Math.round(100 * share)} %`);
const length = (um) => (um < 1000 ? `${um.toFixed(um < 100 ? 1 : 0)} µm` : `${(um / 1000).toFixed(2)} mm`);
const onSlider = () => Number(find('threshold').value) / 100;
// A setting's own threshold is finer than the slider.
const threshold = () =>
  picture.thresholds[document.querySelector('[name=setting]:checked')?.value] ?? onSlider();
const index = () => Number(find('class')?.value ?? picture.classes.length - 1);

function keep() {
  const settings = Object.fromEntries([...document.querySelectorAll('aside input, aside select')]
    .filter(({id}) => id).map((each) => [each.id, each.type === 'checkbox' ? each.checked : each.value]));
  const setting = document.querySelector('[name=setting]:checked')?.value;
  sessionStorage.setItem(stored, JSON.stringify({
    seen: state.seen, settings, setting, centre: picture.centre(), scale: picture.scale(),
  }));
}

// Magnification.
function showPower() {
  const power = PER_POWER / picture.scale();
  document.querySelectorAll('[data-power]').forEach((button) =>
    button.setAttribute('aria-current', Math.abs(button.dataset.power / power - 1) < 0.01));
}
const actions = {
  fit: picture.fit,
  in: () => picture.zoom(1.5),
  out: () => picture.zoom(1 / 1.5),
  measure: () => measure(!state.isMeasuring),
  full: () => (document.fullscreenElement ? document.exitFullscreen()
    : document.querySelector('main').requestFullscreen()),
};
const atPower = (power) => picture.show(...picture.centre(), PER_POWER / power);
document.querySelector('.bar').addEventListener('click', ({target}) => {
  const {do: action, power} = target.dataset;
  if (action) actions[action]();
  else if (power) atPower(power);
});
document.addEventListener('fullscreenchange', () => document.querySelector('[data-do=full]')
  .setAttribute('aria-pressed', Boolean(document.fullscreenElement)));

// Hover and measure.
function readout(x, y) {
  const parts = [`${(PER_POWER / picture.scale()).toPrecision(2)}×`,
    `x ${length(x)}, y ${length(y)}`];
  if (hasHeat) {
    const {row, column} = picture.cellAt(x, y), value = picture.probability(index(), row, column);
    parts.push(Number.isNaN(value) ? 'no tissue'
      : `${picture.classes[index()]} ${percent(value)}`);
  }
  if (state.line.length) {
    const [[x0, y0], [x1, y1]] = [state.line[0], state.line[1] ?? [x, y]];
    parts.push(`length ${length(Math.hypot(x1 - x0, y1 - y0))}`);
    picture.drawLine([[x0, y0], [x1, y1]]);
  }
  find('readout').textContent = parts.join(' · ');
}
function measure(isOn) {
  state.isMeasuring = isOn;
  state.line = [];
  picture.drawLine([]);
  document.querySelector('[data-do=measure]').setAttribute('aria-pressed', isOn);
  if (isOn) find('answer').innerHTML = '<p>Click two points to measure their distance.</p>';
}
function addPoint(x, y) {
  state.line = state.line.length === 1 ? [...state.line, [x, y]] : [[x, y]];
  if (state.line.length === 2) {
    const [[x0, y0], [x1, y1]] = state.line;
    answer([['p', `Length ${length(Math.hypot(x1 - x0, y1 - y0))}`, 'call']]);
  }
  readout(x, y);
}

// A place: first the heat map's own number, then the explanation.
function answer(lines) {
  const parts = lines.map(([tag, text, name]) =>
    Object.assign(document.createElement(tag), {textContent: text, className: name ?? ''}));
  find('answer').classList.remove('read');
  find('answer').replaceChildren(...parts);
}
function calledLine(value) {
  const name = picture.classes[index()], isCalled = value >= threshold();
  const text = isCalled ? `Called ${name}`
    : picture.classes.length === 2 ? `Called ${picture.classes[0]}` : `Not called ${name}`;
  const line = Object.assign(document.createElement('p'), {textContent: text, className: 'call'});
  line.style.setProperty('--colour', isCalled ? '#d55e00' : '#0072b2');
  return line;
}
function showPlace() {
  if (!state.place) return;
  const {row, column} = state.place, value = picture.probability(index(), row, column);
  const found = state.answer, panel = find('answer'), name = picture.classes[index()];
  answer([['p', `Probability of ${name}: ${percent(value)}${found ? `, ${found.words}` : ''}.`],
    ['p', found ? '' : 'Explaining…', 'small']]);
  panel.prepend(calledLine(value));
  if (!found) return;
  panel.classList.add('read');
  const patch = Object.assign(document.createElement('div'), {className: 'patch'});
  const add = (source, alt) => source &&
    patch.append(Object.assign(new Image(), {src: source, alt}));
  add(found.patch, 'The patch');
  add(find('explain')?.checked === false ? null : found.explanation, 'Its explanation');
  if (found.square) {
    const square = Object.assign(document.createElement('div'), {className: 'square'});
    const share = (part) => `${100 * part}%`, {start, side} = found.square;
    Object.assign(square.style, {left: share(start), top: share(start), width: share(side), height: share(side)});
    patch.append(square);
  }
  panel.prepend(patch);
  panel.lastChild.textContent = `${found.legend} x ${length(found.x_um)}, y ${length(found.y_um)}.`;
  if (found.notice) panel.append(Object.assign(document.createElement('p'),
    {textContent: found.notice, className: 'notice'}));
}
async function readPlace(cell) {
  // From now on the page round the viewer, if there is one, asks for a judgement of this place.
  if (parent !== window) parent.postMessage({place: {row: cell.row, column: cell.column}}, location.origin);
  if (Number.isNaN(picture.probability(index(), cell.row, cell.column))) {
    state.place = state.answer = null;
    picture.mark('chosen', []);
    return answer([['p', 'There is no tissue at this place.']]);
  }
  state.place = cell;
  state.answer = null;
  find('place').parentElement.scrollTo(0, 0);
  if (!state.seen.some(({row, column}) => row === cell.row && column === cell.column)) {
    state.seen.push(cell);
  }
  picture.mark('chosen', [cell]);
  picture.mark('seen', state.seen);
  showPlace();
  listFindings();
  const reply = await fetch(`${key}/places/${cell.row}/${cell.column}.json?index=${index()}`);
  const content = await reply.json();
  if (state.place !== cell) return undefined; // another one was chosen meanwhile
  if (!reply.ok) return answer([['p', content.detail, 'notice']]);
  state.answer = content;
  keep();
  return showPlace();
}
let tapped = 0;
picture.onTap((x, y) => {
  clearTimeout(tapped);
  tapped = setTimeout(() => {
    if (state.isMeasuring) addPoint(x, y);
    else if (hasHeat) readPlace(picture.cellAt(x, y));
  }, DOUBLE_MS);
});
picture.onDoubleTap((x, y) => { clearTimeout(tapped); picture.zoom(2, [x, y]); });
picture.onHover(readout);
picture.onOverview((x, y) => picture.show(x, y));

// Findings.
const isSeen = ({row, column}) =>
  state.seen.some((each) => each.row === row && each.column === column);
function listFindings() {
  find('findings').replaceChildren(...state.areas.map((area, place) => {
    const button = Object.assign(document.createElement('button'), {type: 'button'});
    button.innerHTML = `<b>${area.area}</b><span>${percent(area.probability)}</span>
      <span class="size">${area.area_mm2.toFixed(3)} mm²</span><span>${isSeen(area) ? 'looked at' : ''}</span>`;
    button.setAttribute('aria-current', place === state.finding);
    button.addEventListener('click', () => goTo(place));
    const item = document.createElement('li');
    item.append(button);
    return item;
  }));
}
function lookAgain(row, column) {
  if (state.place?.row === row && state.place.column === column) return;
  picture.show(...picture.centreOf({row, column}), picture.scale());
  readPlace({row, column});
}
function goTo(place) {
  const area = state.areas[place];
  if (!area) return;
  state.finding = place;
  const wide = Math.max(area.width_um, area.height_um) * 1.6;
  const fitting = wide / Math.min(find('picture').clientWidth, find('picture').clientHeight);
  picture.show(area.x_um, area.y_um, Math.min(Math.max(fitting, PER_POWER / 20), PER_POWER / 5));
  readPlace({row: area.row, column: area.column});
}
let asked = 0;
async function loadAreas() {
  const mine = ++asked;
  const reply = await fetch(`${key}/areas.json?index=${index()}&threshold=${threshold()}`);
  if (mine !== asked || !reply.ok) return;
  const found = await reply.json();
  state.areas = found.areas;
  state.finding = -1;
  picture.drawOutlines(find('outlines').checked ? found.outlines
    : {x0: [], y0: [], x1: [], y1: []});
  const rest = found.count > found.areas.length ? `, the first ${found.areas.length} are listed` : '';
  find('count').textContent = found.count
    ? `${found.count} area${found.count > 1 ? 's' : ''}, ${percent(found.share)} of the tissue${rest}.`
    : 'Nothing reaches the threshold.';
  listFindings();
}

// Layers.
function drawLayers() {
  const value = find('threshold').value, share = threshold();
  find('threshold-out').textContent = `${Number(value).toFixed(1)} %`;
  find('opacity-out').textContent = `${find('opacity').value} %`;
  find('legend').style.setProperty('--threshold', value);
  picture.drawHeat({index: index(), visible: find('heat').checked,
    opacity: Number(find('opacity').value) / 100, threshold: share, onlyAbove: find('above').checked});
  showPlace();
}
let later = 0;
function changed({target}) {
  if (target.name === 'setting') {
    find('meaning').textContent = target.dataset.meaning;
    const set = picture.thresholds[target.value];
    if (set !== null) find('threshold').value = 100 * set;
  } else if (target.id === 'threshold') {
    const same = Object.entries(picture.thresholds).find(([, set]) => Math.abs(set - onSlider()) < 5e-4);
    document.querySelectorAll('[name=setting]').forEach((each) => {
      each.checked = same?.[0] === each.value;
    });
    find('meaning').textContent = same ? '' : 'The error rates of this threshold are unknown.';
  }
  if (target.id === 'class' && state.place) readPlace(state.place);
  drawLayers();
  clearTimeout(later);
  later = setTimeout(() => { loadAreas(); keep(); }, 60);
}

// Save.
const looked = () => ({index: index(), threshold: threshold(), outlines: find('outlines').checked,
  opacity: find('heat').checked ? Number(find('opacity').value) / 100 : 0,
  only_above: find('above').checked});
function addressOf(name) {
  const [left, top, right, bottom] = picture.box();
  const part = {left, top, right, bottom, width_px: Math.round((right - left) / picture.scale())};
  const query = new URLSearchParams({...looked(), ...(name === 'picture.png' ? part : {})});
  return `${key}/${name}?${query}`;
}
async function saveReport() {
  const setting = document.querySelector('[name=setting]:checked')?.value ?? '';
  const places = state.seen.slice(-MOST_PLACES).map(({row, column}) => [row, column]);
  const reply = await fetch(`${key}/report.html`, {method: 'POST',
    headers: {'Content-Type': 'application/json'}, body: JSON.stringify({...looked(), setting, places})});
  if (!reply.ok) return answer([['p', 'The report could not be made: try again.', 'notice']]);
  const name = /filename="(.*)"/.exec(reply.headers.get('Content-Disposition'))[1];
  const href = URL.createObjectURL(await reply.blob());
  Object.assign(document.createElement('a'), {href, download: name}).click();
  return setTimeout(() => URL.revokeObjectURL(href), 10000);
}
find('save')?.addEventListener('click', ({target}) => {
  if (target.dataset.save) target.href = addressOf(target.dataset.save);
  if (target.id === 'report') saveReport();
});

// The page round the viewer has the settings.
function choose(setting) {
  const radio = [...document.getElementsByName('setting')].find(({value}) => value === setting);
  if (!radio || radio.checked) return;
  radio.checked = true;
  changed({target: radio});
}
addEventListener('message', ({origin, source, data}) => {
  if (origin === location.origin && source === parent && hasHeat) {
    choose(data.setting);
    if (data.go) lookAgain(...data.go);
  }
});

// Keys.
const powers = [...document.querySelectorAll('[data-power]')].map((each) => each.dataset.power);
const flip = (id) => { find(id).click(); };
const keys = {
  ArrowLeft: () => picture.pan(-0.15, 0), ArrowRight: () => picture.pan(0.15, 0),
  ArrowUp: () => picture.pan(0, -0.15), ArrowDown: () => picture.pan(0, 0.15),
  '+': actions.in, '=': actions.in, '-': actions.out, 0: actions.fit,
  m: actions.measure, f: actions.full, Escape: () => measure(false),
  h: () => hasHeat && flip('heat'), o: () => hasHeat && flip('outlines'),
  n: () => goTo(Math.min(state.finding + 1, state.areas.length - 1)),
  p: () => goTo(Math.max(state.finding - 1, 0)),
  Enter: () => {
    if (state.isMeasuring) addPoint(...picture.centre());
    else if (hasHeat) readPlace(picture.cellAt(...picture.centre()));
  },
  ...Object.fromEntries(powers.map((power, place) => [place + 1, () => atPower(power)])),
};
find('picture').addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});

// The start: as it was before a reload.
if (hasHeat) {
  for (const [id, value] of Object.entries(kept.settings ?? {})) {
    const each = find(id);
    if (each?.type === 'checkbox') each.checked = value;
    else if (each) each.value = value;
  }
  const wanted = document.querySelector(`[name=setting][value="${CSS.escape(kept.setting ?? '')}"]`);
  if (kept.settings && !wanted) document.querySelectorAll('[name=setting]').forEach((each) => { each.checked = false; });
  if (wanted) wanted.checked = true;
  find('meaning').textContent = document.querySelector('[name=setting]:checked')?.dataset.meaning ?? '';
  const stops = picture.colours.filter((_, place) => place % 15 === 0).map((each) => each.slice(0, 7));
  find('legend').style.background = `linear-gradient(to right, ${stops.join(', ')})`;
  document.querySelector('aside').addEventListener('input', changed);
  picture.mark('seen', state.seen);
  drawLayers();
  loadAreas();
}
if (kept.centre) picture.show(...kept.centre, kept.scale);
else picture.fit();
let moved = 0;
picture.onMove(() => { showPower(); clearTimeout(moved); moved = setTimeout(keep, 300); });
showPower();
document.body.dataset.ready = 'yes';
if (parent !== window) parent.postMessage('ready', location.origin);
