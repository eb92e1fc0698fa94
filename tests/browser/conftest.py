"""Fixtures of the browser tests: Chromium from PATH (never downloaded), and a fresh server for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.served import NAMES, Served, browser, chromium, serve
from tests.workers import end_worker

HERE = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")
SECONDS = 90.0
"""How long an expectation may take to come true: loading PyTorch on a busy machine is slow."""


@pytest.fixture(scope="session")
def chrome() -> Iterator[Browser]:
    if not chromium():
        pytest.skip(
            f"No Chromium on PATH (looked for {', '.join(NAMES)}): install it to run the browser tests."
        )
    expect.set_options(timeout=SECONDS * 1000)
    with browser() as found:
        yield found


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Served]:
    """A server on an empty home folder; its worker ends with the test."""
    with serve(tmp_path / "home") as served:
        yield served
    end_worker(served.home)


@pytest.fixture
def page(chrome: Browser) -> Iterator[Page]:
    """A browser window with storage of its own; a page that breaks, or asks another machine, fails its test."""
    context = chrome.new_context(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
    found = context.new_page()
    found.set_default_timeout(SECONDS * 1000)
    broken: list[str] = []
    away: list[str] = []
    found.on("pageerror", lambda error: broken.append(str(error)))
    found.on("request", lambda request: None if request.url.startswith(HERE) else away.append(request.url))
    yield found
    shown = found.get_by_test_id("stException").all_inner_texts()
    context.close()
    assert not broken
    assert not away
    assert not shown
