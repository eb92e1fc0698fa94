"""What enters each unit over the calibration text, summed up: what rounding methods and transforms learn from.

Moments are those of the original model's activations, so that they belong to the model and the text alone: one pass
serves every format, method and recipe. (Methods that walk through the model block by block take the activations of
the blocks already quantized instead; that ties a unit's rounding to all choices before it.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from quant_core.calibration.batches import batch_rows, label_gradient, label_uniforms
from quant_core.calibration.capture import Product, capture
from quant_core.calibration.inputs import SAMPLES, Inputs
from quant_core.calibration.text import Tokens
from quant_core.jobs.context import Context
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel


@dataclass(eq=False)
class _Sums:
    moment: Tensor
    mean_abs: Tensor
    largest: Tensor
    rows: int = 0
    samples: list[Tensor] = field(default_factory=list)

    def add(self, inputs: Tensor, tokens: int) -> None:
        x = inputs.float()
        size = x.abs()
        self.moment.addmm_(x.T, x)
        self.mean_abs += size.sum(dim=0)
        self.largest = torch.maximum(self.largest, size.amax(dim=0))
        self.rows += len(x)
        self.samples.append(x[:: max(1, tokens // SAMPLES)].clone())

    def finish(self) -> None:
        """Turn sums into means, in place, so that units that share them go on sharing them."""
        self.moment /= self.rows
        self.mean_abs /= self.rows
        self.samples = [torch.cat(self.samples)]


class _Visitor:
    """Adds up what ``capture`` shows; units that are fed the same tensor (q, k, v) share their sums."""

    def __init__(self, wanted: set[str], tokens: int) -> None:
        self.wanted = wanted
        self.tokens = tokens
        self.sums: dict[str, _Sums] = {}
        self.fisher: dict[str, Tensor] = {}
        self._source: dict[str, str] = {}
        self._last: tuple[str, Tensor] | None = None

    def forward(self, product: Product, outputs: Tensor) -> None:
        unit, x = product.slot.unit, product.inputs
        if unit.name not in self.wanted or product.lookup or not len(x):
            return
        if unit.name not in self._source:
            shared = self._last is not None and self._last[1].data_ptr() == x.data_ptr()
            self._source[unit.name] = self._last[0] if shared and self._last else unit.name
            zeros = torch.zeros(unit.columns, device=x.device)
            fresh = _Sums(torch.zeros(unit.columns, unit.columns, device=x.device), zeros, zeros.clone())
            self.sums[unit.name] = self.sums.get(self._source[unit.name], fresh)
        if self._source[unit.name] == unit.name:
            self.sums[unit.name].add(x, self.tokens)
            self._last = unit.name, x  # keeps x alive, so that no other tensor can take its place in memory

    def backward(self, product: Product, gradient: Tensor) -> None:
        name = product.slot.unit.name
        if name in self.wanted and not product.lookup:
            squares = gradient.float().square().T @ product.inputs.float().square()
            self.fisher[name] = self.fisher[name].add_(squares) if name in self.fisher else squares

    def backward_mixed(self, product: Product, gradient: Tensor) -> None:
        """An output's own gradient is what counts here, keys and values included."""


def collect(
    context: Context,
    loaded: LoadedModel,
    tokens: Tokens,
    slots: Sequence[Slot],
    *,
    gradients: bool = False,
    seed: int = 0,
) -> dict[str, Inputs]:
    """The inputs of each unit by name, from one pass over the tokens; what is only looked up is left out.

    Args:
        context: For progress and cancel.
        loaded: The model.
        tokens: Calibration sequences.
        slots: Units to watch.
        gradients: Whether to back-propagate labels drawn from the model's own predictions.
        seed: For those labels.
    """
    sequences, length = tokens.ids.shape
    visitor = _Visitor({slot.unit.name for slot in slots}, tokens.count)
    uniforms = label_uniforms(sequences, length, seed)
    model: Any = loaded.model
    step = batch_rows(loaded, length, sum(slot.unit.columns for slot in slots) if gradients else 1)
    for start in range(0, sequences, step):
        context.progress(0.0, f"Reading inputs: {start * length:,} of {tokens.count:,} calibration tokens")
        ids = tokens.ids[start : start + step].to(loaded.device)
        with torch.set_grad_enabled(gradients), capture(loaded.graph, visitor, model):
            logits = model(ids, use_cache=False).logits
            if gradients:
                logits.backward(label_gradient(logits.detach(), uniforms[start : start + step]))
    for sums in {id(sums): sums for sums in visitor.sums.values()}.values():
        sums.finish()
    return {slot.unit.name: _inputs(slot, visitor, tokens.count, gradients) for slot in slots}


def _inputs(slot: Slot, visitor: _Visitor, tokens: int, gradients: bool) -> Inputs:
    unit = slot.unit
    sums = visitor.sums.get(unit.name)
    if sums is None:
        device = slot.parameter.device
        nothing = torch.zeros(unit.columns, device=device)
        return Inputs(torch.zeros(0, 0, device=device), nothing, nothing, nothing[None][:0], 0, None)
    fisher = visitor.fisher[unit.name] / tokens if gradients and unit.name in visitor.fisher else None
    return Inputs(sums.moment, sums.mean_abs, sums.largest, sums.samples[0], sums.rows, fisher)
