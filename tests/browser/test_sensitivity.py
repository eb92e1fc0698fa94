"""The sensitivity map under a real mouse, on a seeded store: Streamlit reports no clicks on a heatmap of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.served import Served, at_rest
from tests.served_pages import seed

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_a_click_on_a_cell_opens_its_layer(app: Served, page: Page) -> None:
    seed(Path(app.home))
    page.goto(f"{app.url}/sensitivity")
    cells = page.locator(".st-key-cells-map .nsewdrag").first
    expect(cells).to_be_visible()
    at_rest(page)
    for block, row, name in ((5, 6, "layers.5.mlp.down_proj"), (2, 1, "layers.2.self_attn.k_proj")):
        cells.scroll_into_view_if_needed()
        area = cells.bounding_box()
        assert area is not None
        page.mouse.click(
            area["x"] + area["width"] * (block + 0.5) / 8, area["y"] + area["height"] * (row + 0.5) / 7
        )
        expect(page.get_by_text(f"model.{name}.weight")).to_be_visible()
        expect(page).to_have_url(re.compile(rf"unit=model\.{re.escape(name)}\.weight"))
        at_rest(page)
    page.get_by_role("link", name="Open its weights").click()
    expect(page.get_by_role("heading", name="Weights", level=1)).to_be_visible()
    expect(page.get_by_text("model.layers.2.self_attn.k_proj.weight").first).to_be_visible()


def test_a_box_selects_layers_that_the_recipe_then_pins(app: Served, page: Page) -> None:
    seed(Path(app.home))
    page.goto(f"{app.url}/sensitivity?drag=select")
    cells = page.locator(".st-key-cells-map .nsewdrag").first
    expect(cells).to_be_visible()
    at_rest(page)
    cells.scroll_into_view_if_needed()
    area = cells.bounding_box()
    assert area is not None
    page.mouse.move(area["x"] + 3, area["y"] + 3)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] * 1.9 / 8, area["y"] + area["height"] * 2.9 / 7, steps=5)
    page.mouse.up()
    expect(page.get_by_test_id("stMetric").filter(has_text="Layers")).to_contain_text("6")
    expect(page).to_have_url(re.compile(r"layers=1-3\.8-10"))
    page.get_by_role("button", name="Pin as they are").click()
    expect(page.get_by_text("6 layers are pinned in the recipe.")).to_be_visible()
    page.get_by_role("link", name="See them in the recipe").click()
    expect(page.get_by_role("tab", name="Pins (6)")).to_be_visible()
