"""HQQ: zero points (or scales) that make most weights exact and leave the error to a few; needs no text.

Half-quadratic splitting of min |W - decode(encode(W))|_p^p with p = 0.7, a norm that forgives outliers. With e standing
for the errors that are forgiven, repeat (Badri and Shaji 2023, "Half-quadratic quantization of large machine learning
models", section "Quantization"):

    e <- shrink(W - decode(q)),   shrink(x) = sign(x) max(|x| - |x|^(p-1) / beta, 0),   beta <- kappa beta
    z <- mean(q - (W - e) / s)   or   s <- sum (W - e)(q - z) / sum (q - z)^2
    q <- encode(W)

with beta 10, kappa 1.01 and 20 rounds. W is measured in units of the block's first step here, as beta knows no scale;
the authors' code leaves it as it is and so forgives errors of large and small layers differently.

The authors move a zero point that is a float. Where the format has one, so do we. A zero point stored as an integer
would round back to where it was nearly always, so that there, and where there is none, the scale moves, by least
squares. Both are rounded to what is stored in every round. Of all rounds a block keeps the grid of least squared
error, the first one being nearest's: it never ends worse than rounding to nearest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.calibration.inputs import Inputs
from quant_core.errors import FormatError
from quant_core.formats import Codes, Format, Grid, to_blocks
from quant_core.methods.rounding._common import errors
from quant_core.methods.rounding.base import Rounded, Rounding, register
from quant_core.schema import FamilyInfo, MethodInfo

NORM, BETA, KAPPA, ROUNDS = 0.7, 10.0, 1.01, 20


class Hqq(Rounding):
    """Half-quadratic optimisation of each block's zero point, or scale."""

    def round(self, matrix: Tensor, form: Format, inputs: Inputs | None) -> Rounded:
        """Codes on each block's best grid.

        Raises:
            FormatError: The scales would have to move, but are themselves quantized.
        """
        if form.spec.double and form.spec.symmetry != "float":
            raise FormatError(
                f"HQQ cannot move the quantized scales of {form.spec.format}.",
                "Leave out dq, or use a float zero point.",
            )
        blocks = to_blocks(matrix, form)
        grid = best = form.fit(blocks)
        least = errors(blocks, form, best)
        unit = form.step(grid)
        beta = BETA
        for _ in range(ROUNDS):
            codes = form.encode(blocks, grid)
            target = blocks - unit * _shrunk((blocks - form.decode(codes, grid)) / unit, beta)
            move = _zero_points if form.spec.symmetry == "float" else _scales
            grid = move(target, codes.float(), grid)
            error = errors(blocks, form, grid)
            best = _merged(error < least, grid, best)
            least = torch.minimum(error, least)
            beta *= KAPPA
        return Rounded(Codes(form.encode(blocks, best), best))


def _shrunk(values: Tensor, beta: float) -> Tensor:
    """The generalised soft threshold: what of each error is forgiven."""
    size = values.abs()
    return values.sign() * (size - size.clamp(min=1e-12).pow(NORM - 1) / beta).clamp_(min=0.0)


def _zero_points(target: Tensor, codes: Tensor, grid: Grid) -> Grid:
    """The float zero points for which ``s (q - z)`` is nearest to ``target``, as they are stored."""
    assert grid.zero_points is not None
    zero = (codes - target / grid.scales.float()).mean(dim=1, keepdim=True)
    return Grid(grid.scales, zero.to(grid.zero_points.dtype), grid.extras)


def _scales(target: Tensor, codes: Tensor, grid: Grid) -> Grid:
    """The scales for which ``s (q - z)`` is nearest to ``target``, as they are stored; unmoved if not positive."""
    steps = codes if grid.zero_points is None else codes - grid.zero_points.float()
    scales = (target * steps).sum(dim=1, keepdim=True) / steps.square().sum(dim=1, keepdim=True).clamp(min=1)
    stored = scales.to(grid.scales.dtype)
    usable = (stored > 0) & torch.isfinite(stored)
    return Grid(torch.where(usable, stored, grid.scales), grid.zero_points, grid.extras)


def _merged(better: Tensor, new: Grid, old: Grid) -> Grid:
    """The new grids of blocks where they are better, (blocks,), and the old ones of the others."""
    which = better[:, None]
    zero = new.zero_points
    if zero is not None and old.zero_points is not None:
        zero = torch.where(which, zero, old.zero_points)
    return Grid(torch.where(which, new.scales, old.scales), zero, old.extras)


def _refuses(family: FamilyInfo) -> str:
    if family.uniform and family.symmetries:
        return ""
    why = "follow a rule of their own" if family.uniform else "are not evenly spaced"
    return f"HQQ moves the scales or zero points of plain integers, and the values of {family.title} {why}."


register(
    MethodInfo(
        name="hqq",
        title="HQQ",
        help="Moves zero points so that most weights are exact and a few outliers are not; needs no text.",
        source="Badri and Shaji 2023, Half-Quadratic Quantization",
    ),
    Hqq,
    _refuses,
)
