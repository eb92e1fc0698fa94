"""LLM.int8: 8-bit integers with a float32 scale an output row, as bitsandbytes stores a weight.

    q = round(127 / max|w| * w),    w ~ q * max|w| / 127

over the row, halves to even: codes from -127 to 127, the scale being the row's largest magnitude (``SCB``). The
products are taken in bitsandbytes' order, so that its dequantized weight is met to the bit. Its layer casts the weight
to float16 first; here the weight is taken as it is, which is the same for every weight that float16 holds.

The other half of LLM.int8 is how inputs are treated: input columns that hold a value beyond a threshold are kept in
16 bits and multiplied by the dequantized weight. That is no property of the weight, and not done here.
Dettmers et al. 2022, "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale" (arXiv:2208.07339).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.formats.base import Format, Grid, register
from quant_core.schema import FamilyInfo

_RECIPROCAL = 1.0 / 127.0
_SMALLEST = 1e-36
"""The largest magnitude that 127 is divided by at least: with less, float32 overflows."""


class LlmInt8(Format):
    """8-bit integers, scaled by each row's largest magnitude."""

    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """The largest magnitudes as float32 (blocks, 1)."""
        largest = blocks.abs().amax(dim=1, keepdim=True)
        return Grid(largest if shrink is None else largest * shrink)

    def encode(self, values: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """Codes as int8."""
        return (values * (127.0 / grid.scales.clamp(min=_SMALLEST))).round_().clamp_(-127, 127).to(torch.int8)

    def decode(self, codes: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """``code * scale / 127`` in float32."""
        return codes.float() * grid.scales * _RECIPROCAL

    def levels(self, grid: Grid, position: int = 0) -> Tensor:
        """The 255 values of the row."""
        every = torch.arange(-127, 128, device=grid.scales.device)[None]
        values: Tensor = torch.unique(self.decode(every, grid))
        return values

    def step(self, grid: Grid) -> Tensor:
        """``scale / 127``."""
        return grid.scales * _RECIPROCAL


register(
    FamilyInfo(
        name="llm_int8",
        title="LLM.int8",
        help="255 evenly spaced values around zero, with a 32-bit scale a row; as in bitsandbytes' 8-bit mode.",
        source="Dettmers et al. 2022, arXiv:2208.07339",
        granularities=("channel",),
        group_sizes=(),
        symmetries=(),
        default="channel",
        value_bits=8,
        scale_bits=32,
        kind="8-bit",
        uniform=True,
        clips=True,
        details={"scale_dtype": "float32"},
    ),
    LlmInt8,
)
