// A judgement belongs to the answer on the screen. While an event waits for its answer, the buttons
// of the review do nothing; while a new picture is uploaded or read, no old answer is shown.
(() => {
  let pending = 0, isHidden = false, isUploading = false;
  const texts = {
    upload: 'The new picture is not read yet.',
    read: 'The new picture is being read.',
    unread: 'No answer: the server is busy or cannot be reached. Try again.',
  };
  function show(text) {
    const line = document.querySelector('#pending p'), row = document.querySelector('#review_row');
    document.body.classList.toggle('no-answer', isHidden);
    document.body.classList.toggle('pending', pending > 0);
    if (line) line.textContent = isHidden ? text ?? line.textContent : '';
    if (row) row.inert = isHidden || pending > 0;
  }
  function reveal() {
    // On a narrow screen the answer lies below the settings.
    const summary = document.querySelector('#summary'), top = summary?.getBoundingClientRect().top;
    if (top < 0 || top > 0.7 * window.innerHeight) summary.scrollIntoView();
  }
  window.pcamPending = (event) => {
    const wasHidden = isHidden;
    if (event === 'read' || event === 'answer') pending += 1;
    else if (event !== 'upload' && event !== 'removed') pending = Math.max(0, pending - 1);
    if (event === 'upload' || event === 'read' || event === 'removed') isUploading = event === 'upload';
    if (event === 'upload' || event === 'read') isHidden = true;
    else if (event === 'removed') isHidden = false;
    else if (event === 'answered' && pending === 0 && !isUploading) isHidden = false;
    show(texts[event]);
    if (event === 'answered' && wasHidden && !isHidden) reveal();
    // The row of a new answer may be drawn after this.
    requestAnimationFrame(() => show());
  };
  const uploads = (event) => {
    if (event.target.closest?.('#files')) window.pcamPending('upload');
  };
  // `inert` keeps hands away, not clicks made by scripts and assistive software.
  const clicks = (event) => {
    if (!(isHidden || pending > 0) || !event.target.closest?.('#review_row')) return;
    event.preventDefault();
    event.stopPropagation();
  };
  document.addEventListener('click', clicks, true);
  document.addEventListener('change', uploads, true);
  document.addEventListener('drop', uploads, true);
})();
