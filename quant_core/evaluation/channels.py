"""How far each output and input of a unit reaches: its weights, and the activations that enter it.

Outlier channels are few inputs with activations many times as large as all others (Dettmers et al. 2022, "LLM.int8()",
arXiv:2208.07339): beside the weights' ranges one sees which columns they meet.
"""

from __future__ import annotations

import math
import time
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant_core.calibration.batches import batch_rows
from quant_core.calibration.capture import Product, capture
from quant_core.calibration.interruption import interruptible
from quant_core.calibration.text import tokenize
from quant_core.errors import QuantError
from quant_core.evaluation.layer import asked_model, asked_slot
from quant_core.evaluation.window import edges
from quant_core.jobs.context import Context
from quant_core.schema import ChannelRanges, Channels, ChannelsRequest, Histogram, InputsRequest, LayerInputs

_QUANTILES = (0.01, 0.99)
_MOST = 1024
"""Bins that may be asked for."""
_LEAST = -100
"""Binary exponent below which values are not told apart."""


def channels(context: Context, request: ChannelsRequest) -> ChannelRanges:
    """Ranges of the weights along outputs and inputs, after the rewrites of the setup."""
    loaded = asked_model(context, request, request.format)
    matrix = asked_slot(loaded.graph.slots, request.unit).matrix()
    bins = _bins(request.bins)
    return ChannelRanges(request.unit, _ranges(context, matrix, bins), _ranges(context, matrix.T, bins))


def _bins(asked: int) -> int:
    return min(max(asked, 8), _MOST)


def _ranges(context: Context, matrix: Tensor, bins: int) -> Channels:
    """Ranges along the rows of ``matrix``, a bin of rows at a time."""
    bounds = edges((0, len(matrix)), bins)
    ends, reaches = [], []
    for first, end in pairwise(bounds):
        context.check_cancelled()
        values = matrix[first:end].float().cpu().numpy()
        ends.append((values.min(), *np.quantile(values, _QUANTILES), values.max()))
        reaches.append(np.abs(values).max(1))
    reach = np.concatenate(reaches)
    furthest = int(reach.argmax())
    minimum, low, high, maximum = (
        tuple(map(_short, map(float, column))) for column in zip(*ends, strict=True)
    )
    return Channels(
        bounds, minimum, low, high, maximum, furthest, float(reach[furthest]), float(np.median(reach))
    )


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def inputs(context: Context, request: InputsRequest) -> LayerInputs:
    """Values and ranges of what enters a unit over the setup's calibration text, after its rewrites.

    Raises:
        QuantError: The unit multiplies nothing (an embedding that is only looked up), or no token was routed to it.
    """
    begun = time.monotonic()
    loaded = asked_model(context, request, request.format)
    unit = asked_slot(loaded.graph.slots, request.unit).unit
    asked = request.setup.calibration
    tokens = tokenize(context, loaded, asked.text, asked.tokens, asked.sequence)
    bins = _bins(request.bins)
    seen = _Seen(unit.name, unit.columns, bins)
    length = tokens.ids.shape[1]
    step = batch_rows(loaded, length, 1)
    for start in range(0, len(tokens.ids), step):
        done = start * length
        context.progress(done / tokens.count, f"{done:,} of {tokens.count:,} tokens")
        ids = tokens.ids[start : start + step].to(loaded.device)
        with torch.no_grad(), interruptible(context, loaded), capture(loaded.graph, seen, loaded.model):
            loaded.model(ids, use_cache=False)
    if not seen.rows:
        why = "saw none of the text's tokens" if unit.kind == "expert" else "multiplies no input"
        raise QuantError(
            f"{unit.name} {why}, so there is nothing to show.", "Choose another layer or more text."
        )
    bounds = np.array(edges((0, unit.columns), bins))
    mean = np.add.reduceat(seen.total, bounds[:-1]) / np.diff(bounds) / seen.rows
    furthest = int(seen.largest.argmax())
    return LayerInputs(
        unit=unit.name,
        values=seen.values.histogram(),
        edges=tuple(bounds.tolist()),
        largest=tuple(map(_short, np.maximum.reduceat(seen.largest, bounds[:-1]).tolist())),
        mean=tuple(map(_short, mean.tolist())),
        furthest=furthest,
        reach=float(seen.largest[furthest]),
        median=float(np.median(seen.largest)),
        tokens=seen.rows,
        text_hash=tokens.text_hash,
        text_label=tokens.label,
        seconds=time.monotonic() - begun,
    )


class _Seen:
    """Adds up what ``capture`` shows of one unit's inputs."""

    def __init__(self, unit: str, columns: int, bins: int) -> None:
        self._unit = unit
        self.values = Growing(bins)
        self.largest = np.zeros(columns, np.float32)
        self.total = np.zeros(columns)
        self.rows = 0

    def forward(self, product: Product, outputs: Tensor) -> None:
        if product.slot.unit.name != self._unit or product.lookup or not len(product.inputs):
            return
        x = product.inputs.float().cpu().numpy()
        sizes = np.abs(x)
        self.values.add(x)
        np.maximum(self.largest, sizes.max(0), out=self.largest)
        self.total += sizes.sum(0, dtype=np.float64)
        self.rows += len(x)

    def backward(self, product: Product, gradient: Tensor) -> None:
        """Nothing is back-propagated."""

    def backward_mixed(self, product: Product, gradient: Tensor) -> None:
        """Nothing is back-propagated."""


class Growing:
    """A histogram that takes values batch by batch; bins are as wide as a power of two, and double when one is too far.

    Two neighbours become one then, so that it is exact whatever order or size the batches had.

    Args:
        bins: At most so many bins, 4 or more.
    """

    def __init__(self, bins: int) -> None:
        self._half = bins // 4 * 2
        self._exponent = _LEAST
        self._counts = np.zeros(2 * self._half, np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count finite values of any shape."""
        reach = float(np.abs(values).max())
        while reach >= math.ldexp(self._half, self._exponent):
            quarter = self._half // 2
            merged = self._counts.reshape(-1, 2).sum(1)
            self._counts = np.concatenate([np.zeros(quarter, np.int64), merged, np.zeros(quarter, np.int64)])
            self._exponent += 1
        places = np.floor(np.ldexp(values.ravel().astype(np.float64), -self._exponent)).astype(np.int64)
        self._counts += np.bincount(places + self._half, minlength=2 * self._half)

    def histogram(self) -> Histogram:
        """The bins between the lowest and the highest value that was counted."""
        (filled,) = self._counts.nonzero()
        first, end = int(filled[0]), int(filled[-1]) + 1
        steps = np.ldexp(np.arange(first, end + 1, dtype=np.float64) - self._half, self._exponent)
        return Histogram(tuple(steps.tolist()), tuple(self._counts[first:end].tolist()))
