"""How large the inputs of each unit are over the calibration text: a fine histogram of |x| a unit, in one pass.

Bins are as wide as a power of two, and two neighbours are merged whenever a larger value comes. Merging is exact, so
the histogram is that of the text, whatever order or size the batches had; 2048 to 4096 bins reach up to the largest
value. As for all statistics, the inputs are the original model's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quant_core.calibration.batches import batch_rows
from quant_core.calibration.capture import Product, capture
from quant_core.calibration.text import Tokens
from quant_core.errors import FormatError
from quant_core.jobs.context import Context
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel

BINS = 4096
_LEAST = -100
"""Binary exponent below which magnitudes are not told apart."""


@dataclass(frozen=True)
class Magnitudes:
    """How often a unit's inputs had which size."""

    counts: Tensor
    """Of |x| by bin, (bins,) int64; the last bin holds the largest value."""
    width: float
    """Of a bin; bin k holds k * width <= |x| < (k + 1) * width."""
    largest: float
    """Largest |x|."""


class Counter:
    """Adds up a histogram of magnitudes."""

    def __init__(self, unit: str, device: torch.device) -> None:
        self._unit = unit
        self._counts = torch.zeros(BINS, dtype=torch.int64, device=device)
        self._exponent = _LEAST
        self._largest = 0.0

    def add(self, inputs: Tensor) -> None:
        """Count the values of ``inputs``, of any shape but not empty; ``FormatError`` if some are not finite."""
        sizes = inputs.float().abs().flatten()
        largest = float(sizes.max())
        if not math.isfinite(largest):
            raise FormatError(
                f"{self._unit}: its inputs over the calibration text are not all finite.",
                "Load the model in float32.",
            )
        self._largest = max(self._largest, largest)
        self._widen(max(_LEAST, math.frexp(largest)[1]))
        self._counts += torch.bincount((sizes / self._width).long(), minlength=BINS)

    def result(self) -> Magnitudes:
        """What was counted, without the empty bins above the largest value."""
        used = int(self._largest / self._width) + 1
        return Magnitudes(self._counts[:used].clone(), self._width, self._largest)

    @property
    def _width(self) -> float:
        return 2.0**self._exponent / BINS

    def _widen(self, exponent: int) -> None:
        """Have the bins reach up to 2^exponent."""
        merged = min(2 ** max(0, exponent - self._exponent), BINS)
        sums = self._counts.reshape(-1, merged).sum(dim=1)
        self._counts = torch.nn.functional.pad(sums, (0, BINS - len(sums)))
        self._exponent = max(self._exponent, exponent)


class _Visitor:
    """Counts what ``capture`` shows; a tensor that feeds several units (q, k, v) is counted once."""

    def __init__(self, wanted: set[str]) -> None:
        self.wanted = wanted
        self.counters: dict[str, Counter] = {}
        self._source: dict[str, str] = {}
        self._last: tuple[str, Tensor] | None = None

    def forward(self, product: Product, outputs: Tensor) -> None:
        name, x = product.slot.unit.name, product.inputs
        if name not in self.wanted or product.lookup or not len(x):
            return
        if name not in self._source:
            shared = self._last is not None and self._last[1].data_ptr() == x.data_ptr()
            self._source[name] = self._last[0] if shared and self._last else name
            self.counters[name] = self.counters.get(self._source[name]) or Counter(name, x.device)
        if self._source[name] == name:
            self.counters[name].add(x)
            self._last = name, x  # keeps x alive, so that no other tensor can take its place in memory

    def backward(self, product: Product, gradient: Tensor) -> None:
        """No gradients are asked for."""

    def backward_mixed(self, product: Product, gradient: Tensor) -> None:
        """No gradients are asked for."""


def collect_ranges(
    context: Context, loaded: LoadedModel, tokens: Tokens, slots: Sequence[Slot]
) -> dict[str, Magnitudes]:
    """The sizes of each unit's inputs by name; units that saw no token, or are only looked up, are not in it."""
    sequences, length = tokens.ids.shape
    visitor = _Visitor({slot.unit.name for slot in slots})
    model: Any = loaded.model
    step = batch_rows(loaded, length, 1)
    for start in range(0, sequences, step):
        context.progress(0.0, f"Reading ranges: {start * length:,} of {tokens.count:,} calibration tokens")
        ids = tokens.ids[start : start + step].to(loaded.device)
        with torch.no_grad(), capture(loaded.graph, visitor, model):
            model(ids, use_cache=False)
    return {name: counter.result() for name, counter in visitor.counters.items()}
