"""Draw the README's picture of the page, on synthetic tissue: figures/smoke/app.png.

    python benchmarks/app_screenshot.py

Needs Chromium and the package playwright.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from pcam_tf.app import findings, page, serve
from pcam_tf.files import written_whole

PICTURE = Path(__file__).parent.parent / "figures" / "smoke" / "app.png"


def main() -> None:
    """Serve the page, choose a place of the synthetic region, and keep the picture."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("error: there is no Chromium on this machine.")
    built = page.build(findings.load_reader())
    address = serve.serve(built, port=0, wait=False)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(address)
        tab.get_by_role("button", name="Region", exact=True).click()
        tab.locator("#region .frame").wait_for()
        tab.locator("#region .frame").click(position={"x": 510, "y": 170})
        tab.locator("#patch .frame").wait_for()
        tab.wait_for_timeout(1000)
        taken = tab.screenshot(full_page=True)
        browser.close()
    built.close()
    # 128 colours are enough for a page, and a fifth of the size.
    picture = Image.open(io.BytesIO(taken)).convert("RGB").quantize(128)
    with written_whole(PICTURE) as temporary:
        picture.save(temporary, optimize=True)
    print(f"{PICTURE}: {picture.width}×{picture.height} px, {PICTURE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
