"""The runs page in a real browser: tick a run, note, export, delete, import, and reopen it by its address."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from quant_core.store import Store
from tests import made_results, made_runs
from tests.browser.served import Served, at_rest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_a_run_is_noted_handed_on_deleted_and_brought_back(app: Served, page: Page, tmp_path: Path) -> None:
    keys = made_runs.fill(app.home, made_results.model())
    page.goto(f"{app.url}/runs")
    grid = page.get_by_test_id("stDataFrame").first
    expect(grid).to_be_visible()
    at_rest(page)
    area = grid.bounding_box()
    assert area is not None
    page.mouse.click(
        area["x"] + 20, area["y"] + 36 + 35 * 7.5
    )  # the eighth row: an evaluation, below seven later runs
    expect(page).to_have_url(re.compile(f"run={keys['high']}"))
    expect(
        page.get_by_role("heading", name="Recipe evaluation: measured KL 0.00100 nats/token")
    ).to_be_visible()
    expect(page.get_by_text("A made CPU")).to_be_visible()

    note = page.get_by_role("textbox", name="Note")
    note.fill("keep this one")
    note.press("Control+Enter")
    expect(page.get_by_text("Note kept.")).to_be_visible()

    with page.expect_download() as waiting:
        page.get_by_role("button", name="Export", exact=True).click()
    file = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(file)
    assert file.name == f"quantlens-evaluate-{keys['high'][:8]}.zip"

    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("It cannot be undone")).to_be_visible()
    page.get_by_role("button", name="Delete for good").click()
    expect(page.get_by_text("Recipe evaluation deleted.")).to_be_visible()
    assert keys["high"] not in stored(app)

    page.get_by_role("button", name="Import").click()
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_text("1 added.")).to_be_visible()
    assert stored(app)[keys["high"]] == "keep this one"

    page.goto(f"{app.url}/runs?run={keys['high']}&with={keys['low']}")
    expect(page.get_by_role("heading", name="Side by side")).to_be_visible()
    expect(page.get_by_role("textbox", name="Note")).to_have_value("keep this one")


def stored(app: Served) -> dict[str, str]:
    """The runs in the store by key, with their notes."""
    store = Store(app.home)
    try:
        return {line.key: line.note for line in store.runs.lines()}
    finally:
        store.close()
