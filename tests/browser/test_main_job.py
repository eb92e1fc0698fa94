"""The main job with nothing but the mouse: from the model to a downloaded recipe, on the bundled model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.served import Served, at_rest, go

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def test_from_the_model_to_a_downloaded_recipe(app: Served, page: Page, tmp_path: Path) -> None:
    page.goto(f"{app.url}/model?tokens=1024")
    expect(page.get_by_text("Weights on disk")).to_be_visible()
    page.get_by_role("link", name="Make a recipe").click()

    page.get_by_role("button", name="Score the layers").click()
    expect(
        page.get_by_test_id("stBottomBlockContainer").get_by_text("Sensitivity of the bundled model")
    ).to_be_visible()
    kl = page.get_by_test_id("stMetric").filter(has_text="Predicted KL").get_by_test_id("stMetricValue")
    expect(kl).to_contain_text("nats")

    before = kl.inner_text()
    slider = page.locator(".st-key-budget-slider input[type=range]")
    slider.focus()
    slider.press("PageUp")
    expect(kl).not_to_have_text(before)
    expect(page).to_have_url(re.compile("budget="))

    page.get_by_role("button", name="Measure it").click()
    expect(page.get_by_test_id("stMetric").filter(has_text="Measured KL")).to_be_visible()
    expect(page.get_by_text("times the sum of what is predicted for its layers")).to_be_visible()

    page.get_by_role("link", name="Read the recipe's text").click()
    expect(page.get_by_role("heading", name="Compare", level=1)).to_be_visible()
    at_rest(page)
    page.get_by_role("button", name="Write", exact=True).click()
    panels = page.locator(".continuation")
    expect(panels).to_have_count(2)
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(page.get_by_text("60 tokens at most")).to_be_visible()
    original, recipe = panels.all_inner_texts()
    assert min(len(original), len(recipe)) > 100
    page.get_by_test_id("stButtonGroup").get_by_text("KL to the original").click()
    expect(panels.nth(1).locator(".token").first).to_have_attribute(
        "title", re.compile(r"^KL .* nats · probability")
    )
    page.get_by_text("On text", exact=True).click()
    expect(page.get_by_text("shows quality, not speed")).to_be_visible()

    go(page, "Export")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download JSON").click()
    file = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(file)
    found = json.loads(file.read_text(encoding="utf-8"))
    assert file.name.startswith("quantlens-demo-model")
    assert found["measured"]["tokens"] > 3000
    assert len(found["units"]) == 57
    assert found["predicted_kl"] > 0
