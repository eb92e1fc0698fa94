"""Uniform integers of 2 to 8 bits, symmetric or asymmetric, with a 16-bit scale a block.

Ranges and scales follow compressed-tensors' ``calculate_qparams``: codes are signed, from ``-2^(b-1)`` to
``2^(b-1) - 1``. With ``m`` the block's extreme values, both widened to contain 0,

    symmetric    scale = max|m| / ((2^b - 1) / 2),    w ~ scale * q
    asymmetric   scale = (max - min) / (2^b - 1),     w ~ scale * (q - z),   z = round(q_min - min / scale)

and ``q = clamp(round(w / scale + z))``, halves to even. The scale is rounded to float16 *before* the codes are
chosen, because float16 is what is stored; a zero point takes as many bits as a code.
Jacob et al. 2018 (arXiv:1712.05877), equation 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.errors import FormatError
from quant_core.formats.base import Format, Grid, register
from quant_core.schema import FamilyInfo, FormatSpec

_LARGEST = torch.finfo(torch.float16).max
_SMALLEST = torch.finfo(torch.float16).tiny * 2.0**-10  # 2^-24, the smallest subnormal


class IntegerFormat(Format):
    """Integers of ``bits`` bits; see the module's docstring for the arithmetic."""

    def __init__(self, spec: FormatSpec, bits: int) -> None:
        super().__init__(spec)
        self.bits = bits
        self.low = -(2 ** (bits - 1))
        self.high = 2 ** (bits - 1) - 1
        self.symmetric = spec.symmetry == "sym"

    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """Scales as float16 (blocks, 1), zero points as int8 (blocks, 1)."""
        low = blocks.amin(dim=1, keepdim=True).clamp(max=0.0)
        high = blocks.amax(dim=1, keepdim=True).clamp(min=0.0)
        if shrink is not None:
            low, high = low * shrink, high * shrink
        steps = float(self.high - self.low)
        span = torch.maximum(-low, high) * 2.0 if self.symmetric else high - low
        if float(span.max()) / steps > _LARGEST:
            raise FormatError(
                f"The weight reaches {float(blocks.abs().max()):.3g}, beyond what a float16 scale can hold.",
                "Keep this weight in its original format.",
            )
        scales = (span / steps).clamp(min=_SMALLEST).to(torch.float16)
        if self.symmetric:
            return Grid(scales)
        zero = (self.low - low / scales.float()).round_().clamp_(self.low, self.high)
        return Grid(scales, zero.to(torch.int8))

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
            help=f"{2**bits} evenly spaced values a block, with a 16-bit scale; asymmetric adds a zero point.",
            source="Jacob et al. 2018, arXiv:1712.05877",
            granularities=("group", "channel", "tensor"),
            group_sizes=(32, 64, 128),
            symmetries=("asym", "sym"),
            default="g{group}/asym",
            value_bits=bits,
            scale_bits=16,
            uniform=True,
            clips=True,
            details={"scale_dtype": "float16"},
        ),
        lambda spec: IntegerFormat(spec, bits),
    )


for _bits in (2, 3, 4, 5, 6, 8):
    _register(_bits)
