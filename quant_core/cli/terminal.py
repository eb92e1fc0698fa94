"""What the command line writes: tables and one JSON object on standard output, progress on standard error."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from quant_core.schema import Job, LossEvent

BAR = 24
"""Characters of a progress bar."""
LOSS_SECONDS = 10.0
"""A training's loss is written this often."""


def say(text: str = "") -> None:
    """A line on standard output."""
    sys.stdout.write(text + "\n")


def complain(message: str, hint: str = "") -> None:
    """An error and its remedy on standard error."""
    sys.stderr.write("\n".join(filter(None, [f"Error: {message}", hint])) + "\n")


def warn(message: str) -> None:
    """Something to know beside the answer, on standard error."""
    sys.stderr.write(f"Note: {message}\n")


def say_json(data: Any) -> None:
    """One JSON object on standard output; numbers that JSON has no word for (infinite, undefined) become null."""
    say(json.dumps(_finite(data), indent=2, allow_nan=False))


def say_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows of text in aligned columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        say("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())


def number(value: float | None, digits: int = 4) -> str:
    """A number with so many significant digits; a dash for none."""
    return "-" if value is None else f"{value:.{digits}g}"


class ProgressBar:
    """Draws a job: a bar that is drawn over on a terminal, else a line every tenth of the way."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._shown = ""
        self._next_loss = 0.0

    def __call__(self, job: Job) -> None:
        """Draw ``job`` as it is now."""
        filled = int(job.progress * BAR)
        left = job.time_left(time.time())
        time_left = "" if left is None else f"  {_duration(left)} left"
        text = (
            f"{job.title}  {'#' * filled}{'.' * (BAR - filled)} {job.progress:4.0%}{time_left}  {job.message}"
        )
        if self._live:
            sys.stderr.write(f"\r\x1b[K{text.rstrip()}")
        elif (step := f"{job.title} {int(job.progress * 10)} {job.state}") != self._shown:
            self._shown = step
            sys.stderr.write(text.rstrip() + "\n")
        sys.stderr.flush()

    def note_losses(self, events: Sequence[LossEvent]) -> None:
        """Write the losses of a training, at most a line every ``LOSS_SECONDS`` of its steps."""
        for event in events:
            if event.seconds >= self._next_loss:
                self._next_loss = event.seconds + LOSS_SECONDS
                self.clear()
                line = f"step {event.step:>6,}  loss {event.loss:.4f}  {event.tokens:>10,} tokens"
                sys.stderr.write(f"{line}  {event.seconds:>6.0f} s\n")
        sys.stderr.flush()

    def clear(self) -> None:
        """Wipe the bar off a terminal."""
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
