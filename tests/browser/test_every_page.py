"""Every page as everybody may meet it: read by a machine (axe-core's rules), light and dark, and on a narrow phone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browser.served import Served, at_rest, serve
from tests.served_pages import seed
from tests.workers import end_worker
from ui.entry import PAGES

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

TOO_WIDE = """() => {
    const main = document.querySelector('[data-testid=stMain]');
    return main.scrollWidth - main.clientWidth;
}"""


@pytest.fixture(scope="module")
def app_with_results(tmp_path_factory: pytest.TempPathFactory, chrome: Browser) -> Iterator[Served]:
    """A server whose store has a model's results, so that pages have something to show."""
    home = tmp_path_factory.mktemp("seen") / "home"
    home.mkdir()
    seed(home)
    with serve(home) as served:
        yield served
    end_worker(home)


def faults(page: Page) -> list[str]:
    """What axe-core finds serious or critical, one line each: rule, place, and what is wrong."""
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{rule['id']} at {node['html'][:120]}: {node['failureSummary']}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


def settle(page: Page) -> list[str]:
    """The faults once the page has come to rest: what is half drawn, or faded while it is drawn anew, is none."""
    found = ["not looked yet"]
    for _ in range(5):
        page.wait_for_timeout(600)
        at_rest(page)
        if not (found := faults(page)):
            break
    return found


@pytest.mark.parametrize("stem", [spec.stem for spec in PAGES])
def test_a_page_can_be_read_by_everybody(app_with_results: Served, page: Page, stem: str) -> None:
    page.goto(f"{app_with_results.url}/{stem}?budget=3.5bits&context=512")
    expect(page.get_by_role("heading", name=stem.title(), level=1)).to_be_visible()
    assert not settle(page)
    assert "budget=3.5bits" in page.url
    assert "context=512" in page.url

    page.emulate_media(color_scheme="dark")
    assert not settle(page)

    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(500)
    at_rest(page)
    assert page.evaluate(TOO_WIDE) <= 0, "nothing is to be wider than the phone"
