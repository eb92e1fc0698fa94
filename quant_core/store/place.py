"""The worker's place: one row that says which process works for this home folder, so that there is only one.

A process is known by its number and its start time, since numbers are used again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from quant_core.schema import digest
from quant_core.store.database import Database

CLOCK_TOLERANCE = 5.0
"""Seconds by which a start time may seem to move when the system's clock is set."""


@dataclass(frozen=True)
class Occupant:
    """The process that holds the place; ``born`` is its start in seconds since the epoch.

    ``ready`` turns true once it has come up, ``leave`` once it has been asked to make room; ``code`` is the
    version of the program it runs.
    """

    pid: int
    born: float
    ready: bool
    leave: bool
    code: str

    @property
    def alive(self) -> bool:
        """Whether that very process still runs."""
        born = start_time(self.pid)
        return born is not None and abs(born - self.born) < CLOCK_TOLERANCE


def start_time(pid: int) -> float | None:
    """When process ``pid`` started, in seconds since the epoch; None if it does not run (any more)."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def code_version() -> str:
    """A hash over the names, sizes and times of the program's files as they are now, to notice an update."""
    root = Path(__file__).resolve().parents[1]
    files = sorted(
        (str(path.relative_to(root)), path.stat()) for path in root.rglob("*.py") if path.is_file()
    )
    return digest([[name, status.st_size, status.st_mtime_ns] for name, status in files])


class WorkerPlace:
    """The place in ``database``; changes are made inside its transactions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def occupant(self) -> Occupant | None:
        """Who holds the place, alive or not."""
        rows = self._database.query("SELECT pid, born, ready, leave, code FROM worker")
        if not rows:
            return None
        row = rows[0]
        return Occupant(row["pid"], row["born"], bool(row["ready"]), bool(row["leave"]), row["code"])

    def assign(self, pid: int, *, ready: bool) -> None:
        """Give the place to process ``pid``, which runs this version of the program."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO worker VALUES (1, ?, ?, ?, 0, ?)",
                (pid, start_time(pid) or 0.0, ready, code_version()),
            )

    def claim(self, pid: int) -> bool:
        """Take the place for the calling process; False if another living one holds it."""
        with self._database.transaction():
            occupant = self.occupant()
            if occupant and occupant.pid != pid and occupant.alive:
                return False
            self.assign(pid, ready=True)
        return True

    def ask_to_leave(self) -> None:
        """Have the occupant end once its job is done."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE worker SET leave = 1")

    def clear(self, pid: int | None = None) -> None:
        """Empty the place, if ``pid`` holds it (or whoever does)."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM worker WHERE pid = COALESCE(?, pid)", (pid,))
