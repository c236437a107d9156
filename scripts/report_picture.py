"""Take the picture of the report that the README shows.

Run `python scripts/report_picture.py runs/demo/report.html docs/report.png`. It needs Debian's chromium and playwright.
The picture has two parts of the page: its head, and the figures of every step.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

DRAWN = "() => [...document.querySelectorAll('[data-figure]')].every((place) => place.dataset.drawn)"
SHOWN = """
  main > section:not(:has(#steps)), section:has(#steps) > .scroll, section:has(#steps) > .note,
  footer { display: none }
"""


def main(report: Path, picture: Path) -> None:
    """Open the report, wait until its figures are drawn, and write the picture.

    Raises:
        SystemExit: there is no report, or no chromium.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium was not found. Install it: apt-get install chromium")
    if not report.is_file():
        sys.exit(f"There is no {report}. Make it: lessen demo --run {report.parent}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 900}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        page.wait_for_function(DRAWN)
        page.add_style_tag(content=SHOWN)
        page.screenshot(path=picture, full_page=True)
        browser.close()
    print(f"{picture}: {picture.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
