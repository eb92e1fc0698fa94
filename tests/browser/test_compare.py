"""A blind vote in a real browser: three own prompts, keys, a reload in the middle, and who wrote which at the end."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.served import Served, at_rest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_three_prompts_are_voted_on_blindly_across_a_reload(app: Served, page: Page) -> None:
    page.goto(f"{app.url}/compare?tab=vote&other=int2/g64/asym&pair=original-other&length=8")
    page.get_by_text("Paste", exact=True).click()
    page.get_by_label("Your prompts, one a line").fill("Once upon a time\nThe old ship\nMy dear sister")
    page.get_by_label("Your prompts, one a line").blur()
    expect(page.get_by_text("3 prompts, 8 tokens each")).to_be_visible()
    page.get_by_role("button", name="Write them and vote").click()
    expect(page.get_by_text(re.compile("^1 of "))).to_be_visible()
    assert "vote=" in page.url
    expect(page.get_by_text("INT2")).to_have_count(0)
    at_rest(page)  # a key that is pressed while the page is drawn is lost
    page.keyboard.press("a")
    expect(page.get_by_text(re.compile("^2 of "))).to_be_visible()
    page.reload()
    expect(page.get_by_text(re.compile("^2 of "))).to_be_visible()
    at_rest(page)
    page.get_by_role("button", name="B is better").click()
    expect(page.get_by_text(re.compile("^3 of "))).to_be_visible()
    page.get_by_role("button", name="No difference").click()
    expect(page.get_by_role("heading", name="Who wrote which")).to_be_visible()
    expect(page.get_by_text("3 votes of 1 voter")).to_be_visible()
    expect(page.get_by_role("rowheader", name="All layers in INT2 g64 asym")).to_be_visible()
