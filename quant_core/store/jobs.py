"""The queue: every change of a job's state is one function here, and one transaction.

A job is ``queued``, then ``running``, then ``done``, ``failed`` or ``cancelled``. At most one active job has a
content key; a running job that was told to stop no longer holds it.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from dataclasses import dataclass, fields

from quant_core.errors import JobError
from quant_core.schema import Event, Job, JobState, Request, dump, load_event
from quant_core.store.database import Database
from quant_core.store.keys import request_key
from quant_core.store.kinds import kind_of, title_of

LOST = ("The worker process ended while this job ran.", "Start it again.")
KEPT_JOBS = 500

_COLUMNS = ", ".join(field.name for field in fields(Job))


@dataclass(frozen=True)
class Ticket:
    """A job with what it was asked, as stored."""

    job: Job
    request: object
    """JSON data of the request; ``load_request`` makes a request of it."""


class JobTable:
    """The jobs and their events in ``database``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --- looking

    def get(self, job_id: str) -> Job:
        """The job; ``JobError`` if there is none."""
        return self.ticket(job_id).job

    def ticket(self, job_id: str) -> Ticket:
        """The job with its request; ``JobError`` if there is none."""
        if found := self._tickets("WHERE id = ?", job_id):
            return found[0]
        raise JobError(f"There is no job {job_id!r}.", "It may be too old; start it anew.")

    def recent(self, limit: int) -> list[Job]:
        """The newest jobs first."""
        return [ticket.job for ticket in self._tickets("ORDER BY number DESC LIMIT ?", limit)]

    def active(self) -> list[Job]:
        """Jobs that wait or run, oldest first."""
        return [
            ticket.job for ticket in self._tickets("WHERE state IN ('queued', 'running') ORDER BY number")
        ]

    def waiting(self) -> list[Ticket]:
        """Queued interactive jobs, oldest first."""
        return self._tickets("WHERE state = 'queued' AND interactive = 1 ORDER BY number")

    def with_key(self, key: str, state: JobState | None = None) -> Job | None:
        """The newest job with a content key in ``state``; by default the active one that was not cancelled."""
        if state is None:
            found = self._tickets("WHERE key = ? AND state IN ('queued', 'running') AND cancel = 0", key)
        else:
            found = self._tickets("WHERE key = ? AND state = ? ORDER BY number DESC LIMIT 1", key, state)
        return found[0].job if found else None

    def told_to_stop(self, job_id: str) -> bool:
        """Whether the user cancelled the job."""
        rows = self._database.query("SELECT cancel FROM jobs WHERE id = ?", (job_id,))
        return not rows or bool(rows[0]["cancel"])

    def events(self, job_id: str, after: int = -1) -> list[Event]:
        """The job's events behind position ``after``, in order; positions count from 0."""
        rows = self._database.query(
            "SELECT data FROM events WHERE job = ? AND position > ? ORDER BY position", (job_id, after)
        )
        return [load_event(json.loads(row["data"])) for row in rows]

    def last_event(self, job_id: str) -> tuple[int, Event] | None:
        """The position and content of the job's newest event; None if it has none."""
        rows = self._database.query(
            "SELECT position, data FROM events WHERE job = ? ORDER BY position DESC LIMIT 1", (job_id,)
        )
        return (rows[0]["position"], load_event(json.loads(rows[0]["data"]))) if rows else None

    # --- the user's side

    def add(self, request: Request, state: JobState = "queued") -> Job:
        """Put ``request`` at the end of the queue, or note it as ``done`` where its answer is known."""
        now = time.time()
        done = state == "done"
        job_id = secrets.token_hex(6)
        with self._database.transaction() as connection:
            connection.execute(
                """INSERT INTO jobs (id, kind, title, key, request, interactive, state, progress, created,
                    started, finished, updated) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                (
                    job_id,
                    kind_of(request).name,
                    title_of(request),
                    request_key(request),
                    json.dumps(dump(request)),
                    kind_of(request).interactive,
                    state,
                    float(done),
                    now,
                    now if done else 0.0,
                    now if done else 0.0,
                    now,
                ),
            )
            connection.execute(
                "DELETE FROM jobs WHERE state NOT IN ('queued', 'running') AND number <= ?",
                (self._number(connection, job_id) - KEPT_JOBS,),
            )
        return self.get(job_id)

    def cancel(self, job_id: str) -> None:
        """End a queued job at once, tell a running one to stop; one that ended already stays as it is."""
        with self._database.transaction() as connection:
            if self.get(job_id).state == "queued":
                self._end(connection, job_id, "cancelled", message="")
            else:
                connection.execute("UPDATE jobs SET cancel = 1 WHERE id = ? AND state = 'running'", (job_id,))

    def fail_all(self, state: JobState, error: str, hint: str) -> None:
        """Mark every job in ``state`` as failed; a running one that was told to stop counts as cancelled."""
        with self._database.transaction() as connection:
            rows = connection.execute("SELECT id, cancel FROM jobs WHERE state = ?", (state,)).fetchall()
            for row in rows:
                if row["cancel"]:
                    self._end(connection, row["id"], "cancelled")
                else:
                    self._end(connection, row["id"], "failed", error=error, hint=hint)

    # --- the worker's side

    def take(self, job_id: str | None = None, message: str = "") -> Ticket | None:
        """Start a queued job: the one named, else the oldest interactive one, else the oldest."""
        if not self._database.query("SELECT 1 FROM jobs WHERE state = 'queued' LIMIT 1"):
            return None
        with self._database.transaction() as connection:
            if job_id is None:
                found = self._tickets("WHERE state = 'queued' ORDER BY interactive DESC, number LIMIT 1")
            else:
                found = self._tickets("WHERE state = 'queued' AND id = ?", job_id)
            if not found:
                return None
            now = time.time()
            connection.execute(
                "UPDATE jobs SET state = 'running', started = ?, updated = ?, message = ? WHERE id = ?",
                (now, now, message, found[0].job.id),
            )
        return found[0]

    def begin(self, job_id: str) -> None:
        """Count a running job's time from now on: what was loaded before its first step says nothing of the rest."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE jobs SET started = ? WHERE id = ? AND state = 'running'", (time.time(), job_id)
            )

    def report(self, job_id: str, progress: float | None = None, message: str | None = None) -> None:
        """Store how far an active job is (0..1) and what it does; None leaves either as it is."""
        with self._database.transaction() as connection:
            connection.execute(
                """UPDATE jobs SET progress = COALESCE(?, progress), message = COALESCE(?, message),
                    updated = ? WHERE id = ? AND state IN ('queued', 'running')""",
                (progress, message, time.time(), job_id),
            )

    def emit(self, job_id: str, position: int, event: Event) -> None:
        """Store the event at ``position``."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO events VALUES (?, ?, ?)", (job_id, position, json.dumps(dump(event)))
            )

    def finish(self, job_id: str) -> None:
        """Mark a running job as done; called in the transaction that stores its result."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE jobs SET progress = 1 WHERE id = ? AND state = 'running'", (job_id,))
            self._end(connection, job_id, "done", message="")

    def fail(self, job_id: str, error: str, hint: str) -> None:
        """Mark an active job as failed."""
        with self._database.transaction() as connection:
            self._end(connection, job_id, "failed", error=error, hint=hint)

    def cancelled(self, job_id: str) -> None:
        """Mark an active job as cancelled."""
        with self._database.transaction() as connection:
            self._end(connection, job_id, "cancelled")

    # --- inside

    def _end(
        self,
        connection: sqlite3.Connection,
        job_id: str,
        state: JobState,
        *,
        message: str | None = None,
        error: str = "",
        hint: str = "",
    ) -> None:
        now = time.time()
        connection.execute(
            """UPDATE jobs SET state = ?, message = COALESCE(?, message), error = ?, hint = ?, finished = ?,
                updated = ? WHERE id = ? AND state IN ('queued', 'running')""",
            (state, message, error, hint, now, now, job_id),
        )

    def _number(self, connection: sqlite3.Connection, job_id: str) -> int:
        return int(connection.execute("SELECT number FROM jobs WHERE id = ?", (job_id,)).fetchone()["number"])

    def _tickets(self, rest: str, *values: object) -> list[Ticket]:
        rows = self._database.query(f"SELECT {_COLUMNS}, request FROM jobs {rest}", values)
        return [Ticket(_job(row), json.loads(row["request"])) for row in rows]


def _job(row: sqlite3.Row) -> Job:
    return Job(**{field.name: row[field.name] for field in fields(Job)})
