"""NVFP4: 4-bit floats (E2M1) in blocks of 16, with an E4M3 scale a block and a float32 scale a tensor.

NVIDIA 2025, "Pretraining Large Language Models with NVFP4" (arXiv:2509.25149), section 2 and appendix. With m the
largest magnitude of the whole weight and m_b that of a block,

    S = m / (448 * 6),    s_b = E4M3(m_b / (6 S)),    code = E2M1(w / (S s_b)),    w ~ S * s_b * code,

so that the largest block's scale is E4M3's largest number, 448. Everything rounds to nearest, halves to even, and
saturates; a block scale that would become 0 is E4M3's smallest number, 2^-9, instead.

torchao's ``nvfp4_quantize`` with a scale a tensor gives the same codes and scales for every block whose s_b is at
least 2^-6; it allows no smaller one, subnormals of E4M3 left unused, and so loses blocks that stay below a 28,672nd
part of m. It multiplies by 1 / S / s_b where we divide, so a tie may go the other way. compressed-tensors stores 1 / S
and gives the same values down to s_b = 2^-9; where s_b would become 0 it takes 0.125.

Clipping makes block scales smaller; the scale of the tensor stays.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.formats._common import Minifloat
from quant_core.formats.base import Format, Grid, register
from quant_core.schema import FamilyInfo

_ELEMENT = Minifloat(2, 1)
_LARGEST = 6.0
_LARGEST_SCALE = 448.0
_SMALLEST_SCALE = 2.0**-9
BLOCK = 16
"""Values that share an E4M3 scale."""
TENSOR = "tensor_scale"
"""Name of the float32 scale of the tensor, (1, 1), among a grid's extras."""


class NVFP4(Format):
    """NVFP4 with two levels of scales."""

    independent = False

    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """Scales as float8_e4m3fn (blocks, 1), and the scale of all of them together, float32."""
        largest = blocks.abs().amax(dim=1, keepdim=True)
        tensor = (largest.amax().reshape(1, 1) / (_LARGEST_SCALE * _LARGEST)).clamp(
            min=torch.finfo(torch.float32).tiny
        )
        if shrink is not None:
            largest = largest * shrink
        scales = (largest / _LARGEST / tensor).clamp(_SMALLEST_SCALE, _LARGEST_SCALE)
        return Grid(scales.to(torch.float8_e4m3fn), extras={TENSOR: tensor})

    def encode(self, values: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """Codes as uint8: sign, two bits of exponent, one of mantissa."""
        return _ELEMENT.encode(values / _scales(grid))

    def decode(self, codes: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """``S * s_b * code`` in float32."""
        return _ELEMENT.decode(codes) * _scales(grid)

    def levels(self, grid: Grid, position: int = 0) -> Tensor:
        """The fifteen values of the block."""
        return _ELEMENT.numbers(grid.scales.device) * _scales(grid)[0, 0]


def _scales(grid: Grid) -> Tensor:
    """What a block's elements are multiplied by, float32 (blocks, 1)."""
    return grid.scales.float() * grid.extras[TENSOR]


register(
    FamilyInfo(
        name="nvfp4",
        title="NVFP4",
        help="4-bit floats (E2M1) in blocks of 16 with an 8-bit float scale each, and a 32-bit scale a weight.",
        source="NVIDIA 2025, arXiv:2509.25149",
        granularities=("none",),
        group_sizes=(),
        symmetries=(),
        default="",
        value_bits=4,
        scale_bits=8,
        kind="Microscaling",
        block=BLOCK,
        tensor_bits=32,
        clips=True,
        details={"scale_dtype": "float8_e4m3fn", "tensor_scale_dtype": "float32", "element_dtype": "e2m1"},
    ),
    NVFP4,
)
