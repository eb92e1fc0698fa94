"""Layers in some formats, binned: what their weights look like, where the grids lie, what rounding does to them.

Where a format's blocks do not cross rows, a large layer is rounded some rows at a time, once for its sums and once more
for its histograms, so that no copy of it is made. What is small is rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quant_core.evaluation.statistics import Bins, statistics
from quant_core.formats import Format, Grid, find, to_blocks
from quant_core.jobs.context import Context
from quant_core.methods.rewrite import rewritten
from quant_core.methods.rounder import Rounder, rounder_for
from quant_core.methods.slot_rounder import Quantized, SlotRounder
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel
from quant_core.models.mapped import COMPUTE
from quant_core.models.pieces import Piece, cut
from quant_core.registry import unknown_name
from quant_core.schema import (
    ORIGINAL,
    ChannelsRequest,
    FormatView,
    InputsRequest,
    LayerRequest,
    LayerView,
    WindowRequest,
    replace,
)

_GRID_POINTS = 512
_PART = 2**22
"""Weights that are rounded at once where a format allows it: 16 MB in float32."""
_KEPT = 4
"""So many parts' worth of rounded weights are kept from one reading to the next."""


def layer_view(context: Context, request: LayerRequest) -> LayerView:
    """Histograms, grids, clipping and error figures of units in some formats, after the rewrites of the setup."""
    loaded = asked_model(context, request, request.formats[0])
    slots = [asked_slot(loaded.graph.slots, name) for name in request.units]
    rounder = rounder_for(context, loaded, request.setup)
    forms = [find(name) for name in request.formats]
    bins = min(max(request.bins, 8), 1000)
    view = view_slots(context, rounder, slots, forms, bins, dtype=computed_in(loaded, slots[0]))
    return replace(view, notes=rounding_notes(rounder))


def asked_model(
    context: Context, request: LayerRequest | WindowRequest | ChannelsRequest | InputsRequest, form: str
) -> LoadedModel:
    """The request's model after the rewrites of its setup; one that searches takes all units to be in ``form``."""
    original = context.loaded(request.model, request.roots, request.fingerprint)
    same = {unit.name: form for unit in original.graph.units if unit.decided}
    return rewritten(context, original, request.setup.transforms, same, request.setup.calibration)


def asked_slot(slots: Mapping[str, Slot], name: str) -> Slot:
    """The slot of a unit; an error that suggests names if there is none."""
    if name not in slots:
        raise unknown_name("weight", name, slots)
    return slots[name]


def computed_in(loaded: LoadedModel, slot: Slot) -> torch.dtype | None:
    """What a unit's weights are turned into to be rounded and computed with, if not what they are held in."""
    return COMPUTE if loaded.mapped and slot.unit.block >= 0 else None


def rounding_notes(rounder: Rounder) -> tuple[str, ...]:
    """What the user should know of the rounding, a sentence each."""
    return tuple(f"{where}: {note}." for where, note in rounder.notes.items())


def rounded_rows(
    rounder: SlotRounder,
    slot: Slot,
    form: Format,
    rows: slice = slice(None),
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Quantized]:
    """Some rows of a unit's weights in float32, and what they are rounded to; rows that ``by_rows`` allows, or all."""
    part = slot.matrix()[rows].to(dtype or slot.parameter.dtype)
    return part.float(), rounder.quantize(Slot(slot.unit, nn.Parameter(part, requires_grad=False)), form)


def view_slots(
    context: Context,
    rounder: SlotRounder,
    slots: Sequence[Slot],
    forms: Sequence[Format],
    bins: int,
    part: int = _PART,
    dtype: torch.dtype | None = None,
) -> LayerView:
    """The view of units in formats, with ``bins`` bins; ``part`` is how many weights are rounded at once.

    ``dtype`` is what they are rounded in if not what they are held in.
    """
    parameters = sum(slot.unit.parameters for slot in slots)
    kept = parameters * len(forms) <= _KEPT * part
    reads = [partial(_parts, context, rounder, slots, form, part, dtype) for form in forms]
    if kept:
        done = [list(read()) for read in reads]
        reads = [partial(iter, parts) for parts in done]
    totals = [_Total() for _ in forms]
    for total, read in zip(totals, reads, strict=True):
        for weights, rounded in read():
            total.add(weights, rounded)
    span = max(total.span for total in totals) or 1.0
    reach = max(total.reach for total in totals) or span / bins
    of_values, of_errors = Bins(-span, span, bins), Bins(-reach, reach, bins)
    rows, columns = sum(slot.unit.rows for slot in slots), max(slot.unit.columns for slot in slots)
    spread = statistics(lambda: _pieces(slots), rows, columns, of_values)
    views = []
    for form, total, read in zip(forms, totals, reads, strict=True):
        counts, error_counts = (np.zeros(bins, np.int64) for _ in range(2))
        for weights, rounded in read():
            result = rounded.matrix.float()
            counts += _count(result, of_values)
            error_counts += _count(result - weights, of_errors)
        storage = [form.storage(slot.unit.rows, slot.unit.columns, slot.unit.bits) for slot in slots]
        grid = form.levels(total.median_grid())
        low, high = (float(grid[0]), float(grid[-1])) if len(grid) else (spread.minimum, spread.maximum)
        views.append(
            FormatView(
                format=form.name,
                dequantized=of_values.histogram(counts),
                errors=of_errors.histogram(error_counts),
                grid=tuple(grid[:: max(1, len(grid) // _GRID_POINTS)].tolist()),
                clip_low=low,
                clip_high=high,
                block_values=total.median_values(),
                blocks=total.blocks,
                outside=total.outside / total.values,
                sqnr_db=10 * math.log10(total.signal / total.noise) if total.noise and total.signal else None,
                mean_square=total.noise / parameters,
                largest_error=total.reach,
                bits_per_weight=sum(each.total for each in storage) / parameters,
                padded=sum(each.padded for each in storage),
                kept=total.kept / parameters,
                kept_from=total.kept_from if total.kept else 0.0,
            )
        )
    return LayerView(
        units=tuple(slot.unit.name for slot in slots),
        parameters=parameters,
        weights=spread.histogram,
        kurtosis=spread.kurtosis,
        outlier_share=spread.outlier_share,
        minimum=spread.minimum,
        maximum=spread.maximum,
        standard_deviation=spread.deviation,
        formats=tuple(views),
    )


def _parts(
    context: Context,
    rounder: SlotRounder,
    slots: Sequence[Slot],
    form: Format,
    part: int,
    dtype: torch.dtype | None,
) -> Iterator[tuple[Tensor, Quantized]]:
    """All units some rows at a time, where the format allows it: float32 weights, and what they are rounded to."""
    for slot in slots:
        unit = slot.unit
        step = max(1, part // unit.columns) if rounder.by_rows(unit, form) else unit.rows
        for row in range(0, unit.rows, step):
            context.check_cancelled()
            yield rounded_rows(rounder, slot, form, slice(row, row + step), dtype)


def _pieces(slots: Sequence[Slot]) -> Iterator[Piece]:
    """Pieces of all units, one below the other."""
    row = 0
    for slot in slots:
        yield from cut(slot.matrix(), row)
        row += slot.unit.rows


class _Total:
    """What is summed over the parts of units."""

    def __init__(self) -> None:
        self.span = self.reach = self.signal = self.noise = 0.0
        self.outside = self.blocks = self.values = self.kept = 0
        self.kept_from = math.inf
        self._grids: list[Grid] = []
        self._sizes: list[int] = []

    def add(self, weights: Tensor, done: Quantized) -> None:
        """Count in some rows, float32 (rows, columns), and what they were rounded to."""
        result = done.matrix.float()
        errors = result - weights
        dense = weights if done.kept is None else weights.masked_fill(done.kept, 0.0)
        blocks = to_blocks(dense, done.form)
        if done.kept is not None:
            self.kept += int(done.kept.sum())
            self.kept_from = min(self.kept_from, float(weights[done.kept].abs().min()))
        self.span = max(self.span, float(weights.abs().max()), float(result.abs().max()))
        self.reach = max(self.reach, float(errors.abs().max()))
        self.signal += float(weights.square().sum())
        self.noise += float(errors.square().sum())
        self.outside += _outside(done, blocks)
        self.blocks += blocks.shape[0]
        self.values += blocks.numel()
        self._grids.append(done.codes.grid)
        self._sizes.append(blocks.shape[1])

    def _median(self) -> tuple[int, int]:
        """The part, and the block in it, with the median scale."""
        sizes = [grid.scales.float().flatten(1).abs().mean(dim=1) for grid in self._grids]
        block = int(torch.cat(sizes).argsort(stable=True)[sum(map(len, sizes)) // 2])
        part = 0
        while block >= len(sizes[part]):
            block -= len(sizes[part])
            part += 1
        return part, block

    def median_grid(self) -> Grid:
        """The grid of the block with the median scale."""
        part, block = self._median()
        return self._grids[part].take(slice(block, block + 1))

    def median_values(self) -> int:
        """How many values share that grid."""
        return self._sizes[self._median()[0]]


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
