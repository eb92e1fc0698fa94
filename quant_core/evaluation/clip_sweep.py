"""Rounding against clipping: one grid for a whole tensor that covers more and less of its range.

A narrow grid has small steps and leaves weights beyond its ends; a wide one reaches them all, in coarse steps. The sum
of both errors is least in between (Banner et al. 2019, arXiv:1810.05723, section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.errors import FormatError, QuantError
from quant_core.evaluation.layer import asked_slot
from quant_core.evaluation.statistics import statistics
from quant_core.formats import Format, find, to_blocks
from quant_core.jobs.context import Context
from quant_core.models.pieces import cut
from quant_core.schema import ClipRequest, ClipSweep

_PART = 2**22
"""Weights that are rounded at once."""


def clip_sweep(context: Context, request: ClipRequest) -> ClipSweep:
    """The errors of a unit's weights, as the checkpoint has them, for every share of the range.

    Raises:
        FormatError: The format has several grids for a tensor, or sets its range by its own rule.
        QuantError: There are no shares, or one of them is no share.
    """
    form = find(request.format)
    if form.spec.granularity != "tensor" or not form.info.clips:
        raise FormatError(
            f"{form.name} has no single range that could be set.", "Take one such as int4/tensor/asym."
        )
    if not request.shares or not all(0 < share <= 1 for share in request.shares):
        raise QuantError(
            "A share of the range is more than 0 and at most 1.", "Ask for shares such as 0.5 and 1."
        )
    loaded = context.loaded(request.model, request.roots, request.fingerprint)
    return sweep(context, request, form, asked_slot(loaded.graph.slots, request.unit).matrix())


def sweep(context: Context, request: ClipRequest, form: Format, matrix: Tensor) -> ClipSweep:
    """The errors of a matrix (rows, columns) in ``form`` for every share that is asked for."""
    blocks = to_blocks(matrix, form)
    rounding, clipping, outside, grids, scales, zeros = [], [], [], [], [], []
    for place, share in enumerate(request.shares):
        context.progress(place / len(request.shares), f"{share:.0%} of the range")
        grid = form.fit(blocks, shrink=torch.full((1, 1), share, device=blocks.device))
        within, beyond, count = 0.0, 0.0, 0
        for part in blocks.split(_PART, dim=1):
            context.check_cancelled()
            clipped, error = _errors(part, *form.bounds(grid, 1), form.nearest(part, grid))
            beyond += float(error[clipped].sum())
            within += float(error[~clipped].sum())
            count += int(clipped.sum())
        rounding.append(within / blocks.numel())
        clipping.append(beyond / blocks.numel())
        outside.append(count / blocks.numel())
        grids.append(tuple(form.levels(grid).tolist()))
        scales.append(float(grid.scales.float().flatten()[0]))
        zeros.append(0.0 if grid.zero_points is None else float(grid.zero_points.flatten()[0]))
    rows, columns = matrix.shape
    total = [first + second for first, second in zip(rounding, clipping, strict=True)]
    return ClipSweep(
        unit=request.unit,
        format=form.name,
        weights=statistics(lambda: cut(matrix), rows, columns, min(max(request.bins, 8), 1000)).histogram,
        mean_square=sum(float(part.double().square().sum()) for part in blocks.split(_PART, dim=1))
        / blocks.numel(),
        shares=request.shares,
        rounding=tuple(rounding),
        clipping=tuple(clipping),
        outside=tuple(outside),
        grids=tuple(grids),
        scales=tuple(scales),
        zero_points=tuple(zeros),
        best=total.index(min(total)),
    )


def _errors(part: Tensor, low: Tensor, high: Tensor, rounded: Tensor) -> tuple[Tensor, Tensor]:
    """Which of some values lie beyond the grid's ends, and the squared error of each in float64."""
    return (part < low) | (part > high), (rounded.double() - part.double()).square()
