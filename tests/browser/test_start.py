"""One button in a real browser: from a fresh home to a recipe that was measured, across a reload."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.served import Served

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def test_from_a_fresh_home_to_a_proved_recipe_of_nine_megabytes(app: Served, page: Page) -> None:
    page.goto(f"{app.url}/?mb=9&effort=quick&formats=int3,int4")
    expect(page.get_by_role("heading", name="Start", level=1)).to_be_visible()
    page.get_by_role("button", name="Open the bundled model").click()
    expect(page.get_by_text("QuantLens demo model is open")).to_be_visible()
    expect(page.get_by_text("at most 9.00 MB for the weights, of 2 formats")).to_be_visible()
    page.get_by_role("button", name="Recommend a recipe").click()
    expect(page.get_by_text("Recommend a recipe for the bundled model").first).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Recipe", level=1)).to_be_visible()
    expect(page.get_by_text("Measured best: ")).to_be_visible()
    expect(page.get_by_text("1,016 tokens of bundled evaluation text")).to_be_visible()
    expect(page.get_by_test_id("stMetric").filter(has_text="All weights")).to_contain_text(
        re.compile(r"[89]\.\d\d MB")
    )
    assert "recipe=" in page.url
    assert "budget=9MB" in page.url
