"""Running one job: its function, its outcome in the store, and what it may ask meanwhile.

Between two tasks of a long job (``Context.progress``) interactive jobs that need no other model are run on the spot.
They are not interrupted by others in turn, and what goes wrong in them stays with them.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quant_core.errors import Cancelled, QuantError
from quant_core.jobs.origin import origin_now
from quant_core.jobs.process import LOG_NAME
from quant_core.jobs.warm import WarmModel
from quant_core.schema import Event, Job, ModelRef, Request
from quant_core.store import Store
from quant_core.store.arrays import FOLDER
from quant_core.store.jobs import Ticket
from quant_core.store.keys import request_key
from quant_core.store.kinds import fingerprint_of, kind_of, load_request, model_of

if TYPE_CHECKING:
    from quant_core.models.loading import LoadedModel

log = logging.getLogger(__name__)

Functions = Mapping[str, str | Callable[..., Any]]

REPORT_SECONDS = 0.1
"""Progress is stored at most this often."""
SERVE_SECONDS = 0.05
"""A long job looks for waiting interactive ones at most this often."""

LIGHT = ("look", "download")
"""Kinds of jobs that need no PyTorch."""

STOPPED = ("The worker was stopped while this job ran.", "Start it again.")
NO_MEMORY = (
    "There was not enough memory for this job.",
    "Close other programs, or choose a smaller model, a 16-bit dtype or fewer tokens; then press Retry.",
)


class Stopped(Cancelled):
    """The worker itself was told to end."""


class Runner:
    """Runs jobs of ``store``, one model warm.

    Args:
        store: Where jobs and results are.
        functions: Job function by kind, and ``load`` for models: each a function or ``module:NAME``, imported when
            first needed.
    """

    def __init__(self, store: Store, functions: Functions) -> None:
        self.store = store
        self.warm = WarmModel()
        self.stopping = False
        self._functions = functions

    def run(self, ticket: Ticket, *, nested: bool = False) -> None:
        """Run a job that was taken from the queue and store how it ended."""
        job = ticket.job
        try:
            request = load_request(job.kind, ticket.request)
            result = self.function(job.kind, job)(RunContext(self, job, nested=nested), request)
            self.store.finish(job, request, result, origin_now(self.warm.device))
        except Stopped as error:
            self.store.jobs.fail(job.id, error.message, error.hint)
        except Cancelled:
            self.store.jobs.cancelled(job.id)
        except QuantError as error:
            self.store.jobs.fail(job.id, error.message, error.hint)
        except Exception as error:  # whatever a job may raise must not end the worker
            log.exception("job %s (%s) failed", job.id, job.kind)
            if _out_of_memory(error):
                self.warm.drop()
                self.store.jobs.fail(job.id, *NO_MEMORY)
            else:
                hint = f"This is a defect; {self.store.home / LOG_NAME} tells where."
                self.store.jobs.fail(job.id, f"Unexpected error: {type(error).__name__}: {error}", hint)

    def function(self, name: str, job: Job) -> Callable[..., Any]:
        """The function for ``name``; the first one that needs PyTorch loads it, and ``job`` says so."""
        target = self._functions[name]
        if not isinstance(target, str):
            return target
        module, _, attribute = target.partition(":")
        if "torch" not in sys.modules and name not in LIGHT:
            self.store.jobs.report(job.id, message="Starting the engine (loading PyTorch)")
            _prepare_torch()
        found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return found

    def serve_waiting(self) -> None:
        """Run waiting interactive jobs, except those that would need another model than the one in memory."""
        for ticket in self.store.jobs.waiting():
            if not self._serves(ticket):
                if not ticket.job.message:
                    message = "Waiting: a long job on another model is running."
                    self.store.jobs.report(ticket.job.id, message=message)
            elif taken := self.store.jobs.take(ticket.job.id):
                self.run(taken, nested=True)

    def _serves(self, ticket: Ticket) -> bool:
        try:
            request: Request = load_request(ticket.job.kind, ticket.request)
        except ValueError:
            return True
        ref = model_of(request)
        return ref is None or self.warm.get(ref, _roots_of(request), fingerprint_of(request)) is not None


class RunContext:
    """What the machinery offers one running job; see ``quant_core.jobs.context.Context``."""

    def __init__(self, runner: Runner, job: Job, *, nested: bool) -> None:
        self._runner = runner
        self._job = job
        self._nested = nested
        self._events = 0
        self._begun = False
        self._reported = 0.0
        self._fraction = 0.0
        self._share = (0.0, 1.0)
        self._served = 0.0

    def progress(self, fraction: float, message: str = "") -> None:
        """Report ``fraction`` (0..1) done; a long job serves waiting interactive ones here.

        What is reported never goes back: a step that knows only itself reports 0.
        """
        self.check_cancelled()
        if not self._begun:
            self._begun = True
            self._runner.store.jobs.begin(self._job.id)
        now = time.monotonic()
        if now - self._reported >= REPORT_SECONDS:
            self._reported = now
            start, end = self._share
            self._fraction = max(self._fraction, start + (end - start) * min(fraction, 1.0))
            self._runner.store.jobs.report(self._job.id, self._fraction, message)
        if not self._nested and now - self._served >= SERVE_SECONDS:
            self._runner.serve_waiting()
            self._served = time.monotonic()
            self.check_cancelled()

    def check_cancelled(self) -> None:
        """Raise ``Cancelled`` if the user asked for it or the worker has to end."""
        if self._runner.store.jobs.told_to_stop(self._job.id):
            raise Cancelled("The job was cancelled.")
        if self._runner.stopping:
            raise Stopped(*STOPPED)

    def emit(self, event: Event) -> None:
        """Store an event for whoever watches the job."""
        self._runner.store.jobs.emit(self._job.id, self._events, event)
        self._events += 1

    def answer(self, request: Request, start: float, end: float) -> Any:
        """The stored answer to a part of this job, else the one that is worked out here and stored."""
        results, key = self._runner.store.results, request_key(request)
        found = results.get(key)
        if found is not None:
            results.touch(key)
            return found
        whole = self._share
        width = whole[1] - whole[0]
        self._share = (whole[0] + width * start, whole[0] + width * end)
        try:
            made = self._runner.function(kind_of(request).name, self._job)(self, request)
        finally:
            self._share = whole
        results.put(request, made, key, origin_now(self._runner.warm.device))
        return made

    def folder(self) -> Path:
        """The folder for arrays, made when it is first asked for."""
        folder = self._runner.store.home / FOLDER
        folder.mkdir(exist_ok=True)
        return folder

    def loaded(self, ref: ModelRef, roots: tuple[str, ...], fingerprint: str = "") -> LoadedModel:
        """The model, from memory if it is there; ``ModelError`` if it is no longer the one with ``fingerprint``."""
        runner = self._runner
        model = runner.warm.get(ref, roots, fingerprint)
        if model is None:
            load = runner.function("load", self._job)
            runner.store.jobs.report(self._job.id, message="Loading the model")
            model = runner.warm.load(load, ref, roots, fingerprint)
            runner.store.jobs.report(self._job.id, message="")
        return model


def _roots_of(request: Request) -> tuple[str, ...]:
    roots: tuple[str, ...] = getattr(request, "roots", ())
    return roots


def _prepare_torch() -> None:
    """Load PyTorch with all cores but one, which stays with the dashboard."""
    import torch

    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    torch.set_num_threads(max(1, cores - 1))


def _out_of_memory(error: Exception) -> bool:
    """PyTorch has an error of its own on a GPU, and a plain ``RuntimeError`` on a CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
