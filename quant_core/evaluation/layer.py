"""One layer in one format, binned: what its weights look like, where the grid lies, what rounding does to them.

Where a format's blocks do not cross rows, a large layer is rounded some rows at a time, once for its sums and once more
for its histograms, so that no copy of it is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quant_core.evaluation.statistics import Bins, statistics
from quant_core.formats import Format, Grid, find, to_blocks
from quant_core.jobs.context import Context
from quant_core.methods.rewrite import rewritten
from quant_core.methods.rounder import rounder_for
from quant_core.methods.slot_rounder import Quantized, SlotRounder
from quant_core.models.layers import Slot
from quant_core.models.pieces import cut
from quant_core.registry import unknown_name
from quant_core.schema import ORIGINAL, LayerRequest, LayerView, replace

_GRID_POINTS = 512
_PART = 2**22
"""Weights that are rounded at once where a format allows it: 16 MB in float32."""


def layer_view(context: Context, request: LayerRequest) -> LayerView:
    """Histograms, grid, clipping and error figures of one unit in one format, after the rewrites of the setup.

    A rewrite that searches takes every decided unit to be in that format, as a table of scores does.
    """
    original = context.loaded(request.model, request.roots, request.fingerprint)
    same = {unit.name: request.format for unit in original.graph.units if unit.decided}
    loaded = rewritten(context, original, request.setup.transforms, same, request.setup.calibration)
    if request.unit not in loaded.graph.slots:
        raise unknown_name("weight", request.unit, loaded.graph.slots)
    slot = loaded.graph.slots[request.unit]
    rounder = rounder_for(context, loaded, request.setup)
    view = view_unit(context, rounder, slot, find(request.format), min(max(request.bins, 8), 1000))
    return replace(view, notes=tuple(f"{where}: {note}." for where, note in rounder.notes.items()))


def view_unit(
    context: Context, rounder: SlotRounder, slot: Slot, form: Format, bins: int, part: int = _PART
) -> LayerView:
    """The view of a unit in a format, with ``bins`` bins; ``part`` is how many weights are rounded at once."""
    unit, matrix = slot.unit, slot.matrix()
    step = max(1, part // unit.columns) if rounder.by_rows(unit, form) else unit.rows

    @lru_cache(maxsize=1)  # so that a unit that is one part is rounded once
    def rounded(row: int) -> Quantized:
        rows = nn.Parameter(matrix[row : row + step], requires_grad=False)
        return rounder.quantize(Slot(unit, rows), form)

    def parts() -> Iterator[tuple[Tensor, Quantized]]:
        for row in range(0, unit.rows, step):
            context.check_cancelled()
            yield matrix[row : row + step].float(), rounded(row)

    total = _Total()
    for weights, done in parts():
        total.add(weights, done)
    span = total.span or 1.0
    reach = total.reach or span / bins
    bins_of_values, bins_of_errors = Bins(-span, span, bins), Bins(-reach, reach, bins)
    counts, error_counts = (np.zeros(bins, np.int64) for _ in range(2))
    for weights, done in parts():
        result = done.matrix.float()
        counts += _count(result, bins_of_values)
        error_counts += _count(result - weights, bins_of_errors)
    spread = statistics(lambda: cut(matrix), unit.rows, unit.columns, bins_of_values)
    storage = form.storage(unit.rows, unit.columns, unit.bits)
    grid = form.levels(total.median_grid())
    low, high = (float(grid[0]), float(grid[-1])) if len(grid) else (spread.minimum, spread.maximum)
    return LayerView(
        unit=unit.name,
        format=form.name,
        weights=spread.histogram,
        dequantized=bins_of_values.histogram(counts),
        errors=bins_of_errors.histogram(error_counts),
        grid=tuple(grid[:: max(1, len(grid) // _GRID_POINTS)].tolist()),
        clip_low=low,
        clip_high=high,
        block_values=total.block_values,
        blocks=total.blocks,
        outside=total.outside / (total.blocks * total.block_values),
        sqnr_db=10 * math.log10(total.signal / total.noise) if total.noise and total.signal else None,
        kurtosis=spread.kurtosis,
        outlier_share=spread.outlier_share,
        absolute_maximum=max(-spread.minimum, spread.maximum),
        standard_deviation=spread.deviation,
        bits_per_weight=storage.total / unit.parameters,
        padded=storage.padded,
    )


class _Total:
    """What is summed over the parts of a unit."""

    def __init__(self) -> None:
        self.span = self.reach = self.signal = self.noise = 0.0
        self.outside = self.blocks = self.block_values = 0
        self._grids: list[Grid] = []

    def add(self, weights: Tensor, done: Quantized) -> None:
        """Count in some rows, float32 (rows, columns), and what they were rounded to."""
        result = done.matrix.float()
        errors = result - weights
        dense = weights if done.kept is None else weights.masked_fill(done.kept, 0.0)
        blocks = to_blocks(dense, done.form)
        self.span = max(self.span, float(weights.abs().max()), float(result.abs().max()))
        self.reach = max(self.reach, float(errors.abs().max()))
        self.signal += float(weights.square().sum())
        self.noise += float(errors.square().sum())
        self.outside += _outside(done, blocks)
        self.blocks += blocks.shape[0]
        self.block_values = blocks.shape[1]
        self._grids.append(done.codes.grid)

    def median_grid(self) -> Grid:
        """The grid of the block with the median scale."""
        sizes = [grid.scales.float().flatten(1).abs().mean(dim=1) for grid in self._grids]
        block = int(torch.cat(sizes).argsort(stable=True)[sum(map(len, sizes)) // 2])
        part = 0
        while block >= len(sizes[part]):
            block -= len(sizes[part])
            part += 1
        return self._grids[part].take(slice(block, block + 1))


def _outside(done: Quantized, blocks: Tensor) -> int:
    """Values beyond the end of their own block's grid by more than rounding error; kept ones are not."""
    if done.form.spec.family == ORIGINAL:
        return 0
    low, high = done.form.bounds(done.codes.grid, blocks.shape[1])
    slack = (high - low) * 1e-6
    beyond = (blocks < low - slack) | (blocks > high + slack)
    if done.kept is not None:
        beyond &= to_blocks(done.kept, done.form) == 0
    return int(beyond.sum())


def _count(values: Tensor, bins: Bins) -> NDArray[np.int64]:
    pieces = (bins.count(piece.values.flatten().cpu().double()) for piece in cut(values))
    return sum(pieces, np.zeros(bins.number, np.int64))
