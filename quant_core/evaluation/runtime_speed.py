"""How fast an exported recipe is where it is deployed: its files and the original's, run in turns in one runtime.

Each runs in a process of its own (``quant_core.runtimes``), so that resident memory is the runtime's and not ours. Both
read the same tokens and write as many behind them. They take turns in every round, so that what disturbs the machine
disturbs both; the first round warms up and does not count.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psutil

from quant_core.errors import ExportError, JobError
from quant_core.evaluation.speed import middle, prompt_ids
from quant_core.jobs.context import ChainContext
from quant_core.jobs.origin import origin_now
from quant_core.models.sources import check, locate, title_of, weight_files
from quant_core.quantities import size as in_words
from quant_core.runtimes import RUNTIMES, Engine, Round, Runtime, Task
from quant_core.schema import ExportRequest, RuntimeSpeed, RuntimeSpeedRequest, RuntimeSpeeds

WRITTEN = 0.3
"""Share of the progress that is given to writing files."""


class _Files(NamedTuple):
    folder: Path
    size: int
    """Bytes of those that hold the weights."""


def runtime_speed(context: ChainContext, request: RuntimeSpeedRequest) -> RuntimeSpeeds:
    """Write what is not there, then time the recipe's files and the original's.

    Raises:
        ExportError: The runtime cannot hold the recipe, or its files cannot be written or are gone.
        JobError: The runtime is not here, has not enough memory, or fails.
        TextError: Prompt and text exceed the model's context.
    """
    runtime = RUNTIMES[request.runtime]
    found = runtime.found()
    if not found.version:
        raise JobError(found.why, f"Install it: {found.remedy}")
    loaded = context.loaded(request.model, request.roots, request.fingerprint)
    ids = prompt_ids(loaded, request.prompt, request.tokens)[0].tolist()
    begun = time.monotonic()
    checkpoint = check(locate(request.model, request.roots), title_of(request.model))
    ours = _written(context, request.export, runtime, 0.0)
    if request.original is None:
        theirs = _Files(checkpoint.folder, _size(checkpoint.folder, checkpoint.title, runtime))
    else:
        theirs = _written(context, request.original, runtime, WRITTEN / 2)
    free = psutil.virtual_memory().available
    together = ours.size + theirs.size <= free
    notes = () if together else (
        f"The original was not run beside it: both take {in_words(ours.size + theirs.size)}, and {in_words(free)} of "
        "memory are free.",
    )  # fmt: skip
    made_on = origin_now(runtime.device(str(loaded.device)))
    threads = made_on.threads
    tasks = [
        Task(str(files.folder), tuple(ids), request.tokens, threads, made_on.device)
        for files in ((ours, theirs) if together else (ours,))
    ]
    sides = _run(context, runtime, tasks, request.repeats)
    measured = [figures(rounds, files.size, engine.libraries, engine.peak)
                for (engine, rounds), files in zip(sides, (ours, theirs), strict=False)]  # fmt: skip
    return RuntimeSpeeds(
        runtime=runtime.name,
        version=found.version,
        recipe=measured[0],
        original=measured[1] if together else None,
        prompt=len(ids),
        tokens=request.tokens,
        repeats=request.repeats,
        dtype=checkpoint.dtype,
        hardware=made_on.hardware,
        device=made_on.device,
        threads=threads,
        seconds=time.monotonic() - begun,
        notes=notes,
    )


def _written(context: ChainContext, request: ExportRequest, runtime: Runtime, start: float) -> _Files:
    """An export, written where it is not there; progress from ``start`` on."""
    done = context.answer(request, start, start + WRITTEN / 2)
    folder = Path(done.folder)
    if not folder.is_dir():
        raise ExportError(f"{folder} is gone.", "Export the recipe again.")
    return _Files(folder, _size(folder, folder.name, runtime))


def _size(folder: Path, title: str, runtime: Runtime) -> int:
    """Bytes of the files with weights."""
    try:
        files = [folder / "model.gguf"] if runtime.target == "gguf" else weight_files(folder, title)
        return sum(file.stat().st_size for file in files)
    except OSError as error:
        raise ExportError(f"{error.filename} cannot be read.", "Export the recipe again.") from error


def _run(
    context: ChainContext, runtime: Runtime, tasks: Sequence[Task], repeats: int
) -> list[tuple[Engine, list[Round]]]:
    """The engines, ended, with the rounds of each that count."""
    with ExitStack() as stack:
        sides: list[tuple[Engine, list[Round]]] = []
        for task in tasks:
            context.progress(WRITTEN, f"Loading {Path(task.folder).name} in {runtime.title}")
            engine = stack.enter_context(Engine(runtime, task, context.check_cancelled))
            engine.load()
            sides.append((engine, []))
        for number in range(repeats + 1):
            doing = f"round {number} of {repeats}" if number else "warming up"
            for place, (engine, rounds) in enumerate(sides):
                done = (number * len(sides) + place) / ((repeats + 1) * len(sides))
                context.progress(WRITTEN + (1 - WRITTEN) * done, f"{runtime.title}: {doing}")
                found = engine.round()
                if number:
                    rounds.append(found)
    return sides


def figures(rounds: Sequence[Round], size: int, libraries: int, resident: int) -> RuntimeSpeed:
    """Tokens a second from tokens and seconds: a rate a round, then the median, least and most of the rates."""
    return RuntimeSpeed(
        prompt=middle([one.read / one.reading for one in rounds]),
        decode=middle([one.written / one.writing for one in rounds]),
        size=size,
        libraries=libraries,
        resident=resident,
        gpu=max(one.gpu for one in rounds),
    )
