"""One layer in one format, binned: what its weights look like, where the grid lies, what rounding does to them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quant_core.formats import Grid, find, to_blocks
from quant_core.jobs.context import Context
from quant_core.methods.rewrite import rewritten
from quant_core.methods.rounder import rounder_for
from quant_core.methods.slot_rounder import Quantized
from quant_core.registry import unknown_name
from quant_core.schema import ORIGINAL, Histogram, LayerRequest, LayerView, Unit, replace

_OUTLIER = 4.0
"""Standard deviations beyond which a weight counts as an outlier."""
_GRID_POINTS = 512


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
    done = rounder.quantize(slot, find(request.format))
    view = view_matrix(slot.unit, slot.matrix(), done, min(max(request.bins, 8), 1000))
    return replace(view, notes=tuple(f"{where}: {note}." for where, note in rounder.notes.items()))


def view_matrix(unit: Unit, matrix: Tensor, done: Quantized, bins: int) -> LayerView:
    """The view of a unit whose values were ``matrix`` (rows, columns) and are now ``done``, with ``bins`` bins."""
    form = done.form
    rows, columns = matrix.shape
    weights, result = matrix.float(), done.matrix.float()
    dense = weights if done.kept is None else weights.masked_fill(done.kept, 0.0)
    blocks = to_blocks(dense, form)
    errors = result - weights
    storage = form.storage(rows, columns, unit.bits)
    grid = form.levels(done.codes.grid.take(_median_block(done.codes.grid)))
    low, high = (
        (float(grid[0]), float(grid[-1])) if len(grid) else (float(weights.min()), float(weights.max()))
    )
    span = max(float(weights.abs().max()), float(result.abs().max())) or 1.0
    edges = torch.linspace(-span, span, bins + 1)
    reach = float(errors.abs().max()) or span / bins
    noise, signal = float(errors.square().sum()), float(weights.square().sum())
    deviation = float(weights.std(correction=0))
    centred = (weights - weights.mean()) / (deviation or 1.0)
    return LayerView(
        unit=unit.name,
        format=form.name,
        weights=_histogram(weights, edges),
        dequantized=_histogram(result, edges),
        errors=_histogram(errors, torch.linspace(-reach, reach, bins + 1)),
        grid=tuple(grid[:: max(1, len(grid) // _GRID_POINTS)].tolist()),
        clip_low=low,
        clip_high=high,
        block_values=blocks.shape[1],
        blocks=blocks.shape[0],
        outside=_outside(done, blocks),
        sqnr_db=10 * math.log10(signal / noise) if noise and signal else None,
        kurtosis=float(centred.double().pow(4).mean()) - 3.0 if deviation else 0.0,
        outlier_share=float((centred.abs() > _OUTLIER).float().mean()),
        absolute_maximum=float(weights.abs().max()),
        standard_deviation=deviation,
        bits_per_weight=storage.total / (rows * columns),
        padded=storage.padded,
    )


def _median_block(grid: Grid) -> slice:
    scales = grid.scales.float().flatten(1).abs().mean(dim=1)
    block = int(scales.argsort()[len(scales) // 2])
    return slice(block, block + 1)


def _outside(done: Quantized, blocks: Tensor) -> float:
    """Share of values beyond the end of their own block's grid by more than rounding error; kept ones are not."""
    if done.form.spec.family == ORIGINAL:
        return 0.0
    low, high = done.form.bounds(done.codes.grid, blocks.shape[1])
    slack = (high - low) * 1e-6
    beyond = (blocks < low - slack) | (blocks > high + slack)
    if done.kept is not None:
        beyond &= to_blocks(done.kept, done.form) == 0
    return float(beyond.float().mean())


def _histogram(values: Tensor, edges: Tensor) -> Histogram:
    counts, _ = torch.histogram(values.flatten().cpu(), edges)
    return Histogram(tuple(edges.tolist()), tuple(int(count) for count in counts))
