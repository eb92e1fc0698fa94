"""The SQLite file under the home folder: opening, upgrading, and transactions that many processes share.

The dashboard, the command line and the worker each hold one connection. Write-ahead logging lets them read
while one of them writes; ``synchronous=NORMAL`` may lose the last moments after a power failure and never harms
the file.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from quant_core.errors import QuantError

FILE_NAME = "quantlens.sqlite"
BUSY_SECONDS = 10.0

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE jobs (
            number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, title TEXT NOT NULL,
            key TEXT NOT NULL, request TEXT NOT NULL, interactive INTEGER NOT NULL, state TEXT NOT NULL,
            cancel INTEGER NOT NULL DEFAULT 0, progress REAL NOT NULL DEFAULT 0,
            message TEXT NOT NULL DEFAULT '', error TEXT NOT NULL DEFAULT '', hint TEXT NOT NULL DEFAULT '',
            created REAL NOT NULL, started REAL NOT NULL DEFAULT 0, finished REAL NOT NULL DEFAULT 0,
            updated REAL NOT NULL DEFAULT 0)""",
        """CREATE UNIQUE INDEX one_active_job_a_key ON jobs (key)
            WHERE state IN ('queued', 'running') AND cancel = 0""",
        "CREATE INDEX jobs_by_state ON jobs (state, interactive, number)",
        """CREATE TABLE worker (
            place INTEGER PRIMARY KEY CHECK (place = 1), pid INTEGER NOT NULL, born REAL NOT NULL,
            ready INTEGER NOT NULL, leave INTEGER NOT NULL DEFAULT 0, code TEXT NOT NULL)""",
        """CREATE TABLE events (
            job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, position INTEGER NOT NULL,
            data TEXT NOT NULL, PRIMARY KEY (job, position)) WITHOUT ROWID""",
        """CREATE TABLE results (
            key TEXT PRIMARY KEY, kind TEXT NOT NULL, fingerprint TEXT NOT NULL, data TEXT NOT NULL,
            created REAL NOT NULL, used REAL NOT NULL)""",
        "CREATE INDEX results_by_model ON results (kind, fingerprint, used)",
        "CREATE TABLE recipes (id TEXT PRIMARY KEY, data TEXT NOT NULL, created REAL NOT NULL)",
    ),
    (
        """CREATE TABLE runs (
            key TEXT PRIMARY KEY, request TEXT NOT NULL, origin TEXT NOT NULL DEFAULT '',
            note TEXT NOT NULL DEFAULT '')""",
        """INSERT OR REPLACE INTO runs (key, request)
            SELECT jobs.key, jobs.request FROM jobs JOIN results USING (key) ORDER BY number""",
        "CREATE TABLE models (fingerprint TEXT PRIMARY KEY, data TEXT NOT NULL)",
    ),
    (
        """CREATE TABLE votes (
            number INTEGER PRIMARY KEY, run TEXT NOT NULL, voter TEXT NOT NULL, prompt INTEGER NOT NULL,
            choice INTEGER NOT NULL CHECK (choice IN (0, 1, -1)), created REAL NOT NULL)""",
        "CREATE INDEX votes_by_run ON votes (run, voter, prompt)",
    ),
    ("CREATE TABLE votes_ended (run TEXT, voter TEXT, PRIMARY KEY (run, voter)) WITHOUT ROWID",),
    ("CREATE TABLE reproductions (key TEXT PRIMARY KEY, data TEXT NOT NULL)",),
)
"""What each version added to the one before it; the file's ``user_version`` counts how many it has seen."""


def default_home() -> Path:
    """``$QUANTLENS_HOME``, or the folder ``quantlens`` where the platform keeps a user's caches."""
    if chosen := os.environ.get("QUANTLENS_HOME"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "quantlens"


class Database:
    """The store's file under ``home``, open until ``close`` or until it is forgotten; usable from any thread.

    Raises:
        QuantError: The folder cannot be written, the file is damaged, or a newer QuantLens wrote it.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / FILE_NAME
        self._lock = threading.RLock()
        self._depth = 0
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        with self._plain_errors():
            self._connection = sqlite3.connect(
                self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        self._connection.row_factory = sqlite3.Row
        self.close = weakref.finalize(self, self._connection.close)
        try:
            with self._plain_errors():
                self._connection.execute("PRAGMA synchronous = NORMAL")
                self._connection.execute("PRAGMA foreign_keys = ON")
                self._write_ahead()
            self._upgrade()
        except QuantError:
            self.close()
            raise

    def query(self, sql: str, values: Sequence[object] = ()) -> list[sqlite3.Row]:
        """The rows that a statement answers."""
        with self._lock, self._plain_errors():
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the file's only write place: all of the block is stored, or nothing if it raises.

        A transaction inside another joins the outer one.
        """
        with self._lock, self._plain_errors():
            if self._depth == 0:
                self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield self._connection
                if self._depth == 1:
                    self._connection.commit()
            except BaseException:
                if self._depth == 1:
                    self._connection.rollback()
                raise
            finally:
                self._depth -= 1

    def _write_ahead(self) -> None:
        """Switch to write-ahead logging; SQLite does not wait by itself where two processes do so at once."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _upgrade(self) -> None:
        if self._version() == len(MIGRATIONS):
            return
        with self.transaction() as connection:
            version = self._version()
            if version > len(MIGRATIONS):
                raise QuantError(
                    f"A newer QuantLens wrote {self.path} (version {version}; this one reads {len(MIGRATIONS)}).",
                    "Update QuantLens, or set QUANTLENS_HOME to another folder.",
                )
            for statement in (line for step in MIGRATIONS[version:] for line in step):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _version(self) -> int:
        return int(self.query("PRAGMA user_version")[0][0])

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from error
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:  # a broken constraint, a closed file: a defect
                raise
            raise QuantError(
                f"The store {self.path} is damaged: {error}.",
                "Move the file away and start again: results are computed anew, saved recipes are lost.",
            ) from error

    def _unusable(self, error: Exception) -> QuantError:
        return QuantError(
            f"The store {self.path} cannot be used: {error}.",
            "Check that the folder can be written and the disk has room, or set QUANTLENS_HOME to another.",
        )
