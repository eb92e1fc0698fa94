"""The weight as the checkpoint stores it: no error, no saving."""

from __future__ import annotations

from torch import Tensor

from quant_core.formats.base import Format, Grid, register
from quant_core.schema import ORIGINAL, FamilyInfo


class Unquantized(Format):
    """Keeps every value."""

    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """Scales of 1."""
        return Grid(blocks.new_ones(blocks.shape[0], 1))

    def encode(self, values: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """The values themselves."""
        return values

    def decode(self, codes: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """The values themselves."""
        return codes

    def levels(self, grid: Grid, position: int = 0) -> Tensor:
        """Nothing to draw: every float is a level."""
        return grid.scales.new_empty(0)


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
