"""Asking for work and watching it: what the dashboard and the command line use, free of torch.

The client and the worker never speak directly. A job is a row in the store; whoever looks at a job sees to it first
that rows agree with what runs (``_reconcile``): a running job whose worker is gone has failed, and queued jobs without
a worker get one.
"""

from __future__ import annotations

import time
from pathlib import Path

from quant_core.jobs.process import LOG_NAME, reap, start_worker
from quant_core.schema import (
    Job,
    LossEvent,
    ReadingEvent,
    Request,
    Result,
    ScoresEvent,
    ScoreTable,
    Side,
    TokenEvent,
    TokenReading,
)
from quant_core.store import Store
from quant_core.store.jobs import LOST
from quant_core.store.keys import request_key
from quant_core.store.kinds import load_request
from quant_core.store.place import code_version

LEAVE_SECONDS = 10.0
"""A worker that is dismissed is waited for so long."""


class Client:
    """The jobs of one home folder.

    Args:
        home: Folder of the store.
        jobs: Other job functions for workers started from here, as ``module:NAME`` (see ``quant_core.jobs.worker``).
    """

    def __init__(self, home: Path, jobs: str = "") -> None:
        self.home = home.absolute()
        self.store = Store(self.home)
        self.jobs_place = jobs

    def submit(self, request: Request) -> Job:
        """Ask for an answer: the job that gives it, gave it, or is already about to."""
        key = request_key(request)
        jobs, results = self.store.jobs, self.store.results
        with self.store.database.transaction():
            self._settle()
            job = jobs.with_key(key)
            if job is None and results.get(key) is not None:
                results.touch(key)
                return jobs.with_key(key, "done") or jobs.add(request, "done")
            self._renew_worker()
            job = job or jobs.add(request)
            self._staff()
        return job

    def result(self, request: Request) -> Result | None:
        """The stored answer to ``request``; None if there is none yet."""
        return self.store.results.get(request_key(request))

    def job(self, job_id: str) -> Job:
        """The job as it is now; ``JobError`` if there is none with that id."""
        self._reconcile()
        return self.store.jobs.get(job_id)

    def jobs(self, limit: int = 20) -> list[Job]:
        """The newest jobs first, as they are now."""
        self._reconcile()
        return self.store.jobs.recent(limit)

    def cancel(self, job_id: str) -> None:
        """Have a job stop: a queued one ends at once, a running one at its next step."""
        self.store.jobs.cancel(job_id)
        self._reconcile()

    def retry(self, job_id: str) -> Job:
        """Ask again for what a job was asked."""
        ticket = self.store.jobs.ticket(job_id)
        return self.submit(load_request(ticket.job.kind, ticket.request))

    def events(self, job_id: str, after: int = -1) -> list[TokenEvent]:
        """The tokens a job streamed behind position ``after`` (the first event has position 0)."""
        return [event for event in self.store.jobs.events(job_id, after) if isinstance(event, TokenEvent)]

    def readings(self, job_id: str) -> dict[Side, TokenReading]:
        """What a generation measured of the texts that have ended."""
        events = self.store.jobs.events(job_id, -1)
        return {event.side: event.reading for event in events if isinstance(event, ReadingEvent)}

    def losses(self, job_id: str, after: int = -1) -> list[LossEvent]:
        """The losses a training streamed behind position ``after`` (the first event has position 0)."""
        return [event for event in self.store.jobs.events(job_id, after) if isinstance(event, LossEvent)]

    def scores_so_far(self, job_id: str) -> tuple[int, ScoreTable] | None:
        """The newest table that a sweep streamed, with its number, which grows; None if there is none yet."""
        found = self.store.jobs.last_event(job_id)
        return (found[0], found[1].table) if found and isinstance(found[1], ScoresEvent) else None

    def dismiss(self) -> None:
        """Have the worker end once its job is done, and wait for it a little."""
        self.store.place.ask_to_leave()
        deadline = time.monotonic() + LEAVE_SECONDS
        while self.store.place.occupant() is not None and time.monotonic() < deadline:
            reap()
            time.sleep(0.05)

    def close(self) -> None:
        """Close the store; the worker goes on."""
        self.store.close()

    def _reconcile(self) -> None:
        if not self.store.jobs.active():
            return
        reap()
        occupant = self.store.place.occupant()
        if occupant is not None and occupant.alive:
            return
        with self.store.database.transaction():
            self._settle()
            self._staff()

    def _settle(self) -> None:
        """Fail what a dead worker left behind; if it died before it came up, starting another would not help."""
        reap()
        occupant = self.store.place.occupant()
        if occupant is not None and occupant.alive:
            return
        self.store.jobs.fail_all("running", *LOST)
        if occupant is not None and not occupant.ready:
            log = self.home / LOG_NAME
            self.store.jobs.fail_all(
                "queued", "The worker process could not start.", f"Its log {log} says why."
            )
        self.store.place.clear()

    def _renew_worker(self) -> None:
        """Have a worker that started before the program was updated make room once its job is done."""
        occupant = self.store.place.occupant()
        if occupant is not None and occupant.code != code_version():
            self.store.place.ask_to_leave()

    def _staff(self) -> None:
        """Start a worker if jobs wait and none lives."""
        if self.store.place.occupant() is None and self.store.jobs.active():
            self.store.place.assign(start_worker(self.home, self.jobs_place), ready=False)
