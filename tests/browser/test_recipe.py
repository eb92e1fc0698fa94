"""The recipe page under a real mouse, on a seeded store: drag the budget, click a cell, edit, undo, reload."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.served import Served, at_rest
from tests.served_pages import seed

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture
def recipe(app: Served, page: Page) -> Page:
    """The recipe page of a made model with scores."""
    seed(Path(app.home))
    page.goto(f"{app.url}/recipe")
    expect(page.locator(".st-key-bands .nsewdrag").first).to_be_visible()
    at_rest(page)
    return page


def predicted(page: Page) -> Locator:
    """The predicted KL among the figures."""
    return page.get_by_test_id("stMetric").filter(has_text="Predicted KL").get_by_test_id("stMetricValue")


def click_cell(page: Page, block: int, row: int, blocks: int = 8, rows: int = 7) -> None:
    """Click a cell of the bands by its place in the grid."""
    cells = page.locator(".st-key-bands .nsewdrag").first
    cells.scroll_into_view_if_needed()
    area = cells.bounding_box()
    assert area is not None
    page.mouse.click(
        area["x"] + area["width"] * (block + 0.5) / blocks, area["y"] + area["height"] * (row + 0.5) / rows
    )


def test_the_recipe_is_redrawn_while_the_slider_is_dragged(recipe: Page) -> None:
    before = predicted(recipe).inner_text()
    slider = recipe.locator(".st-key-budget-slider input[type=range]")
    box = slider.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    recipe.mouse.move(box["x"] + box["width"] / 2, middle)
    recipe.mouse.down()
    recipe.mouse.move(box["x"] + box["width"] * 0.7, middle, steps=5)
    expect(predicted(recipe)).not_to_have_text(before)
    first = predicted(recipe).inner_text()
    recipe.mouse.move(box["x"] + box["width"] * 0.9, middle, steps=5)
    expect(predicted(recipe)).not_to_have_text(first)
    recipe.mouse.up()
    expect(recipe.get_by_test_id("stNumberInputField")).to_have_value(f"{float(slider.input_value()):.3f}")
    recipe.get_by_role("button", name="Undo").click()
    expect(predicted(recipe)).to_have_text(before)


def test_a_clicked_layer_is_edited_pinned_and_found_again_after_a_reload(recipe: Page) -> None:
    click_cell(recipe, block=3, row=2)
    chosen = recipe.locator(".st-key-edit-chosen")
    expect(chosen.get_by_text("layers.3.self_attn.v_proj")).to_be_visible()
    recipe.locator(".st-key-edit-format").get_by_text("INT2 ·").click()
    expect(recipe.get_by_role("tab", name="Pins (1)")).to_be_visible()
    expect(recipe.get_by_text("Edited by hand, or")).to_be_visible()
    edited = predicted(recipe).inner_text()
    at_rest(recipe)
    assert "recipe=" in recipe.url
    recipe.reload()
    expect(recipe.get_by_role("tab", name="Pins (1)")).to_be_visible()
    expect(predicted(recipe)).to_have_text(edited)
    recipe.get_by_role("button", name="Solve again").click()
    expect(recipe.get_by_text("Edited by hand, or")).to_have_count(0)
    expect(recipe.get_by_role("tab", name="Pins (1)")).to_be_visible()
    recipe.get_by_role("button", name="Undo").click()
    expect(predicted(recipe)).to_have_text(edited)


def test_a_held_recipe_and_the_difference_are_there_after_a_reload(recipe: Page) -> None:
    recipe.get_by_role("button", name="Hold as A").click()
    expect(recipe.get_by_text("Both give every layer the same format.")).to_be_visible()
    click_cell(recipe, block=3, row=2)
    recipe.locator(".st-key-edit-format").get_by_text("INT2 ·").click()
    expect(recipe.get_by_text("1 layer differs")).to_be_visible()
    at_rest(recipe)
    recipe.reload()
    expect(recipe.get_by_text("1 layer differs")).to_be_visible()
    recipe.get_by_role("button", name="Go back to A").click()
    expect(recipe.get_by_text("Both give every layer the same format.")).to_be_visible()
