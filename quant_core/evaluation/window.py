"""A rectangle of a unit's weights and of what rounding does to them, binned to what a screen can show.

Each bin keeps the value that is largest in size, with its sign: an outlier stays in sight at any distance, and where a
bin is a single weight it is the weight itself. Only the rows of the rectangle are rounded where a format's blocks do
not cross rows, some at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant_core.errors import QuantError
from quant_core.evaluation.layer import asked_model, asked_slot, computed_in, rounded_rows
from quant_core.formats import Format, find
from quant_core.jobs.context import Context
from quant_core.methods.rounder import rounder_for
from quant_core.methods.slot_rounder import SlotRounder
from quant_core.models.layers import Slot
from quant_core.schema import Matrix, Spot, Window, WindowRequest

_PART = 2**22
"""Weights that are rounded at once where a format allows it."""
_MOST = 512
"""Bins that may be asked for in each direction."""


def window(context: Context, request: WindowRequest) -> Window:
    """The rectangle that was asked for, after the rewrites of the setup.

    Raises:
        QuantError: The rectangle does not lie in the unit, or there is no such unit.
    """
    loaded = asked_model(context, request, request.format)
    slot = asked_slot(loaded.graph.slots, request.unit)
    cells = min(max(request.cells, 1), _MOST)
    rounder = rounder_for(context, loaded, request.setup)
    return view_window(
        context, rounder, slot, find(request.format), request.rows, request.columns, cells,
        dtype=computed_in(loaded, slot),
    )  # fmt: skip


def view_window(
    context: Context,
    rounder: SlotRounder,
    slot: Slot,
    form: Format,
    rows: tuple[int, int],
    columns: tuple[int, int],
    cells: int,
    part: int = _PART,
    dtype: torch.dtype | None = None,
) -> Window:
    """A rectangle of a unit in at most ``cells`` bins each way; ``part`` is how many weights are rounded at once.

    ``dtype`` is what they are rounded in if not what they are held in.
    """
    unit = slot.unit
    row_edges = edges(_span(rows, unit.rows, "outputs"), cells)
    column_edges = edges(_span(columns, unit.columns, "inputs"), cells)
    weights, errors, spots = [], [], []
    step = part // unit.columns if rounder.by_rows(unit, form) else None
    inside = slice(column_edges[0], column_edges[-1])
    for bounds, wide, rounded in _bands(context, rounder, slot, form, row_edges, step, dtype):
        before, after = wide[:, inside], rounded[:, inside]
        starts = np.array(bounds[:-1]) - bounds[0], np.array(column_edges[:-1]) - column_edges[0]
        error = after - before
        weights.append(extremes(before.numpy(), *starts))
        errors.append(extremes(error.numpy(), *starts))
        corner = bounds[0], column_edges[0]
        spots.append(tuple(_spot(sizes.abs(), before, after, corner) for sizes in (before, error)))
    return Window(
        unit=unit.name,
        format=form.name,
        row_edges=row_edges,
        column_edges=column_edges,
        weights=_short(np.concatenate(weights)),
        errors=_short(np.concatenate(errors)),
        largest=max((pair[0] for pair in spots), key=lambda spot: abs(spot.weight)),
        worst=max((pair[1] for pair in spots), key=lambda spot: abs(spot.error)),
    )


def edges(span: tuple[int, int], most: int) -> tuple[int, ...]:
    """At most ``most`` bins of whole channels over ``span``, (first, one past the last), as even as they can be."""
    first, end = span
    number = min(most, end - first)
    return tuple(first + (end - first) * place // number for place in range(number + 1))


def extremes(
    values: NDArray[np.float32], rows: NDArray[np.int_], columns: NDArray[np.int_]
) -> NDArray[np.float32]:
    """The value largest in size of each bin, (row bins, column bins); bins begin at ``rows`` and ``columns``."""
    high = np.maximum.reduceat(np.maximum.reduceat(values, rows, axis=0), columns, axis=1)
    low = np.minimum.reduceat(np.minimum.reduceat(values, rows, axis=0), columns, axis=1)
    found: NDArray[np.float32] = np.where(high >= -low, high, low)
    return found


def _span(asked: tuple[int, int], length: int, what: str) -> tuple[int, int]:
    first, end = (0, length) if asked == (0, 0) else asked
    if not 0 <= first < end <= length:
        raise QuantError(
            f"The layer has {length:,} {what}, counted from 0: there is no range from {first:,} to {end - 1:,}.",
            f"Choose a range within 0 to {length - 1:,}.",
        )
    return first, end


def _bands(
    context: Context,
    rounder: SlotRounder,
    slot: Slot,
    form: Format,
    row_edges: Sequence[int],
    step: int | None,
    dtype: torch.dtype | None,
) -> Iterator[tuple[Sequence[int], Tensor, Tensor]]:
    """Rows of whole bins: the edges of their bins, and their weights before and after rounding, float32.

    Of at most ``step`` rows, or of one bin; where it is None the unit is rounded as a whole.
    """
    if step is None:
        before, done = rounded_rows(rounder, slot, form, dtype=dtype)
        inside = slice(row_edges[0], row_edges[-1])
        yield row_edges, before[inside].cpu(), done.matrix[inside].float().cpu()
        return
    begin = 0
    while begin < len(row_edges) - 1:
        context.check_cancelled()
        end = begin + 1
        while end < len(row_edges) - 1 and row_edges[end + 1] - row_edges[begin] <= step:
            end += 1
        before, done = rounded_rows(rounder, slot, form, slice(row_edges[begin], row_edges[end]), dtype)
        yield row_edges[begin : end + 1], before.cpu(), done.matrix.float().cpu()
        begin = end


def _spot(sizes: Tensor, before: Tensor, after: Tensor, corner: tuple[int, int]) -> Spot:
    """The place where ``sizes`` is largest, of a part of a unit that begins at ``corner``."""
    row, column = divmod(int(torch.argmax(sizes)), sizes.shape[1])
    return Spot(corner[0] + row, corner[1] + column, float(before[row, column]), float(after[row, column]))


def _short(values: NDArray[np.float32]) -> Matrix:
    """To three significant digits, so that little travels."""
    return tuple(tuple(float(f"{value:.3g}") for value in row) for row in values.tolist())
