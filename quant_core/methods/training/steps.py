"""Gradients through rounding: the straight-through estimator, and step sizes that are learned.

Rounding has a derivative of zero almost everywhere. The straight-through estimator (Bengio et al. 2013,
arXiv:1308.3432) takes it for the identity. Learned step size quantization (LSQ, Esser et al. 2020, arXiv:1902.08153)
differentiates the whole quantizer that way, after the step too. With x = w / s + z, q = clamp(round(x), low, high) and
w^ = s (q - z), and L the loss,

    dw^/dw = 1 where low <= x <= high, else 0                                     (equation 5)
    dw^/ds = q - x where low <= x <= high (round(v) - v in the paper), else q - z  (equation 3)

and the sum over a block is multiplied by 1 / sqrt(N high), N values in the block (section 2.2). Here the stored scale
is a float16, whose rounding counts as the identity too, so that what is trained is what is stored. Integer zero points
stay as they were chosen; one that is a float is learned like the offset of LSQ+ (Bhalgat et al. 2020,
arXiv:2004.09576, equation 5): dw^/dz = 0 inside the range, and -s beyond it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from quant_core.formats import Format, Grid
from quant_core.formats.integer import IntegerFormat

_SMALLEST = 2.0**-24
_LARGEST = torch.finfo(torch.float16).max


def learns_steps(form: Format) -> bool:
    """Whether ``form`` is a uniform integer, whose steps can be learned; others are trained straight through."""
    return isinstance(form, IntegerFormat) and not form.spec.double


def stored_grid(form: Format, scales: Tensor, zeros: Tensor | None) -> Grid:
    """The grid as it is stored, of float32 scales and zero points (blocks, 1) that were trained."""
    half = scales.detach().clamp(_SMALLEST, _LARGEST).to(torch.float16)
    if zeros is None:
        return Grid(half)
    integer = form.spec.symmetry != "float"
    return Grid(half, zeros.detach().to(torch.int8 if integer else torch.float16))


class _LearnedStep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, scales: Tensor, zeros: Tensor | None, form: IntegerFormat
    ) -> Tensor:
        grid = stored_grid(form, scales, zeros)
        codes = form.encode(values, grid)
        ctx.form, ctx.grid = form, grid
        ctx.save_for_backward(values, codes)
        return form.decode(codes, grid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        values, codes = ctx.saved_tensors
        form, grid = ctx.form, ctx.grid
        scales = grid.scales.float()
        zeros = scales.new_zeros(()) if grid.zero_points is None else grid.zero_points.float()
        place = values / scales + zeros
        inside = (place >= form.low) & (place <= form.high)
        factor = 1.0 / math.sqrt(values.shape[1] * max(form.high, 1))
        slope = codes.float() - torch.where(inside, place, zeros)
        by_scale = (gradient * slope).sum(dim=1, keepdim=True) * factor
        by_zero = None
        if ctx.needs_input_grad[2]:
            by_zero = (gradient * ~inside).sum(dim=1, keepdim=True) * -scales * factor
        return gradient * inside, by_scale, by_zero, None


def learned_step(values: Tensor, scales: Tensor, zeros: Tensor | None, form: Format) -> Tensor:
    """``values`` (blocks, block size) rounded on a grid that gets gradients too.

    Args:
        values: Float32 weights.
        scales: Float32 (blocks, 1), before they are rounded to float16.
        zeros: Float32 zero points (blocks, 1), whole numbers unless the format has float ones; None if symmetric.
        form: A format that ``learns_steps``.
    """
    rounded: Tensor = _LearnedStep.apply(values, scales, zeros, form)  # type: ignore[no-untyped-call]
    return rounded


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, form: Format) -> Tensor:
        grid = form.fit(values)
        return form.decode(form.encode(values, grid), grid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def straight_through(values: Tensor, form: Format) -> Tensor:
    """``values`` (blocks, block size) rounded to nearest on grids fitted to them; gradients pass as they come."""
    rounded: Tensor = _Through.apply(values, form)  # type: ignore[no-untyped-call]
    return rounded
