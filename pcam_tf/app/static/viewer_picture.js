// The picture: where it is looked at, and what lies over it. Bokeh draws; coordinates are microns
// from the slide's top left, y downwards (Bokeh's own y is its negative).
const VISIBLE_RANGE = 6; // the picture may be moved out until the slide is one sixth of it
const FINEST = 0.02; // microns a pixel
const MOST_TILES = 1500; // that Bokeh may keep; further ones come from the browser's cache again
const frame = () => new Promise((done) => requestAnimationFrame(done));

export async function openPicture(key, host, overviewHost) {
  const about = await (await fetch(`${key}/picture.json`)).json();
  const [docid] = Object.keys(about.documents);
  const roots = {[about.roots.picture]: host, [about.roots.overview]: overviewHost};
  sizeOverview(overviewHost, about);
  overviewHost.style.backgroundImage = `url("${key}/overview.jpg")`;
  await Bokeh.embed.embed_items(about.documents, [{docid, roots, root_ids: Object.keys(roots)}]);
  const bokeh = Bokeh.documents.at(-1), named = (name) => bokeh.get_model_by_name(name);
  const plot = named('picture');
  while (!plot.inner_width) await frame();
  await frame();
  await frame();
  [host, overviewHost].forEach(takeFocusAway);
  return {...about, ...camera(plot, named('tiles'), about), ...layers(named, about), ...events(plot, named)};
}

// The keys are those of the whole picture: Bokeh's own place in the tab order has no name.
function takeFocusAway(element) {
  if (element.classList.contains('bk-events')) element.removeAttribute('tabindex');
  [...element.shadowRoot?.children ?? [], ...element.children].forEach(takeFocusAway);
}

function sizeOverview(host, {width_um: width, height_um: height}) {
  const side = Math.min(180, innerWidth / 5, innerHeight / 5), longer = Math.max(width, height);
  host.style.width = `${Math.max(40, side * width / longer)}px`;
  host.style.height = `${Math.max(40, side * height / longer)}px`;
}

function camera(plot, {tiles: kept}, {width_um: width, height_um: height}) {
  const {x_range: across, y_range: up} = plot;
  const fitting = () => Math.max(width / plot.inner_width, height / plot.inner_height);
  const scale = () => (across.end - across.start) / plot.inner_width;
  const centre = () => [(across.start + across.end) / 2, -(up.start + up.end) / 2];
  function show(x, y, wanted = scale()) {
    const used = Math.min(Math.max(wanted, FINEST), fitting() * VISIBLE_RANGE);
    const middle = [Math.min(Math.max(x, 0), width), Math.min(Math.max(y, 0), height)];
    const half = [used * plot.inner_width / 2, used * plot.inner_height / 2];
    across.setv({start: middle[0] - half[0], end: middle[0] + half[0]});
    up.setv({start: -middle[1] - half[1], end: -middle[1] + half[1]});
  }
  // The wheel stops at the same scale across and down, or the picture would be stretched.
  function limit() {
    for (const [range, px] of [[across, plot.inner_width], [up, plot.inner_height]]) {
      range.setv({min_interval: FINEST * px, max_interval: fitting() * VISIBLE_RANGE * px});
    }
  }
  plot.properties.inner_width.change.connect(limit);
  plot.properties.inner_height.change.connect(limit);
  limit();
  return {
    scale, centre, show,
    box: () => [across.start, -up.end, across.end, -up.start],
    fit: () => show(width / 2, height / 2, fitting() * 1.02),
    zoom: (factor, at = centre()) => {
      const [x, y] = centre(), to = Math.max(scale() / factor, FINEST), kept = to / scale();
      show(at[0] + (x - at[0]) * kept, at[1] + (y - at[1]) * kept, to);
    },
    pan: (right, down) => {
      const [x, y] = centre();
      show(x + right * plot.inner_width * scale(), y + down * plot.inner_height * scale());
    },
    onMove: (tell) => [across, up].forEach((range) => range.change.connect(() => {
      if (kept.size > MOST_TILES) kept.clear();
      tell();
    })),
  };
}

function layers(named, about) {
  const {grid, colours} = about, fill = (name, data) => { named(name).data = data; };
  const heat = named('heat'), source = heat && heat.data_source;
  const square = ({row, column}) => [(column + 0.5) * grid.step_um, -(row + 0.5) * grid.step_um];
  function mark(name, cells) {
    const centres = cells.map(square);
    fill(name, {x: centres.map(([x]) => x), y: centres.map(([, y]) => y),
      side: cells.map(() => grid.step_um)});
  }
  function probability(index, row, column) {
    const values = source.data[index][0];
    return row < 0 || column < 0 || row >= grid.rows || column >= grid.columns
      ? NaN : values[row * grid.columns + column];
  }
  return {
    probability,
    centreOf: ({row, column}) => [(column + 0.5) * grid.step_um, (row + 0.5) * grid.step_um],
    cellAt: (x, y) => ({row: Math.floor(y / grid.step_um), column: Math.floor(x / grid.step_um)}),
    mark,
    drawHeat({index, visible, opacity, threshold, onlyAbove}) {
      heat.glyph.image = {field: String(index)};
      heat.glyph.global_alpha = opacity;
      heat.visible = visible;
      named('colours').palette = colours.map((colour, place) =>
        onlyAbove && (place + 0.5) / colours.length < threshold ? '#00000000' : colour);
    },
    drawOutlines({x0, y0, x1, y1}) {
      const up = (values) => values.map((value) => -value);
      fill('outlines', {x0, y0: up(y0), x1, y1: up(y1)});
    },
    drawLine: (points) => fill('line', {x: points.map(([x]) => x), y: points.map(([, y]) => -y)}),
  };
}

function events(plot, named) {
  const at = (tell) => ({x, y}) => tell(x, -y);
  return {
    onTap: (tell) => plot.on_event('tap', at(tell)),
    onDoubleTap: (tell) => plot.on_event('doubletap', at(tell)),
    onHover: (tell) => plot.on_event('mousemove', at(tell)),
    onOverview: (tell) => named('overview').on_event('tap', at(tell)),
  };
}
