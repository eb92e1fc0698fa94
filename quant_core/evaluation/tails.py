"""How a recipe's KL divergence is spread over the tokens of a text: a histogram, its tail, and the worst tokens."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quant_core.calibration.text import tokenize
from quant_core.evaluation.quality import passes
from quant_core.jobs.context import Context
from quant_core.methods.variant import make_variant
from quant_core.metrics import kl_divergence
from quant_core.schema import Guess, KlTails, TailsRequest, WorstToken

WORST = 10
OVER = 0.1
"""Nats above which a token counts as far off."""
_LOW, _HIGH, _DECADE = -7, 2, 5
"""The histogram goes from 10^_LOW to 10^_HIGH nats, with _DECADE bins a factor of ten."""
_BEFORE = 24
"""Tokens of context that are shown with a token."""
_GUESSES = 3


class _Place(NamedTuple):
    """One of the worst places so far; what makes its text is kept, not the logits."""

    kl: float
    row: int
    column: int
    token: WorstToken


def tails(context: Context, request: TailsRequest) -> KlTails:
    """Measure every predicted position, as ``evaluate`` does, and describe how the divergences are spread."""
    loaded = context.loaded(request.model, request.roots, request.fingerprint)
    tokens = tokenize(context, loaded, request.text, request.tokens, request.sequence)
    begun = time.monotonic()
    context.progress(0.0, "Rounding the weights")
    variant = make_variant(context, loaded, request.assignment, request.setup)
    parts: list[Tensor] = []
    worst: list[_Place] = []
    first = 0
    for ids, reference, other in passes(context, loaded, variant, tokens):
        kl = kl_divergence(reference, other).clamp(min=0.0).cpu()
        parts.append(kl.flatten())
        top = kl.flatten().topk(min(WORST, kl.numel())).indices.tolist()
        for row, column in (divmod(index, kl.shape[1]) for index in top):
            value = float(kl[row, column])
            if len(worst) == WORST and value <= worst[0].kl:
                break
            token = _worst(
                loaded.tokenizer, ids[row], column, value, reference[row, column], other[row, column]
            )
            place = _Place(value, first + row, column, token)
            (heapq.heappushpop if len(worst) == WORST else heapq.heappush)(worst, place)
        first += len(ids)
    found = torch.cat(parts).double().sort().values
    edges = [10 ** (_LOW + step / _DECADE) for step in range((_HIGH - _LOW) * _DECADE + 1)]
    return KlTails(
        edges=tuple(edges),
        counts=histogram(found, edges),
        mean=float(found.mean()),
        median=float(found.quantile(0.5)),
        p90=quantile(found, 0.9),
        p99=quantile(found, 0.99),
        p999=quantile(found, 0.999),
        maximum=float(found[-1]),
        over=float((found > OVER).double().mean()),
        worst=tuple(place.token for place in sorted(worst, reverse=True)),
        tokens=len(found),
        text_hash=tokens.text_hash,
        text_label=tokens.label,
        seconds=time.monotonic() - begun,
        notes=variant.notes,
    )


def quantile(ordered: Tensor, share: float) -> float:
    """The least of rising values (n,) that at least ``share`` of them do not exceed."""
    return float(ordered[math.ceil(share * len(ordered)) - 1])


def histogram(ordered: Tensor, edges: Sequence[float]) -> tuple[int, ...]:
    """How many of rising values (n,) each bin holds, its lower edge in it; the outer bins take what is beyond."""
    inner = torch.searchsorted(ordered, torch.tensor(edges[1:-1], dtype=torch.float64)).tolist()
    bounds = [0, *inner, len(ordered)]
    return tuple(high - low for low, high in pairwise(bounds))


def _worst(
    tokenizer: Any, ids: Tensor, column: int, kl: float, reference: Tensor, other: Tensor
) -> WorstToken:
    """The place that log-probabilities (vocabulary,) of both predict; ``ids`` (length,) are the sequence's tokens."""
    there = int(ids[column + 1])
    before = ids[max(0, column + 1 - _BEFORE) : column + 1].tolist()
    return WorstToken(
        before=tokenizer.decode(before, skip_special_tokens=True),
        token=tokenizer.decode([there]),
        kl=kl,
        original=_guesses(tokenizer, reference),
        recipe=_guesses(tokenizer, other),
        original_chance=float(reference[there].exp()),
        recipe_chance=float(other[there].exp()),
    )


def _guesses(tokenizer: Any, log_probs: Tensor) -> tuple[Guess, ...]:
    top = log_probs.exp().topk(min(_GUESSES, len(log_probs)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return tuple(Guess(tokenizer.decode([token]), chance) for token, chance in pairs)
