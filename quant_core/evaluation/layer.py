"""One layer in one format, binned: what its weights look like, where the grid lies, what rounding does to them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quant_core.formats import Codes, Format, find, from_blocks, to_blocks
from quant_core.jobs.context import Context
from quant_core.registry import unknown_name
from quant_core.schema import ORIGINAL, Histogram, LayerRequest, LayerView, Unit

_OUTLIER = 4.0
"""Standard deviations beyond which a weight counts as an outlier."""
_GRID_POINTS = 512


def layer_view(context: Context, request: LayerRequest) -> LayerView:
    """Histograms, grid, clipping and error figures of one unit in one format."""
    loaded = context.loaded(request.model, request.roots, request.fingerprint)
    if request.unit not in loaded.graph.slots:
        raise unknown_name("weight", request.unit, loaded.graph.slots)
    slot = loaded.graph.slots[request.unit]
    form = find(request.format)
    return view_matrix(slot.unit, slot.matrix(), form, min(max(request.bins, 8), 1000))


def view_matrix(unit: Unit, matrix: Tensor, form: Format, bins: int) -> LayerView:
    """The view of a unit whose values are ``matrix`` (rows, columns), in ``form``, with ``bins`` bins."""
    rows, columns = matrix.shape
    weights = matrix.float()
    blocks = to_blocks(weights, form)
    codes = form.quantize(blocks)
    rounded = form.dequantize(codes)
    result = from_blocks(rounded, rows, columns)
    errors = result - weights
    storage = form.storage(rows, columns, unit.bits)
    chosen = _median_block(codes)
    grid = form.grid(_one(codes, chosen)) if form.spec.family != ORIGINAL else weights.new_empty(0)
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
        outside=_outside(form, codes, blocks),
        sqnr_db=10 * math.log10(signal / noise) if noise and signal else None,
        kurtosis=float(centred.double().pow(4).mean()) - 3.0 if deviation else 0.0,
        outlier_share=float((centred.abs() > _OUTLIER).float().mean()),
        absolute_maximum=float(weights.abs().max()),
        standard_deviation=deviation,
        bits_per_weight=storage.total / (rows * columns),
        padded=storage.padded,
    )


def _median_block(codes: Codes) -> int:
    scales = codes.scales.float().flatten()
    return int(scales.argsort()[len(scales) // 2])


def _one(codes: Codes, block: int) -> Codes:
    """The codes of one block."""
    part = slice(block, block + 1)
    zero = None if codes.zero_points is None else codes.zero_points[part]
    return Codes(codes.values[part], codes.scales[part], zero, codes.extras)


def _outside(form: Format, codes: Codes, blocks: Tensor) -> float:
    """Share of values that lie beyond the end of their own block's grid by more than rounding error."""
    if form.spec.family == ORIGINAL:
        return 0.0
    grid = form.grid(_one(codes, 0))
    zero = codes.zero_points
    if zero is None:
        unit = grid / codes.scales[0].float()
        low, high = unit[0] * codes.scales.float(), unit[-1] * codes.scales.float()
    else:
        steps = grid / codes.scales[0].float() + zero[0].float()
        low = (steps[0] - zero.float()) * codes.scales.float()
        high = (steps[-1] - zero.float()) * codes.scales.float()
    slack = (high - low) * 1e-6
    return float(((blocks < low - slack) | (blocks > high + slack)).float().mean())


def _histogram(values: Tensor, edges: Tensor) -> Histogram:
    counts, _ = torch.histogram(values.flatten().cpu(), edges)
    return Histogram(tuple(edges.tolist()), tuple(int(count) for count in counts))
