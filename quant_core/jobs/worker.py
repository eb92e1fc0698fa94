"""The process that does the work: ``python -m quant_core.jobs.worker --home DIR``.

It is started by whoever asks for work and finds none (``quant_core.jobs.client``), and outlives them. It takes jobs
one at a time, interactive ones first, then the oldest; keeps the last model in memory; and ends after half an hour
without work (``QUANTLENS_WORKER_IDLE`` seconds), when it is told to (SIGTERM), or to make room for a worker of an
updated program. It runs at low priority so that the dashboard stays quick.

``--jobs module:NAME`` takes the job functions from another mapping like ``JOBS``, for tests and extensions.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from quant_core.jobs.runner import Functions, Runner
from quant_core.store import Store
from quant_core.store.jobs import LOST

log = logging.getLogger(__name__)

JOBS: Functions = {
    "load": "quant_core.models.loading:load",
    "inspect": "quant_core.models.inspect:inspect",
    "layer": "quant_core.evaluation.layer:layer_view",
    "window": "quant_core.evaluation.window:window",
    "channels": "quant_core.evaluation.channels:channels",
    "inputs": "quant_core.evaluation.channels:inputs",
    "clip": "quant_core.evaluation.clip_sweep:clip_sweep",
    "weights": "quant_core.evaluation.weights:weights",
    "generate": "quant_core.evaluation.generation:generate",
    "attribute": "quant_core.evaluation.attribution:attribute",
    "catalog": "quant_core.methods.catalog:catalog",
    "sensitivity": "quant_core.sensitivity.run:run",
    "rescore": "quant_core.sensitivity.rescore:rescore",
    "train": "quant_core.methods.training.run:train",
    "prove": "quant_core.evaluation.proof:prove",
    "evaluate": "quant_core.evaluation.quality:evaluate",
    "prompts": "quant_core.evaluation.prompts:prompts",
    "choices": "quant_core.evaluation.choices:choices",
    "tails": "quant_core.evaluation.tails:tails",
    "speed": "quant_core.evaluation.speed:speed",
    "runtime_speed": "quant_core.evaluation.runtime_speed:runtime_speed",
    "recommend": "quant_core.evaluation.recommend:recommend",
    "export": "quant_core.export.run:export",
    "import": "quant_core.checkpoints.run:read",
    "check": "quant_core.evaluation.check:check",
    "served": "quant_core.evaluation.served_text:served_text",
    "look": "quant_core.models.hub:look",
    "download": "quant_core.models.hub:download",
}

ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_ETAG_TIMEOUT": "5",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Quiet libraries that send nothing and, without a network, soon fall back to the local cache."""

IDLE_SECONDS = 1800.0
NICENESS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Work for one home folder until there is nothing left to do; the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="quant_core.jobs.worker", description="Does the work of a home folder."
    )
    parser.add_argument("--home", type=Path, required=True, help="folder of the store")
    parser.add_argument(
        "--jobs", default="", help="other job functions, as module:NAME (for tests and extensions)"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)

    functions = _functions(options.jobs)
    store = Store(options.home)
    try:
        if not store.place.claim(os.getpid()):
            return 0
        store.jobs.fail_all("running", *LOST)
        if hasattr(os, "nice"):
            os.nice(NICENESS)
        runner = Runner(store, functions)
        signal.signal(signal.SIGTERM, lambda number, frame: _stop(runner, number, frame))
        signal.signal(signal.SIGINT, lambda number, frame: _stop(runner, number, frame))
        try:
            _serve(runner, float(os.environ.get("QUANTLENS_WORKER_IDLE", IDLE_SECONDS)))
        finally:
            store.place.clear(os.getpid())
    finally:
        store.close()
    return 0


def _functions(place: str) -> Functions:
    if not place:
        return JOBS
    module, _, name = place.partition(":")
    found: Functions = getattr(importlib.import_module(module), name)
    return found


def _stop(runner: Runner, number: int, frame: FrameType | None) -> None:
    """Have the running job end at its next step; a second signal ends the process at once."""
    runner.stopping = True
    signal.signal(number, signal.SIG_DFL)


def _serve(runner: Runner, idle_seconds: float) -> None:
    """Take jobs until told to stop or to leave, or until there was none for ``idle_seconds``."""
    store = runner.store
    worked = time.monotonic()
    while not runner.stopping and _wanted(store):
        if ticket := store.jobs.take():
            runner.run(ticket)
            worked = time.monotonic()
            continue
        idle = time.monotonic() - worked
        if idle > idle_seconds:
            with store.database.transaction():  # whoever asks for work next finds the place empty
                if not store.jobs.active():
                    store.place.clear(os.getpid())
                    return
        time.sleep(min(0.2, 0.02 + idle / 100))


def _wanted(store: Store) -> bool:
    """Whether this process still holds the place in a home folder that still exists."""
    occupant = store.place.occupant()
    holds = occupant is not None and occupant.pid == os.getpid() and not occupant.leave
    return holds and store.database.path.exists()


if __name__ == "__main__":
    sys.exit(main())
