"""Take the pictures of the documentation: every page on the bundled model, light, dark, and on a narrow screen.

It does what a user would: asks for the best recipe of at most 9 MB, waits until it is proved, has a text written, and
visits every page. The pictures are `docs/screens/PAGE-light.jpg`, `PAGE-dark.jpg` and `PAGE-narrow.jpg`. With `--home`
the results are kept, and the next time only pictures are taken.

    make screenshots
    make screenshots ARGS="--pages recipe,compare --home /tmp/shown"
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page

from tests.browser.served import Served, at_rest, browser, chromium, go, serve
from tests.workers import end_worker
from ui.entry import PAGES

ROOT = Path(__file__).resolve().parent.parent
VIEWS: dict[str, tuple[Literal["light", "dark"], int]] = {
    "light": ("light", 1400),
    "dark": ("dark", 1400),
    "narrow": ("light", 390),
}
"""Name of a picture: the colour scheme and the width of the window in pixels."""
TALLEST = 2000
"""Pixels of a page that a picture shows at most."""
QUALITY = 72
WAIT = 600_000.0
"""Milliseconds that a job may take."""
HEIGHT = "() => document.querySelector('[data-testid=stMain]').scrollHeight"


def main() -> int:
    """Prepare results, take the pictures; 1 without a Chromium."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stems = ",".join(spec.stem for spec in PAGES)
    parser.add_argument("--pages", default=stems, help=f"pages to take, of {stems}")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "screens", help="folder of the pictures")
    parser.add_argument("--home", type=Path, help="folder that keeps the results (default: a temporary one)")
    options = parser.parse_args()
    if not chromium():
        print("No Chromium on PATH.", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        home = options.home or Path(folder)
        with serve(home) as served, browser() as chrome:
            query = prepare(served, chrome)
            for stem in options.pages.split(","):
                for view in VIEWS:
                    picture(served, chrome, f"{stem}?{query}", view, options.out / f"{stem}-{view}.jpg")
        end_worker(home)
    return 0


def window(chrome: Browser, view: str) -> Page:
    """An empty browser window for a view."""
    scheme, width = VIEWS[view]
    context = chrome.new_context(color_scheme=scheme, viewport={"width": width, "height": 1000})
    page = context.new_page()
    return page


def prepare(served: Served, chrome: Browser) -> str:
    """Have a recipe proved and a text written; gives the query string that leads to them."""
    page = window(chrome, "light")
    page.goto(f"{served.url}/model?mb=9")
    page.get_by_text("Weights on disk").wait_for(timeout=WAIT)
    go(page, "Start")
    asked = page.get_by_role("button", name="Recommend a recipe")
    asked.or_(page.get_by_role("button", name="Open the proved recipe")).click()
    page.get_by_role("heading", name="Recipe", level=1).wait_for(timeout=WAIT)
    at_rest(page)
    go(page, "Compare")
    at_rest(page)
    page.get_by_role("button", name="Write", exact=True).click()
    page.locator(".continuation").nth(1).wait_for(timeout=WAIT)
    page.get_by_role("button", name="Stop").wait_for(state="hidden", timeout=WAIT)
    at_rest(page)
    query = urlsplit(page.url).query
    page.context.close()
    return query


def picture(served: Served, chrome: Browser, place: str, view: str, file: Path) -> None:
    """Take one picture of a page at rest, as tall as the page is, up to ``TALLEST``."""
    page = window(chrome, view)
    page.goto(f"{served.url}/{place}")
    page.get_by_role("heading", level=1).wait_for()
    for _ in range(3):  # charts and answers of the worker come one after the other
        page.wait_for_timeout(1000)
        at_rest(page)
    tall = min(page.evaluate(HEIGHT), TALLEST)
    page.set_viewport_size({"width": VIEWS[view][1], "height": tall})
    page.wait_for_timeout(1000)
    at_rest(page)
    page.screenshot(path=file, type="jpeg", quality=QUALITY)
    page.context.close()
    print(file)


if __name__ == "__main__":
    sys.exit(main())
