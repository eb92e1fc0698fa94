"""Matrices a piece at a time, for work that must not hold a second copy of a whole one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

PIECE = 2**20
"""Values in a piece: what is made of them, in 64 bits too, stays in the processor's cache or near it."""


@dataclass(frozen=True)
class Piece:
    """A rectangle of a matrix (outputs, inputs)."""

    row: int
    """Of the matrix, where its first row lies; ``column`` likewise."""
    column: int
    values: Tensor
    """(some rows, some columns), sharing storage with what it was cut from."""


def cut(matrix: Tensor, row: int = 0, size: int = PIECE) -> Iterator[Piece]:
    """Pieces of at most ``size`` values, or a single line, along the direction in which the matrix is stored.

    Args:
        matrix: (rows, columns), perhaps a transposed view.
        row: Where its first row lies in the matrix that it is part of.
        size: Values a piece.
    """
    turned = matrix.stride(0) < matrix.stride(1)
    lines = matrix.T if turned else matrix
    step = max(1, size // lines.shape[1])
    for start in range(0, len(lines), step):
        part = lines[start : start + step]
        yield Piece(row, start, part.T) if turned else Piece(row + start, 0, part)
