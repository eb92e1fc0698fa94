"""Lessons in a browser: a guess, what happened, and the arrow keys in lesson mode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.served import Served, at_rest, serve
from tests.workers import end_worker
from ui.entry import LESSONS
from ui.lesson_text import lesson_text

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server on the bundled model, with nothing worked out yet."""
    home: Path = tmp_path_factory.mktemp("learn") / "home"
    with serve(home) as served:
        yield served
    end_worker(home)


def heading(page: Page, title: str) -> None:
    """Wait until the lesson with this title stands there."""
    expect(page.get_by_role("heading", name=title, level=1)).to_be_visible()
    at_rest(page)


def test_a_guess_is_answered_from_the_models_own_weights(app: Served, page: Page) -> None:
    page.goto(f"{app.url}/lesson_groups")
    page.get_by_role("button", name="It halves or better").click()
    expect(page.get_by_role("heading", name="What happened")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("As you guessed.")).to_be_visible()
    page.reload()
    expect(page.get_by_text("Your guess:")).to_be_visible()


def test_the_arrow_keys_go_through_every_lesson(app: Served, page: Page) -> None:
    """In lesson mode, in which the navigation is hidden; each lesson opens without a fault."""
    titles = [lesson_text(spec.stem).title for spec in LESSONS]
    page.goto(f"{app.url}/lesson_{LESSONS[0].stem}?mode=lesson")
    heading(page, titles[0])
    expect(page.get_by_test_id("stSidebarNavLink")).to_have_count(0)
    for place, title in enumerate(titles[1:], 2):
        expect(page.get_by_role("button", name=f"{place}. ")).to_be_visible()  # its key works from now on
        page.keyboard.press("ArrowRight")
        heading(page, title)
        expect(page.get_by_test_id("stException")).to_have_count(0)
    expect(page.get_by_role("button", name=f"{len(titles) - 1}. ")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    heading(page, titles[-2])
    page.get_by_role("button", name="Leave lesson mode").click()
    expect(page.get_by_test_id("stSidebarNavLink").first).to_be_visible()
