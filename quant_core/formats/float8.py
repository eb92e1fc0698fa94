"""FP8 E4M3: an 8-bit float with 4 exponent and 3 mantissa bits, scaled so that the block's largest value is 448.

The rounding is PyTorch's ``float8_e4m3fn`` (to nearest, halves to even, no infinities); the scale is float32.
Micikevicius et al. 2022, "FP8 formats for deep learning" (arXiv:2209.05433).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.formats.base import Codes, Format, register
from quant_core.schema import FamilyInfo

LARGEST = torch.finfo(torch.float8_e4m3fn).max


class Float8E4M3(Format):
    """FP8 E4M3 with one float32 scale a channel or tensor."""

    def quantize(self, blocks: Tensor) -> Codes:
        """Codes as float8_e4m3fn (blocks, block size), scales as float32 (blocks, 1)."""
        largest = blocks.abs().amax(dim=1, keepdim=True)
        scales = (largest / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        return Codes((blocks / scales).clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scales)

    def dequantize(self, codes: Codes) -> Tensor:
        """``scale * code`` in float32."""
        return codes.values.float() * codes.scales

    def grid(self, codes: Codes) -> Tensor:
        """The 253 different finite values of the block."""
        numbers = torch.arange(256, dtype=torch.int16, device=codes.scales.device)
        every = numbers.to(torch.uint8).view(torch.float8_e4m3fn).float()
        values: Tensor = torch.unique(every[torch.isfinite(every)]) * codes.scales[0, 0]
        return values


register(
    FamilyInfo(
        name="fp8_e4m3",
        title="FP8 E4M3",
        help="8-bit floats (4 exponent, 3 mantissa bits): fine steps near zero, coarse ones far out.",
        source="Micikevicius et al. 2022, arXiv:2209.05433",
        granularities=("channel", "tensor"),
        group_sizes=(),
        symmetries=(),
        default="channel",
        value_bits=8,
        scale_bits=32,
    ),
    Float8E4M3,
)
