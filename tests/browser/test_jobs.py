"""Long work in a real browser: it survives a reload and another page, and a killed worker is told and repeated."""

from __future__ import annotations

import signal

import pytest
from playwright.sync_api import Locator, Page, expect

from quant_core.store import Store
from tests.browser.served import Served, go
from tests.workers import end_worker, until, worker_pid

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def strip(page: Page) -> Locator:
    """The job strip at the foot of the page."""
    return page.get_by_test_id("stBottomBlockContainer")


def start_sweep(app: Served, page: Page) -> None:
    """Start a sweep long enough to be looked at, and wait until it has made some progress."""
    page.goto(f"{app.url}/recipe?tokens=65536")
    page.get_by_role("button", name="Score the layers").click()
    under_way(page)


def under_way(page: Page) -> None:
    """Wait until the sweep reports progress: a worker that starts first loads its libraries, which can take a while."""
    expect(strip(page).get_by_text("calibration tokens")).to_be_visible(timeout=120_000)


def sweep_state(app: Served) -> str:
    """The newest sweep's state, as the store has it."""
    store = Store(app.home)
    try:
        return next(job.state for job in store.jobs.recent(20) if job.kind == "sensitivity")
    finally:
        store.close()


def test_a_sweep_survives_reload_and_page_switch_and_can_be_cancelled(app: Served, page: Page) -> None:
    start_sweep(app, page)
    page.reload()
    expect(page.get_by_role("heading", name="Recipe", level=1)).to_be_visible()
    expect(strip(page).get_by_text("calibration tokens")).to_be_visible()
    for title in ("Compare", "Export", "Model"):
        go(page, title)
        expect(strip(page).get_by_text("calibration tokens")).to_be_visible()
    assert sweep_state(app) == "running"
    strip(page).get_by_role("button", name="Cancel").click()
    until(lambda: sweep_state(app) == "cancelled", "the cancelled sweep")
    go(page, "Recipe")
    expect(page.get_by_text("This was cancelled before it finished.")).to_be_visible()


def test_a_worker_killed_in_the_middle_is_told_and_retry_works(app: Served, page: Page) -> None:
    start_sweep(app, page)
    first = end_worker(app.home, signal.SIGKILL)
    assert first > 0
    expect(page.get_by_test_id("stAlert").get_by_text("The worker process ended")).to_be_visible()
    assert sweep_state(app) == "failed"
    page.get_by_role("button", name="Retry").first.click()
    under_way(page)
    assert sweep_state(app) == "running"
    assert worker_pid(app.home) not in (0, first)
    strip(page).get_by_role("button", name="Cancel").click()
    until(lambda: sweep_state(app) == "cancelled", "the cancelled sweep")
