"""Time the slide viewer on this machine: its first view, and the next field of view.

    python benchmarks/viewer_speed.py SLIDE_FOLDER

The folder holds slides of any kind that `slides` reads; each is opened once, with nothing kept of
it before. Needs Chromium and the package playwright.
"""

import shutil
import statistics
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from pcam_tf.app import findings, page, serve

FIELDS = 20
POWER = 20
# Loaded tiles are drawn, and none is missing.
ARE_LOADED = """() => {
  const {tiles} = Bokeh.documents.at(-1).get_model_by_name('tiles');
  return tiles.size > 0 && [...tiles.values()].every((each) => each.loaded || each.finished);
}"""


def main() -> None:
    """Open each slide, move over it, and print the times."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None or len(sys.argv) != 2:
        sys.exit("error: give a folder of slides; Chromium is needed.")
    built = page.build(findings.load_reader(), slides=Path(sys.argv[1]))
    address = serve.serve(built, wait=False)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1366, "height": 768})
        tab.goto(f"{address}viewer/")
        links = tab.get_by_role("link", name="Open ")
        opened = links.evaluate_all("all => all.map(each => [each.ariaLabel, each.href])")
        for name, link in opened:
            first, fields = times(tab, link)
            middle, worst = statistics.median(fields), sorted(fields)[-2]
            print(
                f"{name.removeprefix('Open ')}: first view {first:.2f} s, next field at {POWER}× "
                f"{middle:.2f} s (median of {FIELDS}; second longest {worst:.2f} s)"
            )
        browser.close()
    built.close()


def times(tab, link: str) -> tuple[float, list[float]]:
    """Return the seconds of a slide's first view and of each further field of view."""
    began = time.perf_counter()
    tab.goto(link)
    tab.locator("body[data-ready]").wait_for()
    tab.wait_for_function(ARE_LOADED, polling=10)
    first = time.perf_counter() - began
    tab.get_by_role("button", name=f"{POWER}×", exact=True).click()
    tab.wait_for_timeout(3000)
    fields = []
    for number in range(FIELDS):
        began = time.perf_counter()
        # About a field to the right or left, and down every fifth time.
        across, down = (0, 700) if number % 5 == 4 else (1000 if number // 5 % 2 else -1000, 0)
        tab.evaluate(
            """([right, down]) => {
              const plot = Bokeh.documents.at(-1).get_model_by_name('picture');
              for (const [range, by] of [[plot.x_range, right], [plot.y_range, -down]]) {
                const step = by * (plot.x_range.end - plot.x_range.start) / plot.inner_width;
                range.setv({start: range.start + step, end: range.end + step});
              }
            }""",
            [across, down],
        )
        tab.wait_for_timeout(70)  # Bokeh asks for tiles after 65 ms
        tab.wait_for_function(ARE_LOADED, polling=10)
        fields.append(time.perf_counter() - began)
    return first, fields


if __name__ == "__main__":
    main()
