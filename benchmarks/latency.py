"""How long the dashboard takes to answer in a real browser: page switches and slider to recipe, idle and in a sweep.

It serves the app on the bundled model, scores its layers once, and clicks through it in headless Chromium. A page has
switched when its title stands there and its script has ended; a recipe is there when the predicted KL has changed.

    make benchmark NAME=latency ARGS="--rounds 4"
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page

from quant_core.schema import ModelRef, SensitivityRequest
from quant_core.workspace import Workspace, browser_roots
from tests.browser.served import at_rest, browser, chromium, serve
from tests.workers import end_worker

TITLES = ("Model", "Weights", "Sensitivity", "Recipe", "Train", "Compare", "Export")
FORMATS = ("int2", "int3", "int4", "int5", "int6", "int8", "nf4")
TARGETS = {"idle": (0.4, 0.3), "sweep": (0.8, 0.5)}
"""Medians to stay under, in seconds: page switch, slider to recipe."""
TITLE = "([title]) => document.querySelector('h1')?.innerText === title"
KL = "([before]) => document.querySelectorAll('[data-testid=stMetricValue]')[2]?.innerText !== before"


def main() -> int:
    """Measure and print a table; 1 if a median misses its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="how often each page is visited (default: 4)")
    parser.add_argument("--tokens", type=int, default=1024, help="calibration tokens of the first scores")
    options = parser.parse_args()
    if not chromium():
        print("No Chromium on PATH.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        workspace = Workspace(home, roots=browser_roots())
        sweep = prepare(workspace, options.tokens)
        with serve(home) as served, browser() as chrome:
            page = chrome.new_context(viewport={"width": 1400, "height": 1000}).new_page()
            page.goto(f"{served.url}/recipe?tokens={options.tokens}")
            page.get_by_text("Predicted KL", exact=True).first.wait_for()
            page.wait_for_timeout(2000)
            visit_all(page, 1)
            rows = {"idle": measure(page, options.rounds)}
            job = workspace.submit(sweep)
            while workspace.job(job.id).progress <= 0:
                time.sleep(0.1)
            rows["sweep"] = measure(page, options.rounds)
            still = workspace.job(job.id).active
            workspace.cancel(job.id)
        end_worker(home)
        workspace.close()
    missed = report(rows)
    if not still:
        print("The sweep ended before the measurement did: its row is not to be trusted.")
    return int(missed or not still)


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


def report(rows: dict[str, tuple[list[float], list[float]]]) -> bool:
    """Print medians, slowest tenth and targets; true if a median misses its target."""
    missed = False
    print(f"{'':8}{'':18}{'median':>9}{'90 %':>9}{'target':>9}{'n':>5}")
    for state, measured in rows.items():
        for what, times, target in zip(
            ("page switch", "slider to recipe"), measured, TARGETS[state], strict=True
        ):
            median = statistics.median(times)
            tail = statistics.quantiles(times, n=10)[-1]
            missed |= median > target
            verdict = "" if median <= target else "  missed"
            print(f"{state:8}{what:18}{median:>7.2f} s{tail:>7.2f} s{target:>7.2f} s{len(times):>5}{verdict}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
