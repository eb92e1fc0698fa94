"""What rounding methods and rewrites learn from the calibration text, one value a unit; ``statistics`` collects it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

SAMPLES = 512
"""Whole inputs kept a unit, for methods that run the layer itself."""


@dataclass(frozen=True)
class Inputs:
    """What entered one unit, over ``rows`` tokens: fewer than the text's for an expert, 0 if it saw none."""

    moment: Tensor
    """Mean of x x', (columns, columns) float32."""
    mean_abs: Tensor
    """Mean of |x|, (columns,)."""
    largest: Tensor
    """Largest |x|, (columns,)."""
    samples: Tensor
    """Some of the inputs, evenly spread over the tokens, (at most about ``SAMPLES``, columns)."""
    rows: int
    fisher: Tensor | None = None
    """Mean of (g_i x_j)^2 over the text's tokens, (rows, columns) of the unit: g is the gradient at its outputs for
    labels drawn from the model, so that this is the diagonal of the Fisher information. None unless asked for."""
