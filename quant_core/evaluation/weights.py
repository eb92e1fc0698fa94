"""The job that reads statistics of all weights of a checkpoint from its mapped files, without loading the model."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from torch import Tensor

from quant_core.evaluation.statistics import statistics
from quant_core.jobs.context import Context
from quant_core.models.layout import layout
from quant_core.models.pieces import Piece, cut
from quant_core.models.sources import check, locate, title_of
from quant_core.models.stored import StoredTensors
from quant_core.schema import Unit, UnitStatistics, WeightsRequest, WeightStatistics

BINS = 48


def weights(context: Context, request: WeightsRequest) -> WeightStatistics:
    """Statistics of every unit that the checkpoint's files hold as it is used, and the names of those they do not.

    It takes a few pieces of a weight in memory whatever the model's size, and can be cancelled between two pieces.

    Raises:
        ModelError: The checkpoint cannot be read.
    """
    begun = time.monotonic()
    context.progress(0.0, "looking at the files")
    checkpoint = check(locate(request.model, request.roots), title_of(request.model))
    tensors = StoredTensors(checkpoint.folder, checkpoint.title)
    units, places = layout(checkpoint, tensors)
    held = [unit for unit in units if unit.name in places]
    whole, done, size, found = sum(unit.parameters for unit in held), 0, 0, []
    for unit in held:
        context.progress(done / whole, unit.name)
        parts = [place.matrix(tensors) for place in places[unit.name]]
        found.append(_statistics(context, unit, parts))
        done += unit.parameters
        size += sum(part.numel() * part.itemsize for part in parts)
    return WeightStatistics(
        title=checkpoint.title,
        units=tuple(found),
        unread=tuple(unit.name for unit in units if unit.name not in places),
        bytes=size,
        seconds=time.monotonic() - begun,
    )


def _statistics(context: Context, unit: Unit, parts: Sequence[Tensor]) -> UnitStatistics:
    """One unit, whose rows are those of ``parts``, one after the other."""

    def read() -> Iterator[Piece]:
        row = 0
        for part in parts:
            for piece in cut(part, row):
                context.check_cancelled()
                yield piece
            row += len(part)

    found = statistics(read, unit.rows, unit.columns, BINS)
    return UnitStatistics(
        unit=unit,
        minimum=found.minimum,
        maximum=found.maximum,
        mean=found.mean,
        standard_deviation=found.deviation,
        kurtosis=found.kurtosis,
        outlier_share=found.outlier_share,
        zero_share=found.zero_share,
        row_spread=_spread(found.row_maxima),
        column_spread=_spread(found.column_maxima),
        counts=found.histogram.counts,
        not_finite=found.not_finite,
    )


def _spread(maxima: Tensor) -> float:
    """The largest over the median of those that are finite; 0 if the median is 0 or there is none."""
    finite = maxima[maxima.isfinite()]
    middle = float(finite.median()) if len(finite) else 0.0
    return float(finite.max()) / middle if middle else 0.0
