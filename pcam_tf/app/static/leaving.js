// Answers, judgements and the history end with the tab: before it is closed or loaded anew, the
// browser asks. `#downloads` is on the page while there are answers; that there were some is
// remembered before they are replaced or taken away.
(() => {
  let hadAnswers = false;
  const look = () => { hadAnswers ||= document.querySelector('#downloads') !== null; };
  for (const event of ['click', 'change', 'drop']) document.addEventListener(event, look, true);
  window.addEventListener('beforeunload', (event) => {
    look();
    if (hadAnswers) event.preventDefault();
  });
})();
