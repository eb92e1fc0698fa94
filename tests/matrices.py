"""Random weights for tests of number formats."""

from __future__ import annotations

import torch
from torch import Tensor


def random_matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    """A float32 matrix (rows, columns) with the spread that weights have."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


def hard_rows(largest: float) -> Tensor:
    """Rows (6, 300) of zeros, with one value of ``largest``, of subnormals, tiny, constant, and of one sign."""
    matrix = random_matrix(6, 300, seed=9)
    matrix[0] = 0.0
    matrix[1, 7] = largest
    matrix[2] = 1e-42
    matrix[3] *= 1e-6
    matrix[4] = 0.05
    matrix[5] = 1.0 + matrix[5].abs() / 100
    return matrix
