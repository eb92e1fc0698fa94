"""What QuantLens remembers, in one SQLite file: jobs, the worker's place, events, results, runs, recipes and votes."""

from __future__ import annotations

from pathlib import Path

from quant_core.schema import Job, Origin, Request, Result
from quant_core.store.database import Database, default_home
from quant_core.store.jobs import JobTable
from quant_core.store.place import WorkerPlace
from quant_core.store.results import RecipeTable, ResultTable
from quant_core.store.runs import RunTable
from quant_core.store.votes import VoteTable

__all__ = ["Store", "default_home"]


class Store:
    """Everything under one home folder; closes its file when it is forgotten, or by ``close``."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.database = Database(home)
        self.jobs = JobTable(self.database)
        self.place = WorkerPlace(self.database)
        self.results = ResultTable(self.database)
        self.recipes = RecipeTable(self.database)
        self.votes = VoteTable(self.database)
        self.runs = RunTable(self.database, self.results, home)

    def finish(self, job: Job, request: Request, result: Result, origin: Origin | None = None) -> None:
        """Store a running job's result with what it was made with, and its end, all or nothing."""
        with self.database.transaction():
            self.results.put(request, result, job.key, origin)
            self.jobs.finish(job.id)

    def close(self) -> None:
        """Close the file."""
        self.database.close()
