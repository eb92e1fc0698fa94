"""Job functions without an engine, for tests of the machinery; the worker takes them by ``--jobs``.

They run with the home folder as working folder and are steered by files there: a long job goes on as long as there is
a file ``hold``. A seed names what goes wrong.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from quant_core.errors import EndpointError, JobError
from quant_core.evaluation.recommend import recommend
from quant_core.jobs.context import Context
from quant_core.schema import (
    Catalog,
    CatalogRequest,
    Check,
    CheckRequest,
    Divergence,
    EvaluateRequest,
    Evaluation,
    GenerateRequest,
    Generation,
    InspectRequest,
    LayerRequest,
    LossEvent,
    ModelInfo,
    ModelRef,
    Proof,
    ProveRequest,
    ScoreTable,
    SensitivityRequest,
    TokenEvent,
    Training,
    TrainRequest,
    replace,
)
from tests import made_results

HOLD = "hold"
HOLD_SECONDS = 60.0
PLAIN, DEFECT, NO_MEMORY, DEATH = 101, 102, 103, 104


def load(ref: ModelRef, roots: tuple[str, ...]) -> Any:
    with Path("loads").open("a", encoding="utf-8") as file:
        file.write(f"{ref.source}\n")
    return SimpleNamespace(info=replace(made_results.model(), ref=ref))


def inspect(context: Context, request: InspectRequest) -> ModelInfo:
    return context.loaded(request.model, request.roots).info


def sensitivity(context: Context, request: SensitivityRequest) -> ScoreTable:
    info = context.loaded(request.model, request.roots, request.fingerprint).info
    context.progress(0.25, "a quarter is done")
    _go_wrong(request.seed)
    deadline = time.monotonic() + HOLD_SECONDS
    while Path(HOLD).exists() and time.monotonic() < deadline:
        context.progress(0.5, "half is done")
        time.sleep(0.01)
    return replace(made_results.table(info, seed=request.seed), seed=request.seed)


def evaluate(context: Context, request: EvaluateRequest) -> Evaluation:
    context.loaded(request.model, request.roots, request.fingerprint)
    return Evaluation(
        0.1, 0.01, 0.05, 0.9, 12.0, 0.5, 11.0, 0.4, 0.9, request.tokens, 4, "0" * 24, "text", 0.1
    )


def prove(context: Context, request: ProveRequest) -> Proof:
    context.loaded(request.model, request.roots, request.fingerprint)
    rows = tuple((0.1 + 0.01 * place, 0.2 + 0.02 * place) for place in range(len(request.assignments)))
    return Proof(request.fingerprint, rows, request.tokens, "0" * 24, "text", 0.1)


def generate(context: Context, request: GenerateRequest) -> Generation:
    context.loaded(request.model, request.roots, request.fingerprint)
    for index in range(3):
        context.check_cancelled()
        context.emit(TokenEvent("original", index, f"{request.prompt}{index} "))
    return Generation(("a", "b"), (), -1, request.seed, 0.1)


def train(context: Context, request: TrainRequest) -> Training:
    context.loaded(request.model, request.roots, request.fingerprint)
    for step in range(1, 4):
        context.emit(LossEvent(step, 1.0 / step, 512 * step, 0.1 * step))
        context.progress(step / 4, f"step {step}")
    deadline = time.monotonic() + HOLD_SECONDS
    while Path(HOLD).exists() and time.monotonic() < deadline:
        context.progress(0.75, "step 3")
        time.sleep(0.01)
    return made_results.training(request)


def layer(context: Context, request: LayerRequest) -> Any:
    raise JobError(f"There is no weight {request.units[0]!r}.", "Pick another.")


def catalog(context: Context, request: CatalogRequest) -> Catalog:
    return Catalog(())


def check(context: Context, request: CheckRequest) -> Check:
    context.loaded(request.model, request.roots, request.fingerprint)
    if request.endpoint.model == "down":
        raise EndpointError("Nothing answers.", "Start it.")
    near, far = Divergence(0.02, 0.005, 0.01, 0.03), Divergence(0.4, 0.02, 0.36, 0.44)
    return Check(near, far, 0.97, request.k, 0.9, "made", 120, 8, 121, "0" * 24, "text", 0.1)


def _go_wrong(seed: int) -> None:
    if seed == PLAIN:
        raise JobError("The text is too short.", "Paste more.")
    if seed == DEFECT:
        raise ZeroDivisionError("oh dear")
    if seed == NO_MEMORY:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
    if seed == DEATH and not Path("died").exists():
        Path("died").touch()
        os._exit(9)


JOBS = {
    "load": load,
    "inspect": inspect,
    "sensitivity": sensitivity,
    "evaluate": evaluate,
    "prove": prove,
    "generate": generate,
    "train": train,
    "layer": layer,
    "catalog": catalog,
    "check": check,
    "recommend": recommend,
}
