"""Starting the worker as a program of its own, which outlives whoever started it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from quant_core.errors import JobError

LOG_NAME = "worker.log"
LOG_BYTES = 1_000_000
"""Size at which a log is set aside (one old one is kept) when the next worker starts."""

_children: list[subprocess.Popen[bytes]] = []
"""Workers this process started; kept so that they can be asked whether they ended, which frees their entry."""


def start_worker(home: Path, jobs: str = "") -> int:
    """Start a worker for ``home`` in a session of its own and return its process number.

    It finds this package from anywhere, writes to ``worker.log`` in ``home``, and takes its jobs from ``jobs``
    (``module:NAME``) instead of the usual ones if given.

    Raises:
        JobError: The system starts no process.
    """
    package = Path(__file__).resolve().parents[2]
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-P", "-m", "quant_core.jobs.worker", "--home", str(home)]
    if jobs:
        command += ["--jobs", jobs]
    log = home / LOG_NAME
    try:
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            child = subprocess.Popen(
                command,
                cwd=home,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    except OSError as error:
        raise JobError(
            f"The worker process could not be started: {error}.", "Free some memory and disk, then try again."
        ) from error
    _children.append(child)
    return child.pid


def reap() -> None:
    """Let go of workers this process started that have ended, so that they no longer look alive."""
    _children[:] = [child for child in _children if child.poll() is None]
