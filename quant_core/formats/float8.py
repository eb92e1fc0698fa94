"""FP8 E4M3: an 8-bit float with 4 exponent and 3 mantissa bits, scaled so that the block's largest value is 448.

The rounding is PyTorch's ``float8_e4m3fn`` (to nearest, halves to even, no infinities); the scale is float32.
Micikevicius et al. 2022, "FP8 formats for deep learning" (arXiv:2209.05433).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.formats.base import Format, Grid, register
from quant_core.schema import FamilyInfo

LARGEST = torch.finfo(torch.float8_e4m3fn).max


class Float8E4M3(Format):
    """FP8 E4M3 with one float32 scale a channel or tensor."""

    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """Scales as float32 (blocks, 1)."""
        largest = blocks.abs().amax(dim=1, keepdim=True)
        if shrink is not None:
            largest = largest * shrink
        return Grid((largest / LARGEST).clamp(min=torch.finfo(torch.float32).tiny))

    def encode(self, values: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """Codes as float8_e4m3fn."""
        return (values / grid.scales).clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)

    def decode(self, codes: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """``scale * code`` in float32."""
        return codes.float() * grid.scales

    def levels(self, grid: Grid, position: int = 0) -> Tensor:
        """The 253 different finite values of the block."""
        numbers = torch.arange(256, dtype=torch.int16, device=grid.scales.device)
        every = numbers.to(torch.uint8).view(torch.float8_e4m3fn).float()
        values: Tensor = torch.unique(every[torch.isfinite(every)] * grid.scales[0, 0])
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
        kind="8-bit",
        clips=True,
        details={"scale_dtype": "float32"},
    ),
    Float8E4M3,
)
