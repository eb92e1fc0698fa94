"""Statistics of a weight read a piece at a time: exact, whatever the pieces, in the memory of a few of them.

A dtype of 16 bits has 65,536 values. How often each of them occurs is counted in one reading, and everything else
follows from the counts without looking at the weight again. Wider dtypes are read twice: mean and variance first, in
float64, pieces joined as in Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance" (The American
Statistician 37, equation 2.1); then what is counted from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant_core.models.pieces import Piece
from quant_core.schema import Histogram

OUTLIER = 4.0
"""Standard deviations from the mean beyond which a weight counts as an outlier."""

Counted = tuple[Tensor, Tensor | None]
"""Finite values (n,) and how often each of them occurs, (n,), both float64; None for once."""


@dataclass(frozen=True)
class Statistics:
    """What the values of a matrix are like; those that are not finite are counted and otherwise left out."""

    count: int
    """Finite values; the rest is 0 where there are none."""
    not_finite: int
    minimum: float
    maximum: float
    mean: float
    deviation: float
    """Standard deviation, over ``count``."""
    kurtosis: float
    """Excess kurtosis: 0 for a normal distribution, and where all values are the same."""
    outlier_share: float
    """Share of values further than ``OUTLIER`` standard deviations from the mean, in 0..1."""
    zero_share: float
    histogram: Histogram
    row_maxima: Tensor
    """Largest |w| of each output, (rows,), float32; not finite where a value is not."""
    column_maxima: Tensor
    """Largest |w| of each input, (columns,)."""


@dataclass(frozen=True)
class Bins:
    """``number`` equal bins from ``low`` to ``high``, as numpy has them: a value on an edge belongs to the bin above,
    one at ``high`` to the last, and where both are the same the bins reach half a unit to either side.
    """

    low: float
    high: float
    number: int

    def count(self, values: Tensor, counts: Tensor | None = None) -> NDArray[np.int64]:
        """How many of float64 ``values`` (n,) lie in each bin; each stands there ``counts`` times, if given."""
        weights = None if counts is None else counts.numpy()
        found, _ = np.histogram(values.numpy(), self.number, (self.low, self.high), weights=weights)
        return found.astype(np.int64)

    def histogram(self, counts: NDArray[np.int64]) -> Histogram:
        """Edges and counts as plain numbers."""
        edges = np.histogram_bin_edges([], self.number, (self.low, self.high))
        return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def statistics(read: Callable[[], Iterable[Piece]], rows: int, columns: int, bins: int | Bins) -> Statistics:
    """Statistics of a matrix.

    Args:
        read: Gives its pieces, all of one dtype, which together are the whole matrix; called up to three times.
        rows: Of the matrix.
        columns: Of the matrix.
        bins: Those of the histogram, or how many there are from the least to the largest value.
    """
    ranges = _Ranges(torch.zeros(rows), torch.zeros(columns))
    watched = ranges.watching(read())
    again: Callable[[], Iterable[Counted]]
    if next(iter(read())).values.dtype.itemsize == 2:
        table = _tally(watched)
        first, again = iter([table]), lambda: [table]
    else:
        first, again = map(_singly, watched), lambda: map(_singly, read())
    sums = _Sums()
    for values, counts in first:
        sums = sums.joined(values, counts)
    deviation = math.sqrt(sums.squares / sums.count) if sums.count else 0.0
    low, high = (sums.minimum, sums.maximum) if sums.count else (0.0, 0.0)
    bins = bins if isinstance(bins, Bins) else Bins(low, high, bins)
    fourth, outliers, binned = 0.0, 0.0, np.zeros(bins.number, np.int64)
    for values, counts in again():
        binned += bins.count(values, counts)
        if deviation:
            squares = ((values - sums.mean) / deviation).square()
            fourth += _total(squares.square(), counts)
            outliers += _total((squares > OUTLIER**2).double(), counts)
    return Statistics(
        count=sums.count,
        not_finite=rows * columns - sums.count,
        minimum=low,
        maximum=high,
        mean=sums.mean,
        deviation=deviation,
        kurtosis=fourth / sums.count - 3.0 if deviation else 0.0,
        outlier_share=outliers / max(sums.count, 1),
        zero_share=sums.zeros / max(sums.count, 1),
        histogram=bins.histogram(binned),
        row_maxima=ranges.rows,
        column_maxima=ranges.columns,
    )


def _total(values: Tensor, counts: Tensor | None) -> float:
    return float(values.sum() if counts is None else torch.dot(values, counts))


@dataclass(frozen=True)
class _Ranges:
    rows: Tensor
    columns: Tensor

    def watching(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The pieces, after a look at the largest value of each of their rows and columns."""
        for piece in pieces:
            sizes = _sizes(piece.values)
            height, width = sizes.shape
            for kept, found in (
                (self.rows[piece.row : piece.row + height], sizes.amax(1)),
                (self.columns[piece.column : piece.column + width], sizes.amax(0)),
            ):
                torch.maximum(kept, found.view(piece.values.dtype).float().cpu(), out=kept)
            yield piece


def _sizes(values: Tensor) -> Tensor:
    """Numbers that ascend with |values|: of 16-bit floats the bits without the sign, which compare faster."""
    return values.view(torch.int16) & 0x7FFF if values.dtype.itemsize == 2 else values.abs()


def _tally(pieces: Iterable[Piece]) -> Counted:
    """The finite values of a 16-bit dtype that occur, ascending by their bits, and how often."""
    total = np.zeros(2**16, np.int64)
    dtype = torch.bfloat16
    for piece in pieces:
        dtype = piece.values.dtype
        bits = piece.values.cpu().view(torch.int16).numpy().view(np.uint16)
        total += np.bincount(bits.ravel(), minlength=2**16)
    values = torch.from_numpy(np.arange(2**16, dtype=np.uint16).view(np.int16)).view(dtype).double()
    counts = torch.from_numpy(total).double()
    there = (counts > 0) & values.isfinite()
    return values[there], counts[there]


def _singly(piece: Piece) -> Counted:
    """The finite values of a piece."""
    values = piece.values.flatten().cpu().double()
    if not math.isfinite(float(values.sum())):
        values = values[values.isfinite()]
    return values, None


@dataclass(frozen=True)
class _Sums:
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Of the distances from the mean."""
    minimum: float = math.inf
    maximum: float = -math.inf
    zeros: int = 0

    def joined(self, values: Tensor, counts: Tensor | None) -> _Sums:
        """With further values."""
        more = len(values) if counts is None else int(counts.sum())
        if not more:
            return self
        mean = _total(values, counts) / more
        squares = _total((values - mean).square(), counts)
        count, apart = self.count + more, mean - self.mean
        return _Sums(
            count=count,
            mean=self.mean + apart * more / count,
            squares=self.squares + squares + apart**2 * self.count * more / count,
            minimum=min(self.minimum, float(values.min())),
            maximum=max(self.maximum, float(values.max())),
            zeros=self.zeros + int(_total((values == 0).double(), counts)),
        )
