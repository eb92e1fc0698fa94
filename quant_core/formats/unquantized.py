"""The weight as the checkpoint stores it: no error, no saving."""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.formats.base import Codes, Format, register
from quant_core.schema import ORIGINAL, FamilyInfo


class Unquantized(Format):
    """Keeps every value."""

    def quantize(self, blocks: Tensor) -> Codes:
        """The values themselves; scales of 1."""
        return Codes(blocks, blocks.new_ones(blocks.shape[0], 1))

    def dequantize(self, codes: Codes) -> Tensor:
        """The values themselves."""
        return codes.values

    def grid(self, codes: Codes) -> Tensor:
        """The block's own values, since every stored value is its own grid point."""
        values: Tensor = torch.unique(codes.values[0])
        return values


register(
    FamilyInfo(
        name=ORIGINAL,
        title="Original",
        help="The weight as the checkpoint stores it.",
        source="",
        granularities=("none",),
        group_sizes=(),
        symmetries=(),
        default="",
        value_bits=0,
        scale_bits=0,
    ),
    Unquantized,
)
