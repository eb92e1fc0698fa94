"""Waiting for another process within bounds, and ending the workers that a test started."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from quant_core.jobs.process import reap
from quant_core.store import Store

PATIENCE = 60.0


def until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Return as soon as ``condition`` holds; fail after a minute."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true in {PATIENCE:.0f} s"
        time.sleep(0.01)


def worker_pid(home: Path) -> int:
    """The living worker of ``home``, 0 if there is none."""
    reap()
    store = Store(home)
    try:
        occupant = store.place.occupant()
        return occupant.pid if occupant and occupant.alive else 0
    finally:
        store.close()


def end_worker(home: Path, number: int = signal.SIGTERM) -> int:
    """Signal the worker of ``home``, wait until it is gone, and return its process number."""
    pid = worker_pid(home)
    if pid:
        os.kill(pid, number)
        until(lambda: worker_pid(home) != pid, "the end of the worker")
    return pid
