"""Uniform integers of 2 to 8 bits, symmetric or asymmetric, with a 16-bit scale a block.

Ranges and scales follow compressed-tensors' ``calculate_qparams``: codes are signed, from ``-2^(b-1)`` to
``2^(b-1) - 1``. With ``m`` the block's extreme values, both widened to contain 0,

    symmetric    scale = max|m| / ((2^b - 1) / 2),    w ~ scale * q
    asymmetric   scale = (max - min) / (2^b - 1),     w ~ scale * (q - z),   z = round(q_min - min / scale)

and ``q = clamp(round(w / scale + z))``, halves to even. The scale is rounded to float16 *before* the codes are
chosen, because float16 is what is stored; a zero point takes as many bits as a code.
Jacob et al. 2018 (arXiv:1712.05877), equation 1.

With a float zero point (``float``) the range is not widened and ``z = q_min - min / scale`` is stored as float16 as it
is, so that the grid need not hold 0. That is HQQ's convention (Badri and Shaji 2023, "Half-Quadratic Quantization"; at
4 bits HQQ itself rounds z): z counts steps, and the formula for w stays. torchao's ``ZeroPointDomain.FLOAT``, made for
the tinygemm kernel, stores the weight ``-scale * z`` of code 0 instead; both describe the same grids, up to the
rounding of what is stored. Far from 0 a step is at least 1/2048 of the largest magnitude, where float16 tells whole
zero points apart (ours; HQQ has a least step of 1/20000).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.formats._common import divided, half_scales
from quant_core.formats.base import Format, Grid, register
from quant_core.schema import FamilyInfo, FormatSpec

_FARTHEST = 2048.0
"""How many steps 0 may lie from a grid that does not hold it: float16 holds every whole number up to here."""


class IntegerFormat(Format):
    """Integers of ``bits`` bits; see the module's docstring for the arithmetic."""

    fused = True

    def __init__(self, spec: FormatSpec, bits: int) -> None:
        super().__init__(spec)
        self.bits = bits
        self.low = -(2 ** (bits - 1))
        self.high = 2 ** (bits - 1) - 1
        self.symmetric = spec.symmetry == "sym"
        self.float_zero = spec.symmetry == "float"

    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """Scales as float16 (blocks, 1); zero points (blocks, 1) as int8, or float16 for a float zero point.

        ``shrink`` moves both ends of the range towards 0, or towards the value nearest to 0 if all have one sign and
        the range need not hold 0.

        Raises:
            FormatError: The scale is beyond float16.
        """
        low, high = blocks.amin(dim=1, keepdim=True), blocks.amax(dim=1, keepdim=True)
        centre = torch.zeros_like(low)
        if self.float_zero:
            centre = centre.clamp(low, high)
        else:
            low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        if shrink is not None:
            low, high = centre + (low - centre) * shrink, centre + (high - centre) * shrink
        steps = float(self.high - self.low)
        reach = torch.maximum(-low, high)
        span = reach * 2.0 if self.symmetric else high - low
        if self.float_zero:
            span = torch.maximum(span, reach * (steps / _FARTHEST))
        scales = half_scales(divided(span, steps), blocks)
        if self.symmetric:
            return Grid(scales)
        zero = self.low - low / scales.float()
        if self.float_zero:
            return Grid(scales, zero.to(torch.float16))
        return Grid(scales, zero.round_().clamp_(self.low, self.high).to(torch.int8))

    def encode(self, values: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """Codes as int8."""
        scaled = values / grid.scales.float()
        if grid.zero_points is not None:
            scaled += grid.zero_points.float()
        return scaled.round_().clamp_(self.low, self.high).to(torch.int8)

    def decode(self, codes: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """``scale * (q - z)`` in float32."""
        values = codes.float()
        if grid.zero_points is not None:
            values -= grid.zero_points.float()
        return values.mul_(grid.scales.float())

    def levels(self, grid: Grid, position: int = 0) -> Tensor:
        """The ``2^bits`` values of the block."""
        every = torch.arange(self.low, self.high + 1, dtype=torch.int8, device=grid.scales.device)[None]
        return self.decode(every, grid)[0]

    def step(self, grid: Grid) -> Tensor:
        """The scale."""
        return grid.scales.float()


def _register(bits: int) -> None:
    register(
        FamilyInfo(
            name=f"int{bits}",
            title=f"INT{bits}",
            help=f"{2**bits} evenly spaced values a block, with a 16-bit scale; asymmetric adds a zero point of "
            f"{bits} bits, asymmetric with a float zero point one of 16.",
            source="Jacob et al. 2018, arXiv:1712.05877",
            granularities=("group", "channel", "tensor"),
            group_sizes=(32, 64, 128, 256),
            symmetries=("asym", "sym", "float"),
            default="g{group}/asym",
            value_bits=bits,
            scale_bits=16,
            uniform=True,
            clips=True,
            details={"scale_dtype": "float16"},
        ),
        lambda spec: IntegerFormat(spec, bits),
    )


for _bits in range(2, 9):
    _register(_bits)
