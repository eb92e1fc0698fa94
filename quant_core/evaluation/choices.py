"""Multiple choice: which of some answers a model finds likeliest behind a question.

Each choice is scored by the log-likelihood of its tokens behind the context, as EleutherAI's lm-evaluation-harness
does it (Gao et al. 2021; ``multiple_choice`` tasks, ``TemplateLM._encode_pair``): context and choice are joined by a
space, tokenized together, and the tokens behind the context's own are the choice's. A context that does not fit the
model loses its beginning.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quant_core.calibration.batches import batch_rows
from quant_core.calibration.text import check_ids
from quant_core.jobs.context import Context
from quant_core.methods.variant import Variant, make_variant
from quant_core.metrics import log_probabilities, negative_log_likelihood
from quant_core.models.loading import LoadedModel
from quant_core.schema import ChoiceScores, ChoicesRequest, Matrix, Question


class _Row(NamedTuple):
    """A choice behind its context, as tokens."""

    ids: list[int]
    choice: int
    """How many tokens at the end are the choice's."""
    cut: bool


def choices(context: Context, request: ChoicesRequest) -> ChoiceScores:
    """Score every choice with the original and with the recipe."""
    loaded = context.loaded(request.model, request.roots, request.fingerprint)
    begun = time.monotonic()
    questions = [[_row(loaded, question.context, choice) for choice in question.choices]
                 for question in request.questions]  # fmt: skip
    rows = [row for question in questions for row in question]
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids), reverse=True)
    context.progress(0.0, "Rounding the weights")
    variant = make_variant(context, loaded, request.assignment, request.setup)
    plain = Variant(loaded, {}, ())
    scores: dict[int, tuple[float, float]] = {}
    start = 0
    while start < len(order):
        context.progress(start / len(order), f"{start:,} of {len(order):,} choices")
        step = batch_rows(loaded, len(rows[order[start]].ids), 1)
        batch = order[start : start + step]
        found = [likelihoods(one, [rows[index] for index in batch]) for one in (plain, variant)]
        scores.update(zip(batch, zip(*found, strict=True), strict=True))
        start += step
    return ChoiceScores(
        original=_table(request.questions, [scores[index][0] for index in range(len(rows))]),
        recipe=_table(request.questions, [scores[index][1] for index in range(len(rows))]),
        cut=sum(any(row.cut for row in question) for question in questions),
        seconds=time.monotonic() - begun,
        notes=variant.notes,
    )


def _row(loaded: LoadedModel, before: str, choice: str) -> _Row:
    tokenizer: Any = loaded.tokenizer
    before, choice = before.rstrip(), f" {choice.lstrip()}"
    whole: list[int] = list(tokenizer(before + choice)["input_ids"])
    check_ids(loaded, torch.tensor(whole))
    count = max(1, len(whole) - len(tokenizer(before)["input_ids"]))
    limit = loaded.info.context_length or len(whole)
    return _Row(whole[-limit:], min(count, limit - 1), len(whole) > limit)


def likelihoods(variant: Variant, rows: Sequence[_Row]) -> list[float]:
    """Log-likelihood of each row's choice in nats; rows are padded at their ends, which no earlier token sees."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    counted = torch.zeros(len(rows), width - 1, dtype=torch.bool)
    for place, row in enumerate(rows):
        ids[place, : len(row.ids)] = torch.tensor(row.ids)
        counted[place, len(row.ids) - 1 - row.choice : len(row.ids) - 1] = True
    ids = ids.to(variant.loaded.device)
    with torch.no_grad(), variant.active() as model:
        run: Any = model
        logits: Tensor = run(ids, use_cache=False).logits[:, :-1]
    likely = -negative_log_likelihood(log_probabilities(logits), ids[:, 1:]).cpu()
    found: list[float] = torch.where(counted, likely.double(), 0.0).sum(dim=1).nan_to_num(-1e9).tolist()
    return found


def _table(questions: Sequence[Question], scores: Sequence[float]) -> Matrix:
    rest = iter(scores)
    return tuple(tuple(next(rest) for _ in question.choices) for question in questions)
