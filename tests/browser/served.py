"""A real server of the app with a home folder of its own, and a real Chromium to look at it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]
START_SECONDS = 60.0


@dataclass(frozen=True)
class Served:
    """A running app: its address and the home folder it keeps results in."""

    url: str
    home: Path
    log: Path


def chromium() -> str:
    """The path of a Chromium or Chrome on PATH, empty if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), "")


@contextmanager
def serve(home: Path) -> Iterator[Served]:
    """The app on a free port of this machine, until the block ends; its worker is the caller's to end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = home / "server.log"
    home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless=true"]
    command += [f"--server.port={port}", "--server.fileWatcherType=none"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "QUANTLENS_HOME": str(home)}, stdout=output, stderr=output
        )
        try:
            _wait(f"http://127.0.0.1:{port}/_stcore/health", server, log)
            yield Served(f"http://127.0.0.1:{port}", home, log)
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"The server did not come up:\n{log.read_text(errors='replace')}")


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        try:
            yield found
        finally:
            found.close()


def at_rest(page: Page) -> None:
    """Wait until no script of the page is running."""
    page.wait_for_function("() => !document.querySelector('[data-test-script-state=running]')")


def go(page: Page, title: str) -> None:
    """Switch to a page by the navigation, and wait until it shows its title."""
    link = page.get_by_role("link", name=title, exact=True)
    page.get_by_test_id("stSidebarNavLink").and_(link).click()  # not by text: icons are text too
    page.get_by_role("heading", name=title, level=1).wait_for()
