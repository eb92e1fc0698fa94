"""The score without the model: the Fisher information of each unit as products of two small matrices.

For a unit with inputs x and output gradients g, the Fisher score 1/2 mean (g . dW x)^2 is a quadratic form in dW.
Taken as if g and x were independent it needs only their second moments,

    score = 1/2 tr(G dW A dW') = 1/2 |F_g dW F_x'|^2,      A = F_x' F_x = E[x x'],  G = F_g' F_g = E[g g'],

the Kronecker-factored form (Martens and Grosse 2015, arXiv:1503.05671, section 3). That holds for most units. It does
not for keys and values: an error in them acts on many later positions at once, through the attention. There the slope
at a token t is <M_t, dW> with a matrix M_t = sum_s (J' g_t)_s x_s' over all tokens s that t looks back at, J the map
from the projection's output to the attention's (``calibration.attention``). No M_t is ever made: with signs e_t = +-1
one pull-back of all tokens' e_t g_t gives M = sum_t e_t M_t, and the mean over signs of <M, dW>^2 is the sum of the
squared slopes (Hutchinson 1990). From such M the nearest Kronecker factors in one step are

    F ~ L (x) R / tr L,      L = E[M M'],  R = E[M' M]

(Gupta et al. 2018, "Shampoo", arXiv:1802.09568; Morwani et al. 2024, arXiv:2406.17748, on the step). A table that is
looked up has L diagonal: how often, and with how large a gradient, each of its rows was used. The head's L is taken as
diagonal too, for its gradients are one hot word less the predicted chances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

WIDE = 4096
"""Sides beyond this are kept as sampled rows: a moment would be larger."""
ROWS = 1024
"""Rows that are kept of such a side, about."""
_DAMPING = 1e-6
"""Part of a moment's mean diagonal that is added so that it has a Cholesky factor; raised until it has."""
_BANDS = 4
"""Bands of rows in which a triangle is worked on."""


@dataclass(frozen=True)
class Term:
    """One product: 1/2 |left dW right'|^2.

    ``left`` is (k, rows), or (rows,) for a diagonal; ``right`` is (k, columns), or None for the root of the inputs. A
    square one is upper triangular, up to ``WIDE``.
    """

    left: Tensor
    right: Tensor | None


class Cost(NamedTuple):
    """What an error of a weight does."""

    score: float
    """Second-order KL in nats a token, without anchor."""
    energy: float
    """Mean |dW x|^2 over the text's tokens, lookups left out."""


def cost(error: Tensor, terms: Sequence[Term], inputs: Tensor) -> Cost:
    """What an error does: the sum over a unit's terms, and how far its outputs move.

    Args:
        error: dW (rows, columns).
        terms: The unit's.
        inputs: F_x, (k, columns); without rows where the unit multiplies nothing.
    """
    through = _times(inputs, error.T)
    total = 0.0
    for term in terms:
        moved = through if term.right is None else _times(term.right, error.T)
        total += square(term.left * moved if term.left.dim() == 1 else _times(term.left, moved.T))
    return Cost(total / 2, square(through))


def _times(root: Tensor, other: Tensor) -> Tensor:
    """``root`` (k, width) times ``other`` (width, n); the zeros of a triangular root are left out where they can be."""
    width = root.shape[1]
    if width > WIDE or len(root) != width:
        return root @ other
    return torch.cat([root[rows, rows.start :] @ other[rows.start :] for rows in _bands(width)])


def _bands(width: int) -> list[slice]:
    """A few bands of rows of an upper triangle: cut at their first column, they hold 5/8 of the square."""
    step = -(-width // _BANDS)
    return [slice(start, start + step) for start in range(0, width, step)]


def diagonal(terms: Sequence[Term], inputs: Tensor) -> Tensor:
    """What a squared error of each single weight counts, (rows, columns): the diagonal of the Fisher information."""
    parts = []
    for term in terms:
        left = term.left.square() if term.left.dim() == 1 else term.left.square().sum(dim=0)
        right = inputs if term.right is None else term.right
        parts.append(left[:, None] * right.square().sum(dim=0))
    return torch.stack(parts).sum(dim=0)


def square(values: Tensor) -> float:
    """The sum of squares."""
    return float(torch.linalg.vector_norm(values)) ** 2


class Moment:
    """The sum of v v' over rows v (n, width), or a sample of the rows where they are wider than ``WIDE``.

    Only the upper triangle of the sum is made, a few bands of rows at a time.

    Args:
        width: Values a row.
        expected: How many rows will come, about.
        device: Where they are.
    """

    def __init__(self, width: int, expected: int, device: torch.device) -> None:
        self.count = 0
        self._sum = torch.zeros(width, width, device=device) if width <= WIDE else None
        self._stride = max(1, -(-expected // ROWS))
        self._kept: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        """Count ``rows`` (n, width)."""
        if self._sum is not None:
            wide = rows if _wide(rows) else rows.float()
            for band in _bands(wide.shape[1]):
                left, right = wide[:, band].T, wide[:, band.start :]
                if _wide(wide):
                    self._sum[band, band.start :] += _product(left, right)
                else:
                    self._sum[band, band.start :].addmm_(left, right)
        else:
            self._kept.append(rows[-self.count % self._stride :: self._stride].float())
        self.count += len(rows)

    def root(self, total: float) -> Tensor:
        """F with F' F = the sum / ``total``: upper triangular (width, width), or the sampled rows (k, width)."""
        if self._sum is not None:
            return root_of(self._sum / total)
        scaled: Tensor = torch.cat(self._kept) * (self._stride / total) ** 0.5
        return scaled


def root_of(moment: Tensor) -> Tensor:
    """Upper triangular F with F' F = moment (width, width), damped as little as a factorization allows.

    Of the moment only the upper triangle is read.
    """
    wide = torch.float32 if moment.device.type == "mps" else torch.float64
    mean = moment.diagonal().mean().to(wide)
    for power in range(6):
        damped = moment.to(wide, copy=True)
        damped.diagonal().add_(mean * _DAMPING * 10**power)
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(damped, upper=True)
        if not bool(failed):
            return factor.float()
    return torch.zeros_like(moment)


def behind_rows(pulled: Tensor, inputs: Tensor, sequences: int) -> Tensor:
    """M = E' X of each sequence, (sequences, rows, columns).

    Args:
        pulled: E, signed gradients pulled back to a projection's output, (n, rows).
        inputs: X, what entered the projection, (n, columns).
        sequences: How many sequences of one length the n tokens are.
    """
    left = pulled.to(inputs.dtype).unflatten(0, (sequences, -1)).transpose(1, 2)
    return _product(left, inputs.unflatten(0, (sequences, -1))).to(
        inputs.dtype if _wide(inputs) else torch.float32
    )


def _wide(values: Tensor) -> bool:
    """Whether a GPU multiplies the values as they are and sums up in float32."""
    return values.is_cuda and values.dtype == torch.bfloat16


def _product(left: Tensor, right: Tensor) -> Tensor:
    """A matrix product in float32, batched or not."""
    if _wide(left) and _wide(right):
        multiply = torch.mm if left.dim() == 2 else torch.bmm
        return multiply(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()
