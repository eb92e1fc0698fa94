"""A runtime at work in a process of its own: started, asked step by step, its memory looked at, and ended.

Resident memory is what the process holds of the machine's memory, libraries and mapped files included (RSS); on Linux
the most that it ever held is known too (``VmHWM`` in ``/proc/PID/status``, proc(5)), elsewhere the most that was seen.
``getrusage`` is no use here: its maximum is inherited from whoever started the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import psutil

from quant_core.errors import JobError
from quant_core.runtimes.base import Runtime, Task

POLL = 0.2
"""Seconds between two looks whether the user wants the work to stop."""
_PACKAGE = Path(__file__).resolve().parents[2]
_MEMORY = (
    "MemoryError",
    "OutOfMemoryError",
    "allocate memory",
    "out of memory",
    "failed to allocate",
    "bad_alloc",
)


class Round(NamedTuple):
    """One round: tokens and seconds of reading the prompt, and of writing behind the first token; bytes on a GPU."""

    read: int
    reading: float
    written: int
    writing: float
    gpu: int


class Engine:
    """A running runtime, for a ``with`` block.

    Args:
        runtime: Which one; it has to be here.
        task: What it runs.
        check: Called while it works; may raise ``Cancelled``.

    Raises:
        JobError: It is not here, or cannot be started.
    """

    def __init__(self, runtime: Runtime, task: Task, check: Callable[[], None]) -> None:
        found = runtime.found()
        if not found.version:
            raise JobError(found.why, f"Install it: {found.remedy}")
        self._title, self._task, self._check = runtime.title, task, check
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by __exit__
        self._lines: queue.Queue[str] = queue.Queue()
        paths = [str(_PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            self._process = subprocess.Popen(
                [found.python, "-P", "-m", *runtime.module()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(task.threads)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                encoding="utf-8",
            )
        except OSError as error:
            self._errors.close()
            raise JobError(f"{self._title} could not be started: {error}.", "Install it again.") from error
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.libraries = self.peak = 0
        """Bytes of resident memory: with the libraries loaded, before the model; and the most so far."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # a line that the engine never read
                    pipe.close()
        self._errors.close()

    def load(self) -> None:
        """Load libraries, then the model; ``JobError`` if that fails."""
        self._ask(json.dumps(asdict(self._task) | {"file": str(Path(self._task.folder) / "model.gguf")}))
        self.libraries = self.resident()
        self._ask("load")
        self.resident()

    def round(self) -> Round:
        """Read the prompt and write behind it, once; ``JobError`` if it fails, or did not do what it was asked."""
        found = Round(**self._ask("round"))
        self.resident()
        if (found.read, found.written) != (len(self._task.prompt), self._task.tokens - 1):
            raise JobError(
                f"{self._title} read {found.read} tokens and wrote {found.written + 1}, not "
                f"{len(self._task.prompt)} and {self._task.tokens}.",
                "This is a defect: please report it.",
            )
        return found

    def resident(self) -> int:
        """Bytes of resident memory now."""
        try:
            now = int(psutil.Process(self._process.pid).memory_info().rss)
        except psutil.Error:  # it has just ended; the next question tells why
            return 0
        self.peak = max(self.peak, now, _most(self._process.pid))
        return now

    def _listen(self) -> None:
        """Hand lines on, then an empty one."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it ended, which its missing answer tells
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        while True:
            self._check()
            with contextlib.suppress(queue.Empty):
                answer = self._lines.get(timeout=POLL)
                break
        if not answer:
            raise self._failure()
        told: dict[str, Any] = json.loads(answer)
        return told

    def _failure(self) -> JobError:
        """Why the engine ended, in a sentence."""
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        last = said[-1].strip()[:300] if said else ""
        if -code == signal.SIGKILL or any(word in line for word in _MEMORY for line in said[-20:]):
            return JobError(
                f"{self._title} ran out of memory and was ended.",
                "Close other programs, or measure a smaller recipe or a shorter prompt.",
            )
        if code < 0:
            return JobError(
                f"{self._title} crashed ({signal.Signals(-code).name}).",
                "Nothing here was harmed. Try again; if it stays so, another version of it may help.",
            )
        return JobError(f"{self._title} failed: {last or f'exit code {code}'}", "Export again, or update it.")


def _most(pid: int) -> int:
    """The most bytes that a process ever held, where the system tells; else 0."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
