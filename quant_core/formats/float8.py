"""FP8: 8-bit floats, scaled so that the block's largest magnitude becomes the largest number of the type.

E4M3 has 4 exponent and 3 mantissa bits and reaches 448; E5M2 has 5 and 2, and reaches 57344: more range, coarser
steps. The scale is float32, one for the whole weight, an output row, or a square of 128 by 128 as in DeepSeek-V3
(arXiv:2412.19437, section 3.3.2). Rounding is PyTorch's cast to ``float8_e4m3fn`` and ``float8_e5m2`` (to nearest,
halves to even) of values clamped to the finite range; no code is an infinity or NaN.
Micikevicius et al. 2022, "FP8 formats for deep learning" (arXiv:2209.05433).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.formats._common import divided
from quant_core.formats.base import Format, Grid, register
from quant_core.schema import FamilyInfo, FormatSpec


class Float8(Format):
    """8-bit floats of a torch ``dtype`` with one float32 scale a block."""

    def __init__(self, spec: FormatSpec, dtype: torch.dtype) -> None:
        super().__init__(spec)
        self.dtype = dtype
        self.largest = torch.finfo(dtype).max

    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """Scales as float32 (blocks, 1)."""
        largest = blocks.abs().amax(dim=1, keepdim=True)
        if shrink is not None:
            largest = largest * shrink
        return Grid(divided(largest, self.largest).clamp(min=torch.finfo(torch.float32).tiny))

    def encode(self, values: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """Codes in the float8 dtype."""
        return (values / grid.scales).clamp_(-self.largest, self.largest).to(self.dtype)

    def decode(self, codes: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """``scale * code`` in float32."""
        return codes.float() * grid.scales

    def levels(self, grid: Grid, position: int = 0) -> Tensor:
        """The different finite values of the block: 253 of E4M3, 247 of E5M2."""
        numbers = torch.arange(256, dtype=torch.int16, device=grid.scales.device)
        every = numbers.to(torch.uint8).view(self.dtype).float()
        values: Tensor = torch.unique(every[torch.isfinite(every)] * grid.scales[0, 0])
        return values


def _register(name: str, title: str, text: str, dtype: torch.dtype) -> None:
    register(
        FamilyInfo(
            name=name,
            title=title,
            help=text,
            source="Micikevicius et al. 2022, arXiv:2209.05433",
            granularities=("channel", "tensor", "block"),
            group_sizes=(),
            symmetries=(),
            default="channel",
            value_bits=8,
            scale_bits=32,
            kind="8-bit",
            clips=True,
            details={"scale_dtype": "float32"},
        ),
        lambda spec: Float8(spec, dtype),
    )


_register(
    "fp8_e4m3",
    "FP8 E4M3",
    "8-bit floats (4 exponent, 3 mantissa bits): fine steps near zero, coarse ones far out.",
    torch.float8_e4m3fn,
)
_register(
    "fp8_e5m2",
    "FP8 E5M2",
    "8-bit floats (5 exponent, 2 mantissa bits): a wider range than E4M3 at half its precision.",
    torch.float8_e5m2,
)
