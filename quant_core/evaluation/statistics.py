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
from torch import Tensor

from quant_core.models.pieces import Piece
from quant_core.schema import Histogram

OUTLIER = 4.0
"""Standard deviations from the mean beyond which a weight counts as an outlier."""

Counted = tuple[Tensor, Tensor]
"""Finite values, float64, and how often each of them occurs, float64, both (n,)."""


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


def statistics(
    read: Callable[[], Iterable[Piece]], rows: int, columns: int, bins: int | Tensor
) -> Statistics:
    """Statistics of a matrix.

    Args:
        read: Gives its pieces, all of one dtype, which together are the whole matrix; called up to three times.
        rows: Of the matrix.
        columns: Of the matrix.
        bins: How many equal bins the histogram has from the least to the largest value, or their edges, float64.
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
    edges = bins if isinstance(bins, Tensor) else _edges(sums.minimum, sums.maximum, bins)
    fourth, outliers, binned = 0.0, 0, torch.zeros(len(edges) - 1, dtype=torch.int64)
    for values, counts in again():
        distances = (values - sums.mean).abs()
        binned += binned_counts(values, edges, counts)
        if deviation:
            fourth += float((distances / deviation).pow(4).mul(counts).sum())
            outliers += int(counts[distances > OUTLIER * deviation].sum())
    return Statistics(
        count=sums.count,
        not_finite=rows * columns - sums.count,
        minimum=sums.minimum if sums.count else 0.0,
        maximum=sums.maximum if sums.count else 0.0,
        mean=sums.mean,
        deviation=deviation,
        kurtosis=fourth / sums.count - 3.0 if deviation else 0.0,
        outlier_share=outliers / max(sums.count, 1),
        zero_share=sums.zeros / max(sums.count, 1),
        histogram=histogram(edges, binned),
        row_maxima=ranges.rows,
        column_maxima=ranges.columns,
    )


def binned_counts(values: Tensor, edges: Tensor, counts: Tensor | None = None) -> Tensor:
    """How many of ``values`` (n,) lie between neighbouring ``edges`` (bins + 1,), int64 (bins,).

    A value on an edge belongs to the bin above it; what lies beyond the ends belongs to the bins there.
    """
    size = len(edges) - 1
    places = (torch.bucketize(values, edges, right=True) - 1).clamp(0, size - 1)
    return torch.bincount(places, counts, minlength=size).to(torch.int64)


def histogram(edges: Tensor, counts: Tensor) -> Histogram:
    """Edges and counts as plain numbers."""
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


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
    """The finite values of a piece, each as often as it stands there."""
    values = piece.values.flatten().cpu().double()
    finite = values.isfinite()
    values = values if bool(finite.all()) else values[finite]
    return values, torch.ones_like(values)


@dataclass(frozen=True)
class _Sums:
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Of the distances from the mean."""
    minimum: float = math.inf
    maximum: float = -math.inf
    zeros: int = 0

    def joined(self, values: Tensor, counts: Tensor) -> _Sums:
        """With further values."""
        more = int(counts.sum())
        if not more:
            return self
        mean = float((values * counts).sum()) / more
        squares = float((values - mean).square().mul(counts).sum())
        count, apart = self.count + more, mean - self.mean
        return _Sums(
            count=count,
            mean=self.mean + apart * more / count,
            squares=self.squares + squares + apart**2 * self.count * more / count,
            minimum=min(self.minimum, float(values.min())),
            maximum=max(self.maximum, float(values.max())),
            zeros=self.zeros + int(counts[values == 0].sum()),
        )


def _edges(low: float, high: float, bins: int) -> Tensor:
    if low > high:  # no value is finite
        low = high = 0.0
    return torch.from_numpy(np.linspace(low, high, bins + 1))
