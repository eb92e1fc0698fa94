"""Finalists proved: several recipes measured on the same tokens, so that their differences can be told from noise.

Each sequence of the text is as hard for one recipe as for the other, so that the differences between recipes vary much
less than their KL does; ``allocation.proof`` ranks by that. A recipe that is done is kept in a file until all are, so
that a job that was stopped goes on with the next one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from quant_core.calibration.batches import batch_rows
from quant_core.calibration.interruption import interruptible
from quant_core.calibration.text import Tokens, tokenize
from quant_core.errors import QuantError
from quant_core.jobs.context import Context
from quant_core.methods.variant import Variant, make_variant
from quant_core.metrics import Baseline
from quant_core.models.loading import LoadedModel
from quant_core.models.memory import free_memory
from quant_core.schema import Proof, ProveRequest
from quant_core.sensitivity.points import Points
from quant_core.store.keys import request_key

_SHARE = 0.25
"""Share of the free memory that what the original predicts may take; what does not fit is computed for each recipe."""


def prove(context: Context, request: ProveRequest) -> Proof:
    """Measure every recipe of the request, at the positions that ``evaluate`` measures it.

    Raises:
        QuantError: There is no recipe, or one does not suit the model.
        Cancelled: The job was stopped; the recipes that were done are kept for its next start.
    """
    if not request.assignments:
        raise QuantError("There is no recipe to measure.", "Give one or more.")
    loaded = context.loaded(request.model, request.roots, request.fingerprint)
    tokens = tokenize(context, loaded, request.text, request.tokens, request.sequence)
    begun = time.monotonic()
    sequences, length = tokens.ids.shape
    count = len(request.assignments)
    points = Points(
        context.folder(), request_key(request), (count, 1, sequences), {"text_hash": tokens.text_hash}
    )
    original = _Original(loaded, tokens)
    notes: list[str] = []
    for index, assignment in enumerate(request.assignments):
        if points.done[index].all():
            continue
        said = f"recipe {index + 1} of {count}"
        context.progress(index / count, f"{said}: rounding the weights")
        variant = make_variant(context, loaded, assignment, request.setup)
        notes += variant.notes
        _measure(context, variant, original, points, index, said)
        points.save()
    for index, bad in enumerate(points.bad.sum(dim=(1, 2)).tolist()):
        if bad:
            where = f"at {bad:,} positions, which count as ln(vocabulary)"
            notes.append(f"Recipe {index + 1} gave no finite logits {where}.")
    points.close()
    return Proof(
        fingerprint=request.fingerprint,
        kl=tuple(map(tuple, points.kl[:, 0].tolist())),
        tokens=sequences * (length - 1),
        text_hash=tokens.text_hash,
        text_label=tokens.label,
        seconds=time.monotonic() - begun,
        notes=tuple(dict.fromkeys(notes)),
    )


def _measure(
    context: Context, variant: Variant, original: _Original, points: Points, index: int, said: str
) -> None:
    """KL of one recipe on every sequence; taken only when all are there, so that half a recipe is none."""
    count, sequences = len(points.kl), points.kl.shape[-1]
    found, missed = [], []
    for batch, ids in original.batches():
        share = (index + batch.start / sequences) / count
        context.progress(share, f"{said}: sequence {batch.start + 1} of {sequences}")
        with interruptible(context, original.loaded):
            baseline = original.baseline(batch, ids)
        with torch.no_grad(), interruptible(context, variant.loaded), variant.active() as changed:
            model: Any = changed
            kl, bad = baseline.counted(model(ids, use_cache=False).logits[:, :-1])
        found.append(kl.mean(dim=-1))
        missed.append(bad.sum(dim=-1))
    points.put(index, 0, slice(0, sequences), torch.cat(found), torch.cat(missed))


class _Original:
    """What the original predicts, batch by batch, kept as long as there is memory."""

    def __init__(self, loaded: LoadedModel, tokens: Tokens) -> None:
        self.loaded = loaded
        self._ids = tokens.ids.to(loaded.device)
        self._rows = batch_rows(loaded, tokens.ids.shape[1], 1)
        self._room = free_memory(loaded.device) * _SHARE
        self._kept: dict[int, Baseline] = {}

    def batches(self) -> Iterator[tuple[slice, Tensor]]:
        """Which sequences, and their tokens (sequences, length)."""
        for start in range(0, len(self._ids), self._rows):
            batch = slice(start, min(start + self._rows, len(self._ids)))
            yield batch, self._ids[batch]

    def baseline(self, batch: slice, ids: Tensor) -> Baseline:
        """The original's predictions of a batch."""
        if batch.start in self._kept:
            return self._kept[batch.start]
        model: Any = self.loaded.model
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[:, :-1]
        made = Baseline(logits)
        self._room -= 2 * 4 * logits.numel()  # logits and chances, float32
        if self._room >= 0:
            self._kept[batch.start] = made
        return made
