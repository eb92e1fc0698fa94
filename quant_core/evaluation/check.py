"""Is the deployed model still what was approved? An endpoint's predictions against a variant's, on the same tokens.

The endpoint names its k likeliest next tokens at every position of the text (``quant_core.evaluation.endpoint``);
``metrics.top_k_kl`` compares these, and all the rest as one, with what the original and the approved variant predict.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from scipy.stats import t as student
from torch import Tensor

from quant_core.calibration.text import tokenize
from quant_core.evaluation.endpoint import Entry, Server
from quant_core.evaluation.quality import passes
from quant_core.jobs.context import Context
from quant_core.methods.variant import make_variant
from quant_core.metrics import mean_and_error, top_k_kl
from quant_core.schema import Check, CheckRequest, Divergence


class Named(NamedTuple):
    """What an endpoint named at the positions of a sequence, by the model's own ids."""

    tokens: Tensor
    """Ids (positions, k); -1 where there are fewer."""
    log_probs: Tensor
    """(positions, k), the likeliest first."""


def check(context: Context, request: CheckRequest) -> Check:
    """Ask the endpoint for its predictions, and compare them with the approved variant's and the original's.

    Raises:
        EndpointError: The endpoint cannot be reached, or does not tell what is needed.
    """
    loaded = context.loaded(request.model, request.roots, request.fingerprint)
    tokens = tokenize(context, loaded, request.text, request.tokens, request.sequence)
    begun = time.monotonic()
    tokenizer: Any = loaded.tokenizer
    vocabulary = Vocabulary(tokenizer, loaded.info.vocabulary)
    plain = tokenizer("a", add_special_tokens=False)["input_ids"][-1]
    rows: list[Named] = []
    firsts: list[Tensor] = []
    positions = len(tokens.ids) * (tokens.ids.shape[1] - 1)
    with Server(request.endpoint) as server:
        for ids in tokens.ids.tolist():
            told: list[list[Entry]] = []
            for entries in server.predictions(ids, request.k, plain):
                told.append(entries)
                done = len(rows) * (len(ids) - 1) + len(told)
                context.progress(0.9 * done / positions, f"{done:,} of {positions:,} predictions were told")
            rows.append(vocabulary.named(told))
            firsts.append(torch.tensor([vocabulary.likeliest(entries) for entries in told]))
        served, requests = server.name, server.requests
    variant = make_variant(context, loaded, request.assignment, request.setup)
    approved: list[Tensor] = []
    original: list[Tensor] = []
    same: list[Tensor] = []
    for _, reference, other in passes(context, loaded, variant, tokens):
        for before, after in zip(reference.cpu(), other.cpu(), strict=True):
            row = rows[len(same)]
            approved.append(top_k_kl(after, *row).mean())
            original.append(top_k_kl(before, *row).mean())
            same.append((after.argmax(dim=-1) == firsts[len(same)]).double().mean())
    shares = [(row.log_probs.exp() * (row.tokens >= 0)).sum(dim=-1).mean() for row in rows]
    unknown = (
        f"{vocabulary.unknown:,} of {vocabulary.told:,} tokens that the endpoint named are not told apart in this "
        "model's vocabulary, and count among the rest.",
    )
    return Check(
        approved=_divergence(torch.stack(approved)),
        original=_divergence(torch.stack(original)),
        top1_agreement=float(torch.stack(same).mean()),
        k=max(row.tokens.shape[1] for row in rows),
        coverage=float(torch.stack(shares).mean()),
        served=served,
        tokens=positions,
        sequences=len(rows),
        requests=requests,
        text_hash=tokens.text_hash,
        text_label=tokens.label,
        seconds=time.monotonic() - begun,
        notes=(*variant.notes, *(unknown if vocabulary.unknown else ())),
    )


def _divergence(per_sequence: Tensor) -> Divergence:
    """Mean of sequences (n,) with Student's interval."""
    mean, stderr = mean_and_error(per_sequence)
    half = stderr * float(student.ppf(0.975, max(1, len(per_sequence) - 1)))
    return Divergence(mean, stderr, max(0.0, mean - half), mean + half)


class Vocabulary:
    """Finds the tokens that a server named among a model's own: by id where it told one, else by their text."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        self._tokenizer = tokenizer
        self._size = size
        self.told = 0
        """Tokens that were looked for."""
        self.unknown = 0
        """Those of them that are not known, or share their text with others."""

    def named(self, told: Sequence[Sequence[Entry]]) -> Named:
        """What was told at each position, the likeliest first."""
        rows = [self._row(entries) for entries in told]
        width = max(1, *(len(row) for row in rows))
        tokens = torch.full((len(rows), width), -1, dtype=torch.long)
        log_probs = torch.zeros(len(rows), width, dtype=torch.float64)
        for place, row in enumerate(rows):
            for column, (token, value) in enumerate(row.items()):
                tokens[place, column], log_probs[place, column] = token, value
        return Named(tokens, log_probs)

    def _row(self, entries: Sequence[Entry]) -> dict[int, float]:
        found: dict[int, float] = {}
        for entry in entries:
            token = self._find(entry)
            self.told += 1
            if 0 <= token < self._size and token not in found:
                found[token] = entry.log_prob
            else:
                self.unknown += 1
        return found

    def likeliest(self, entries: Sequence[Entry]) -> int:
        """The token of the greatest probability; -1 where nothing was named, or that one is not known here."""
        best = max(entries, key=lambda entry: entry.log_prob, default=None)
        token = -1 if best is None else self._find(best)
        return token if token < self._size else -1

    def _find(self, entry: Entry) -> int:
        return self._by_text.get(entry.text, -1) if entry.token is None else entry.token

    @cached_property
    def _by_text(self) -> dict[str, int]:
        """The id of every text that only one token has."""
        found: dict[str, int] = {}
        for token in range(min(self._size, len(self._tokenizer))):
            text = self._tokenizer.decode([token])
            found[text] = -1 if text in found or "\ufffd" in text else token
        return found
