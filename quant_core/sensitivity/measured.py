"""The measured score: quantize one unit, run the model, and take the KL divergence to the original.

This is what the other scores try to predict, at the price of a forward pass for each unit and format. The pass is made
short: what lies before the unit answers as it did for the original (``models.prefix``), on a GPU several formats of a
unit go through the rest in one batch, and the KL comes straight from the logits (``metrics.Baseline``).

Points are kept in a file until the sweep is done, so that one that was stopped goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quant_core.calibration.batches import batch_rows
from quant_core.calibration.interruption import interruptible
from quant_core.calibration.text import Tokens
from quant_core.errors import Cancelled, ModelError
from quant_core.jobs.context import Context
from quant_core.metrics import Baseline
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel
from quant_core.models.memory import free_memory, out_of_memory
from quant_core.models.patch import bypassed, patched, stackable, stacked, swap
from quant_core.models.prefix import Prefix
from quant_core.sensitivity.errors import RoundingErrors
from quant_core.sensitivity.points import Points

_CACHED = 512
"""Tokens of a batch on a CPU: what is computed of so many fits into its cache."""
_SHARE = 0.25
"""Share of the free memory that the logits of a batch, or the rounded weights of a sweep, may take."""


@dataclass(frozen=True)
class Sweep:
    """What is measured: units in formats on some text."""

    loaded: LoadedModel
    tokens: Tokens
    slots: Sequence[Slot]
    errors: RoundingErrors

    def rows(self) -> int:
        """Sequences in a batch."""
        length = self.tokens.ids.shape[1]
        most = batch_rows(self.loaded, length, 1)
        weights = 4 * sum(slot.unit.parameters for slot in self.slots) * len(self.errors.formats)
        device = self.loaded.device
        if device.type != "cpu" or weights > free_memory(device) * _SHARE:  # each batch would round them anew
            return most
        return min(most, max(1, _CACHED // length))

    def copies(self, rows: int) -> int:
        """Formats of a unit that go through the model in one batch; a CPU gains nothing from more than one."""
        device = self.loaded.device
        if device.type == "cpu" or not stackable(self.loaded.graph):
            return 1
        logits = 4 * rows * self.tokens.ids.shape[1] * self.loaded.info.vocabulary
        room = free_memory(device) * _SHARE / (4 * logits)
        return max(1, min(len(self.errors.formats), int(room)))


def measure_layers(
    context: Context, sweep: Sweep, points: Points, rows: int = 0, copies: int = 0
) -> tuple[str, ...]:
    """Measure every point that ``points`` has not yet.

    Positions without finite logits count as ``Baseline.counted`` says, and are named in what is returned.

    Args:
        context: For progress and cancel.
        sweep: What to measure.
        points: Takes the KL of every unit in every format, by sequence.
        rows: Sequences in a batch; 0 for what suits the device.
        copies: Formats in a batch; 0 for what suits the device.

    Returns:
        What went otherwise than asked, a sentence each.

    Raises:
        Cancelled: The job was stopped; what was measured is in the file of ``points``.
        ModelError: One sequence alone is too large for the memory.
    """
    rows = rows or sweep.rows()
    ids = sweep.tokens.ids.to(sweep.loaded.device)
    halved = False
    try:
        with interruptible(context, sweep.loaded):
            prefix = Prefix(sweep.loaded, sweep.slots, ids[:1])
        start = 0
        while start < len(ids):
            where = slice(start, min(start + rows, len(ids)))
            if points.done[:, :, where].all() or _measured(context, sweep, points, prefix, where, copies):
                start = where.stop
                continue
            rows, halved = (where.stop - start) // 2, True
            if not rows:
                raise ModelError(
                    f"The memory does not hold one sequence of {ids.shape[1]:,} tokens.",
                    "Choose shorter sequences or another device.",
                )
            context.progress(points.share, f"Out of memory: going on with {rows} sequences at a time")
    except Cancelled:
        points.save()
        raise
    notes = points.notes(
        [slot.unit.name for slot in sweep.slots], [form.name for form in sweep.errors.formats]
    )
    if halved:
        notes += (f"Memory ran out, so the rest was measured with {rows} sequences at a time.",)
    if not prefix.safe:
        notes += (
            "What this model computes before a unit cannot be kept, so that every point ran all of it.",
        )
    return notes


def _measured(
    context: Context, sweep: Sweep, points: Points, prefix: Prefix, where: slice, copies: int
) -> bool:
    """Measure the sequences ``where``; False if the memory does not hold so many."""
    try:
        ids = sweep.tokens.ids[where].to(sweep.loaded.device)
        part = ids.repeat(copies or sweep.copies(len(ids)), 1)
        _Batch(context, sweep, points, prefix, where, part).measure()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        return False
    return True


class _Batch:
    """Some sequences: ``where`` among all, and ``ids`` (copies x sequences, length), once for each format at a time."""

    def __init__(
        self, context: Context, sweep: Sweep, points: Points, prefix: Prefix, where: slice, ids: Tensor
    ) -> None:
        self._context, self._sweep, self._points = context, sweep, points
        self._prefix, self._where, self._ids = prefix, where, ids
        self._copies = len(ids) // (where.stop - where.start)
        with interruptible(context, sweep.loaded):
            self._logits = prefix.begin(ids)
        self._baseline = Baseline(self._logits)

    def measure(self) -> None:
        """Measure every point that is missing."""
        formats = self._sweep.errors.formats
        for row, slot in enumerate(self._sweep.slots):
            missing = [
                column
                for column in range(len(formats))
                if not self._points.done[row, column, self._where].all()
            ]
            for first in range(0, len(missing), self._copies):
                columns = missing[first : first + self._copies]
                names = ", ".join(formats[column].name for column in columns)
                self._context.progress(self._points.share, f"{self._points}: {slot.unit.name} in {names}")
                matrices = [
                    slot.matrix() + self._sweep.errors.of(slot, formats[column]) for column in columns
                ]
                kl, bad = self._divergence(slot, matrices)
                for place, column in enumerate(columns):
                    self._points.put(row, column, self._where, kl[place], bad[place])

    def _divergence(self, slot: Slot, matrices: list[Tensor]) -> tuple[Tensor, Tensor]:
        """KL of a unit's matrices in nats a token, and positions without finite logits, (matrices, sequences) each."""
        matrices = matrices + matrices[-1:] * (self._copies - len(matrices))
        loaded = self._sweep.loaded
        with interruptible(self._context, loaded):
            answers = self._prefix.answers(slot, self._logits)
            with torch.no_grad(), bypassed(answers), _changed(loaded, slot, matrices):
                model: Any = loaded.model
                kl, bad = self._baseline.counted(model(self._ids, use_cache=False).logits)
        shape = (self._copies, -1, kl.shape[-1])
        return kl.view(shape).mean(dim=-1), bad.view(shape).sum(dim=-1)


def _changed(loaded: LoadedModel, slot: Slot, matrices: Sequence[Tensor]) -> AbstractContextManager[None]:
    """Have a unit stand for one matrix, or for several, each for its share of the batch."""
    if len(matrices) == 1:
        return patched(swap(loaded.graph, {slot.unit.name: matrices[0]}))
    return stacked(loaded.graph, slot.unit.name, [matrix.to(slot.parameter.dtype) for matrix in matrices])
