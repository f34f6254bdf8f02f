// Gradio runs this once; `element`, `props`, `watch` and `trigger` are its own. The viewer is a page
// of its own: it keeps zoom and place when the setting changes, and says which place is looked at.
let frame = null, address = null;
function tell() {
  const {setting, go} = props.value;
  frame.contentWindow.postMessage({setting, go}, location.origin);
}
function show() {
  const host = element.querySelector('.region'), wanted = props.value?.address ?? null;
  if (wanted !== address || (wanted && !host.contains(frame))) {
    frame = wanted && Object.assign(document.createElement('iframe'),
      {src: wanted, title: 'The region under its heat map', onload: tell});
    host.replaceChildren(...(frame ? [frame] : []));
    address = wanted;
    // It stands below the table of what was given at once.
    if (frame && document.querySelector('#batch tr')) frame.scrollIntoView({block: 'nearest'});
  } else if (frame) tell();
}
window.addEventListener('message', ({origin, source, data}) => {
  if (origin !== location.origin || !frame || source !== frame.contentWindow) return;
  if (data === 'ready') tell();
  if (data.place) trigger('select', data.place);
});
watch('value', () => requestAnimationFrame(show));
requestAnimationFrame(show);
