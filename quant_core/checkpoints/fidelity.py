"""How far a checkpoint's matrix is from the original's, with what AWQ does to both sides of a layer undone.

AWQ (Lin et al. 2024) multiplies the inputs of a layer by scales that the layer before is divided by, which changes the
weights and not what the model computes. Where ``W' = diag(r) W diag(c)`` explains a matrix much better than ``W`` does,
the error is that of ``diag(r)^-1 W' diag(c)^-1``, with r and c by alternating least squares.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_SUSPECT = 0.05
"""Relative error from which a matrix may have been rescaled: INT4 makes more, AWQ's scales seldom less."""
_ROUNDS = 3
_ROWS = 256
"""That are looked at first, and whose squares are added up at once."""
_BETTER = 0.25
"""Share of the squared error that rescaling must leave at most to be believed."""


class Distance(NamedTuple):
    """Sums over the values of a matrix; relative error is the root of their quotient."""

    squares: float
    """|W' - W|^2."""
    norm: float
    """|W|^2."""
    rescaled: bool


def distance(values: Tensor, original: Tensor, *, whole: bool) -> Distance:
    """How far values (rows, columns) are from the original's; a ``whole`` matrix may turn out to be rescaled.

    Not finite if the values are not.
    """
    origin = original.detach().cpu().float()
    squares, norm = _squares(values - origin), _squares(origin)
    step = -(-len(origin) // _ROWS)  # some of the rows tell whether a look at all of them is worth its time
    if whole and squares > _SUSPECT**2 * norm and _explained(values[::step], origin[::step]) is not None:
        undone = _explained(values, origin)
        if undone is not None:
            return Distance(undone, norm, True)
    return Distance(squares, norm, False)


def _explained(values: Tensor, original: Tensor) -> float | None:
    """What rescaling leaves of |W' - W|^2; None where that is more than a small part of it."""
    undone = _squares(_undone(values, original) - original)
    return undone if undone <= _BETTER * _squares(values - original) else None


def _squares(values: Tensor) -> float:
    """The sum of squares, in float64 without a copy of all values in it."""
    return sum(float(some.double().square().sum()) for some in values.split(_ROWS))


def _undone(values: Tensor, original: Tensor) -> Tensor:
    rows = torch.ones(len(original), 1)
    columns = torch.ones(1, original.shape[1])
    for _ in range(_ROUNDS):
        base = original * rows
        columns = _quotient((base * values).sum(0, keepdim=True), base.square().sum(0, keepdim=True))
        base = original * columns
        rows = _quotient((base * values).sum(1, keepdim=True), base.square().sum(1, keepdim=True))
    return values / (rows * columns)


def _quotient(upper: Tensor, lower: Tensor) -> Tensor:
    """Scales that are no zeros: 1 where there is nothing to learn one from."""
    found = upper / lower
    return torch.where(found.isfinite() & (found.abs() > 1e-6), found, torch.ones_like(found))
