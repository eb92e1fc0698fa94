"""Where the user is, on a server that has just started and in two tabs: links keep their query, edits are found."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.served import Served, at_rest, go, serve
from tests.served_pages import seed
from tests.workers import end_worker

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

QUERY = {
    "budget": "3.5bits",
    "context": "512",
    "score": "measured",
    "more": "int3/channel/sym",
    "held-out": "1024",
}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, chrome: Browser) -> Iterator[Served]:
    """A server that nobody has asked for anything yet, whose store has a model's results."""
    home = tmp_path_factory.mktemp("places") / "home"
    home.mkdir()
    seed(home, views=1)
    with serve(home) as served:
        yield served
    end_worker(home)


def test_the_first_request_to_a_server_keeps_its_query(fresh: Served, page: Page) -> None:
    """It runs the page's file without app.py; other pages' links are followed in ``test_every_page``."""
    page.goto(f"{fresh.url}/recipe?{'&'.join(f'{name}={text}' for name, text in QUERY.items())}")
    expect(page.get_by_role("heading", name="Recipe", level=1)).to_be_visible()
    at_rest(page)
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert kept(page) == QUERY
    go(page, "Export")
    at_rest(page)
    assert kept(page) == QUERY, "the place is kept when the page changes"


def kept(page: Page) -> dict[str, str]:
    """What the address says of the query."""
    found = dict(parse_qsl(urlsplit(page.url).query))
    return {name: text for name, text in found.items() if name in QUERY}


def test_two_tabs_show_the_same_recipe_after_a_reload(fresh: Served, page: Page) -> None:
    page.goto(f"{fresh.url}/recipe")
    kl = page.get_by_test_id("stMetric").filter(has_text="Predicted KL").get_by_test_id("stMetricValue")
    before = kl.inner_text()
    page.get_by_role("tab", name="By pattern").click()
    page.get_by_role("button", name="Apply", exact=True).click()
    expect(page.get_by_text("Edited by hand, or")).to_be_visible()
    expect(kl).not_to_have_text(before)
    at_rest(page)
    assert "recipe=" in page.url
    other = page.context.new_page()
    other.goto(page.url)
    shown = other.get_by_test_id("stMetric").filter(has_text="Predicted KL").get_by_test_id("stMetricValue")
    expect(shown).to_have_text(kl.inner_text())
    expect(other.get_by_text("Edited by hand, or")).to_be_visible()
    page.get_by_role("tab", name="By pattern").click()
    page.get_by_role("textbox", name="Layers whose name matches").fill("*.q_proj*")
    page.get_by_role("textbox", name="Layers whose name matches").blur()
    edited = kl.inner_text()
    page.get_by_role("button", name="Apply", exact=True).click()
    expect(kl).not_to_have_text(edited)
    at_rest(page)
    other.goto(page.url)
    other.reload()
    expect(shown).to_have_text(kl.inner_text())
