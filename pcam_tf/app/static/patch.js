// Gradio runs this once; `element` is its own. The opacity outlives a change of setting.
element.addEventListener('input', ({target}) => {
  element.style.setProperty('--opacity', target.value / 100);
  opacity = target.value;
});
let opacity = 50;
watch('value', () => requestAnimationFrame(() => {
  const slider = element.querySelector('input');
  if (slider) slider.value = opacity;
}));
