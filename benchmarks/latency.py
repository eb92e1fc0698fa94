"""How long the dashboard takes to answer in a real browser: cold start, page switches, and slider to recipe.

It serves the app on three models and clicks through it in headless Chromium: the bundled one, scored first, idle and
in a sweep; and two made ones whose results are stored rather than computed, one of 32 blocks and 224 layers, one of 94
blocks with 128 experts, which is to be usable and has no targets. The first text is there when a heading can be seen,
counted from the start of the server. A page has switched when its title stands there and its script has ended; a recipe
is there when the predicted KL has changed.

    make benchmark NAME=latency ARGS="--rounds 4 --models bundled,224,experts"
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from quant_core.schema import ModelRef, SensitivityRequest
from quant_core.workspace import Workspace, browser_roots
from tests.browser.served import at_rest, browser, chromium, serve
from tests.served_pages import seed
from tests.workers import end_worker
from ui.entry import PAGES

TITLES = tuple(spec.title for spec in PAGES)
MODELS = ("bundled", "224", "experts")
MADE: dict[str, dict[str, Any]] = {
    "224": {"blocks": 32, "views": 1},
    "experts": {"blocks": 94, "experts": 128, "views": 1},
}
"""What the made models are seeded with."""
FORMATS = ("int2", "int3", "int4", "int5", "int6", "int8", "nf4")
TARGETS = {
    "bundled": (3.0, 0.4, 0.3), "in a sweep": (math.inf, 0.8, 0.6), "224": (3.0, 0.4, 0.3),
    "experts": (math.inf, math.inf, math.inf),
}  # fmt: skip
"""Medians to stay under, in seconds: first text, page switch, slider to recipe."""
LONGEST = 120_000
"""Milliseconds that anything may take."""
WHAT = ("first text", "page switch", "slider to recipe")
Times = tuple[list[float], list[float], list[float]]
TITLE = "([title]) => document.querySelector('h1')?.innerText === title"
KL = "([before]) => document.querySelectorAll('[data-testid=stMetricValue]')[2]?.innerText !== before"


def main() -> int:
    """Measure and print a table; 1 if a median misses its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="how often each page is visited (default: 4)")
    parser.add_argument("--tokens", type=int, default=1024, help="calibration tokens of the first scores")
    parser.add_argument(
        "--models", default=",".join(MODELS), help="which, with commas between (default: %(default)s)"
    )
    parser.add_argument("--starts", type=int, default=3, help="how often the server is started (default: 3)")
    options = parser.parse_args()
    models = options.models.split(",")
    if unknown := set(models) - set(MODELS):
        parser.error(f"There is no model {unknown.pop()!r}; there are {', '.join(MODELS)}.")
    if not chromium():
        print("No Chromium on PATH.", file=sys.stderr)
        return 1
    rows: dict[str, Times] = {}
    with browser() as chrome:
        for name in models:
            with tempfile.TemporaryDirectory() as folder:
                rows |= measured(Path(folder), name, chrome, options)
    return int(report(rows))


def measured(home: Path, name: str, chrome: Browser, options: argparse.Namespace) -> dict[str, Times]:
    """The times of a model, idle and, of the bundled one, in a sweep."""
    workspace = Workspace(home, roots=browser_roots())
    sweep = prepare(workspace, options.tokens) if name == "bundled" else None
    query = f"?tokens={options.tokens}" if sweep else ""
    if sweep is None:
        seed(home, **MADE[name])
    try:
        first = [first_text(home, chrome) for _ in range(options.starts)]
        with serve(home) as served:
            page = chrome.new_context(viewport={"width": 1400, "height": 1000}).new_page()
            page.set_default_timeout(LONGEST)
            page.goto(f"{served.url}/recipe{query}")
            page.get_by_text("Predicted KL", exact=True).first.wait_for()
            page.wait_for_timeout(2000)
            visit_all(page, 1)
            rows = {name: (first, *measure(page, options.rounds))}
            if sweep is not None:
                job = workspace.submit(sweep)
                while workspace.job(job.id).progress <= 0:
                    time.sleep(0.1)
                rows["in a sweep"] = ([], *measure(page, options.rounds))
                if not workspace.job(job.id).active:
                    print("The sweep ended before the measurement did: its row is not to be trusted.")
                workspace.cancel(job.id)
    finally:
        end_worker(home)
        workspace.close()
    return rows


def first_text(home: Path, chrome: Browser) -> float:
    """Seconds from the start of a server to the first heading that can be seen."""
    context = chrome.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    begun = time.perf_counter()
    with serve(home) as served:
        page.goto(served.url)
        page.get_by_role("heading", level=1).wait_for()
        taken = time.perf_counter() - begun
        context.close()
    return taken


def prepare(workspace: Workspace, tokens: int) -> SensitivityRequest:
    """Open the bundled model and score its layers; gives a sweep that is long enough to measure beside."""
    info = workspace.run(workspace.inspect_request(ModelRef("bundled")))
    names = tuple(workspace.parse_format(name).name for name in FORMATS)
    workspace.run(SensitivityRequest(info.ref, info.fingerprint, names, tokens=tokens))
    return SensitivityRequest(info.ref, info.fingerprint, names, tokens=262_144)


def measure(page: Page, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of every page switch and of every slider move."""
    return visit_all(page, rounds), move_slider(page, 5 * rounds)


def visit_all(page: Page, rounds: int) -> list[float]:
    """Go through all pages by the navigation, ending on the recipe page."""
    times = []
    for title in (*TITLES * rounds, "Recipe"):
        link = page.get_by_role("link", name=title, exact=True)
        entry = page.get_by_test_id("stSidebarNavLink").and_(link)
        begun = time.perf_counter()
        entry.click()
        page.wait_for_function(TITLE, arg=[title], polling=10)
        at_rest(page)
        times.append(time.perf_counter() - begun)
        page.wait_for_timeout(400)
    return times


def move_slider(page: Page, moves: int) -> list[float]:
    """Press a key on the budget slider, there and back."""
    slider = page.locator(".st-key-budget-slider input[type=range]")
    value = page.get_by_test_id("stMetricValue").nth(2)
    times = []
    for move in range(moves):
        slider.focus()
        before = value.inner_text()
        begun = time.perf_counter()
        page.keyboard.press("PageUp" if move % 6 < 3 else "PageDown")
        page.wait_for_function(KL, arg=[before], polling=10)
        times.append(time.perf_counter() - begun)
        page.wait_for_timeout(400)
    return times


def report(rows: dict[str, Times]) -> bool:
    """Print medians, slowest tenth and targets; true if a median misses its target."""
    missed = False
    print(f"{'':12}{'':18}{'median':>9}{'90 %':>9}{'target':>9}{'n':>5}")
    for state, found in rows.items():
        for what, times, target in zip(WHAT, found, TARGETS[state], strict=True):
            if not times:
                continue
            median = statistics.median(times)
            tail = statistics.quantiles(times, n=10)[-1] if len(times) > 1 else median
            missed |= median > target
            verdict = "" if median <= target else "  missed"
            aim = f"{target:>7.2f} s" if math.isfinite(target) else f"{'none':>9}"
            print(f"{state:12}{what:18}{median:>7.2f} s{tail:>7.2f} s{aim}{len(times):>5}{verdict}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
