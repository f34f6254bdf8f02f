// The list of slides, or one in the viewer: starts and cancels their reading, and shows how it stands.
const slides = document.getElementById('slides');
const EVERY_MS = 1000;
const minutes = (seconds) => (seconds === null ? ''
  : seconds < 90 ? `, ${Math.ceil(seconds)} s left` : `, ${Math.round(seconds / 60)} min left`);
const words = {
  unread: () => 'Not read yet.',
  begun: () => 'Read in part: reading goes on where it stopped.',
  waiting: ({before}) => `Waiting: ${before} before it.`,
  running: ({done, total, seconds_left: left}) =>
    (total ? `Reading: ${done.toLocaleString()} of ${total.toLocaleString()} places${minutes(left)}.` : 'Looking for tissue.'),
  done: () => 'Read.',
  failed: ({reason}) => `Failed: ${reason}`,
  cancelled: () => 'Cancelled. What was read is kept.',
};
const say = (text) => { document.getElementById('message').textContent = text; };

function show(item, state) {
  const line = item.querySelector('.state'), bar = item.querySelector('progress');
  if (!line) return;
  const isActive = ['waiting', 'running'].includes(state.state);
  const text = words[state.state](state);
  if (line.textContent !== text) line.textContent = text;
  bar.hidden = state.state !== 'running';
  if (state.total) Object.assign(bar, {max: state.total, value: state.done});
  item.querySelector('[data-do=read]').hidden = isActive || state.state === 'done';
  item.querySelector('[data-do=cancel]').hidden = !isActive;
}
let timer = 0;
async function refresh() {
  clearTimeout(timer);
  const reply = await fetch(slides.dataset.states);
  if (!reply.ok) return say('The server does not answer: reload the page.');
  const states = await reply.json();
  for (const [key, state] of Object.entries(states)) {
    const item = slides.querySelector(`[data-key="${key}"]`);
    if (item) show(item, state);
    if (slides.dataset.then && state.state === 'done') return location.reload();
  }
  timer = setTimeout(refresh, EVERY_MS);
  return undefined;
}
async function post(item, action, content) {
  const reply = await fetch(`${item.dataset.key}/${action}`, {
    method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(content),
  });
  if (!reply.ok) return say((await reply.json()).detail);
  say('');
  if (action === 'scale') location.reload();
  return refresh();
}
slides.addEventListener('click', ({target}) => {
  const item = target.closest('li');
  if (target.dataset.mpp) post(item, 'scale', {mpp: Number(target.dataset.mpp)});
  else if (target.dataset.do) post(item, target.dataset.do, {});
});
slides.addEventListener('submit', (event) => {
  event.preventDefault();
  const item = event.target.closest('li');
  post(item, 'scale', {mpp: Number(event.target.querySelector('input').value)});
});
refresh();
