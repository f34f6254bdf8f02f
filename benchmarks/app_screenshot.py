"""Draw the pictures of the page and of the viewer, on synthetic tissue, in figures/smoke.

    python benchmarks/app_screenshot.py

Needs Chromium, the package playwright and the extras [app] and [slides].
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from pcam_tf.app import findings, page, serve
from pcam_tf.files import written_whole
from pcam_tf.synthetic import slide_files, slide_plan

PICTURES = Path(__file__).parent.parent / "figures" / "smoke"
_READ_MS = 300_000


def main() -> None:
    """Serve the page with a synthetic slide, look at both, and keep the pictures."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("error: there is no Chromium on this machine.")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        plan = slide_plan.plan_slide(2048, seed=5)
        slide_files.write_slide(plan, Path(folder) / "synthetic slide.svs", mpp=0.486, kind="svs")
        built = page.build(findings.load_reader(), slides=folder)
        address = serve.serve(built, wait=False)
        browser = driver.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(address)
        look_at_region(tab)
        tab.evaluate("scrollTo(0, 0)")  # the banner sticks to the top of what is seen
        keep(tab.screenshot(full_page=True), "app.png")
        tab.set_viewport_size({"width": 1366, "height": 768})
        tab.goto(f"{address}viewer/")
        look_at_slide(tab)
        keep(tab.screenshot(), "viewer.png")
        browser.close()
        built.close()


def look_at_region(tab) -> None:
    """Choose a place of the synthetic region."""
    tab.get_by_role("button", name="Region", exact=True).click()
    tab.locator("#region iframe").wait_for()
    viewer = tab.frame_locator("#region iframe")
    viewer.locator("#findings button").first.click()
    viewer.locator("#answer.read").wait_for()
    viewer.locator("#picture").press("0")
    tab.wait_for_timeout(2000)


def look_at_slide(tab) -> None:
    """Read the slide, and look at its second finding and at all of it."""
    tab.get_by_role("button", name="Read synthetic").click()
    tab.get_by_text("Read.", exact=True).wait_for(timeout=_READ_MS)
    tab.get_by_role("link", name="Open synthetic").click()
    tab.locator("#findings button").nth(1).click()
    tab.locator("#answer.read").wait_for()
    tab.locator("#picture").press("0")
    tab.locator(".rest").evaluate("each => each.scrollTo(0, 0)")
    tab.wait_for_timeout(2000)


def keep(taken: bytes, name: str) -> None:
    """Write a picture; 256 colours are enough for a page, and smaller."""
    picture = Image.open(io.BytesIO(taken)).convert("RGB").quantize(256)
    with written_whole(PICTURES / name) as temporary:
        picture.save(temporary, optimize=True)
    size = (PICTURES / name).stat().st_size / 1e3
    print(f"{name}: {picture.width}×{picture.height} px, {size:.0f} kB")


if __name__ == "__main__":
    main()
