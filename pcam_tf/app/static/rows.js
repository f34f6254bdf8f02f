// Gradio runs this once; `element`, `watch` and `trigger` are its own. The order of the rows and the
// place in them outlive new values.
let column = null, direction = 'none', top_px = 0, opened = null;
const next = {none: 'ascending', ascending: 'descending', descending: 'ascending'};
const compare = new Intl.Collator('en', {numeric: true}).compare;
const text = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
function sort() {
  const heads = element.querySelectorAll('th'), body = element.querySelector('tbody');
  if (column === null || !body) return;
  heads.forEach((head, index) => head.ariaSort = index === column ? direction : 'none');
  const sign = direction === 'ascending' ? 1 : -1;
  body.append(...[...body.rows].sort((one, other) => sign * compare(text(one), text(other))));
}
element.addEventListener('click', ({target}) => {
  const head = target.closest('th'), row = target.closest('tbody tr');
  if (head) {
    direction = head.cellIndex === column ? next[direction] : 'ascending';
    column = head.cellIndex;
    sort();
  } else if (row?.querySelector('.open')) {
    opened = row.dataset.number;
    trigger('select', {number: Number(opened)});
  }
});
element.addEventListener('scroll', ({target}) => { top_px = target.scrollTop; }, true);
watch('value', () => requestAnimationFrame(() => {
  const kept = top_px;
  sort();
  element.querySelector('.rows')?.scrollTo(0, kept);
  // The row that was opened by a key keeps the focus.
  if (opened !== null && document.activeElement === document.body)
    element.querySelector(`tr[data-number="${opened}"] .open`)?.focus({preventScroll: true});
  opened = null;
}));
