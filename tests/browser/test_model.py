"""The model page under a real mouse, on a seeded store: unfold a block, choose a layer, and save the chart."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.served import Served, at_rest
from tests.served_pages import seed

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def click_row(page: Page, row: int, rows: int) -> None:
    """Click into the middle of a row of the diagram."""
    cells = page.locator(".st-key-cells-architecture .nsewdrag").first
    cells.scroll_into_view_if_needed()
    area = cells.bounding_box()
    assert area is not None
    page.mouse.click(area["x"] + area["width"] / 2, area["y"] + area["height"] * (row + 0.5) / rows)


def test_a_block_unfolds_a_layer_is_chosen_and_the_numbers_are_saved(
    app: Served, page: Page, tmp_path: Path
) -> None:
    seed(Path(app.home))
    page.goto(f"{app.url}/model?overlay=sensitivity&format=int3/g64/asym")
    diagram = page.locator(".st-key-cells-architecture")
    expect(diagram.get_by_text("Predicted KL", exact=True)).to_be_visible()
    at_rest(page)
    click_row(page, row=4, rows=11)  # embedding, eight blocks, norms, head: block 3
    expect(page).to_have_url(re.compile("open=3"))
    expect(diagram.get_by_text("▾ block 3")).to_be_visible()
    at_rest(page)
    click_row(page, row=6, rows=13)  # its MLP, the second of three
    expect(page).to_have_url(re.compile(r"unit=model\.layers\.3\.mlp\.up_proj\.weight"))
    expect(page.get_by_role("link", name="Look at the weights of 3 · up_proj")).to_be_visible()
    at_rest(page)
    diagram.get_by_role("button", name="Save").click()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Numbers (CSV)").click()
    file = tmp_path / "numbers.csv"
    waiting.value.save_as(file)
    with file.open(encoding="utf-8", newline="") as text:
        rows = {row["Part"]: row for row in csv.DictReader(text)}
    assert {"block 0", "up_proj", "q_proj"} <= set(rows)
    assert float(rows["up_proj"]["Predicted KL (nats/token)"]) > 0
    page.reload()
    expect(diagram.get_by_text("▾ block 3")).to_be_visible()
