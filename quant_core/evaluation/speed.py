"""How fast variants run, how much memory is in use meanwhile and, on an NVIDIA GPU, what a token takes in energy.

Quantization is simulated: weights are rounded and computed with in 16 or 32 bits, so a variant is no faster than the
original; a runtime with kernels for its formats is another matter. Variants take turns in every round, so that what
disturbs the machine disturbs them all; the first round warms up and does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor

from quant_core.calibration.text import bundled_text, check_ids
from quant_core.errors import TextError
from quant_core.evaluation.energy import energy_counter
from quant_core.jobs.context import Context
from quant_core.jobs.origin import origin_now
from quant_core.methods.variant import Variant, variants_of
from quant_core.models.loading import LoadedModel
from quant_core.schema import Speed, SpeedRequest, Speeds

IDLE_SECONDS = 1.0
"""How long the power of the idle machine is measured."""
SHORTEST = 1.0
"""Seconds of writing below which the counter of energy, which moves in steps, is not trusted."""

Counter = Callable[[], float]


class _Round(NamedTuple):
    """One variant in one round: seconds of reading the prompt and of writing, joules of writing, peak bytes."""

    reading: float
    writing: float
    joules: float
    peak: int


def speed(context: Context, request: SpeedRequest) -> Speeds:
    """Time every variant reading a prompt and writing the likeliest tokens behind it."""
    loaded = context.loaded(request.model, request.roots, request.fingerprint)
    begun = time.monotonic()
    ids = prompt_ids(loaded, request.prompt, request.tokens)
    context.progress(0.0, "Rounding the weights")
    variants = variants_of(context, loaded, request.variants)
    counter = energy_counter(loaded.device)
    idle = _idle(counter) if counter else None
    rounds: list[list[_Round]] = [[] for _ in variants]
    for number in range(request.repeats + 1):
        doing = f"round {number} of {request.repeats}" if number else "warming up"
        for place, variant in enumerate(variants):
            done = (number * len(variants) + place) / ((request.repeats + 1) * len(variants))
            context.progress(done, doing)
            found = _run(variant, ids, request.tokens, counter)
            if number:
                rounds[place].append(found)
    made_on = origin_now(str(loaded.device))
    notes = dict.fromkeys(note for variant in variants for note in variant.notes)
    return Speeds(
        variants=tuple(_speed(one, request, idle) for one in rounds),
        prompt=request.prompt,
        tokens=request.tokens,
        repeats=request.repeats,
        dtype=loaded.info.compute_dtype,
        hardware=made_on.hardware,
        device=made_on.device,
        threads=made_on.threads,
        idle=idle,
        seconds=time.monotonic() - begun,
        notes=tuple(notes),
    )


def prompt_ids(loaded: LoadedModel, prompt: int, tokens: int) -> Tensor:
    """The beginning of the bundled evaluation text (1, prompt); ``TextError`` if ``tokens`` more are too many."""
    limit = loaded.info.context_length
    if limit and prompt + tokens > limit:
        raise TextError(
            f"{prompt} tokens of prompt and {tokens} written exceed the model's {limit}.",
            "Measure with fewer.",
        )
    tokenizer: Any = loaded.tokenizer
    ids = torch.tensor(tokenizer(bundled_text("evaluation"))["input_ids"][:prompt], dtype=torch.long)
    check_ids(loaded, ids)
    return ids[None].to(loaded.device)


def _idle(counter: Counter) -> float:
    """Watts that the machine takes with the model in memory and nothing to do."""
    before, begun = counter(), time.perf_counter()
    time.sleep(IDLE_SECONDS)
    return (counter() - before) / (time.perf_counter() - begun)


def _run(variant: Variant, ids: Tensor, tokens: int, counter: Counter | None) -> _Round:
    peak = _Peak(ids.device)
    with torch.no_grad(), variant.active() as model:
        run: Any = model
        begun = time.perf_counter()
        out = run(ids, use_cache=True)
        token = out.logits[:, -1:].argmax(-1)
        int(token)  # a GPU is done only once its answer is here
        first = time.perf_counter()
        peak.look()
        joules = counter() if counter else 0.0
        for _ in range(tokens - 1):
            out = run(token, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
            int(token)
        ended = time.perf_counter()
        joules = counter() - joules if counter else 0.0
        peak.look()
    return _Round(first - begun, ended - first, joules, peak.bytes)


class _Peak:
    """The most memory that was seen."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def look(self) -> None:
        """Look how much is in use."""
        gpu = self._device.type == "cuda"
        now = torch.cuda.max_memory_allocated(self._device) if gpu else psutil.Process().memory_info().rss
        self.bytes = max(self.bytes, now)


def _speed(rounds: Sequence[_Round], request: SpeedRequest, idle: float | None) -> Speed:
    written = request.tokens - 1
    seconds = sum(one.writing for one in rounds)
    joules = None
    if idle is not None and seconds >= SHORTEST:
        taken, count = sum(one.joules for one in rounds), written * len(rounds)
        joules = taken / count, (taken - idle * seconds) / count
    return Speed(
        first=middle([one.reading for one in rounds]),
        prompt=middle([request.prompt / one.reading for one in rounds]),
        decode=middle([written / one.writing for one in rounds]),
        peak=max(one.peak for one in rounds),
        joules=joules,
    )


def middle(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least, most."""
    return median(values), min(values), max(values)
