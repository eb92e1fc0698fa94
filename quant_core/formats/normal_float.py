"""NF4: sixteen values at the quantiles of a normal distribution, with a 32-bit scale a block.

Each block is divided by its largest magnitude and every value goes to the nearest entry of a fixed table that holds
-1, 0 and 1; the scale is that magnitude, kept in float32 as bitsandbytes does without double quantization.
Dettmers et al. 2023, "QLoRA" (arXiv:2305.14314), section 3 and appendix E.

bitsandbytes counts blocks through the flattened weight; here they start anew with each row, so both agree wherever
the block size divides the row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.formats.base import Format, Grid, register
from quant_core.schema import FamilyInfo

# Appendix E of the paper, to float32's precision.
NF4_TABLE = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


class NormalFloat4(Format):
    """NF4 with one float32 scale a block."""

    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """Scales as float32 (blocks, 1)."""
        largest = blocks.abs().amax(dim=1, keepdim=True)
        return Grid(largest if shrink is None else largest * shrink)

    def encode(self, values: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """Table indices as uint8."""
        table = torch.tensor(NF4_TABLE, device=values.device)
        unit = values / torch.where(grid.scales > 0, grid.scales, 1.0)
        return torch.bucketize(unit, (table[1:] + table[:-1]) / 2).to(torch.uint8)

    def decode(self, codes: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """``scale * table[index]`` in float32."""
        table = torch.tensor(NF4_TABLE, device=codes.device)
        return table[codes.int()] * grid.scales

    def levels(self, grid: Grid, position: int = 0) -> Tensor:
        """The sixteen values of the block."""
        values: Tensor = torch.unique(torch.tensor(NF4_TABLE, device=grid.scales.device) * grid.scales[0, 0])
        return values


register(
    FamilyInfo(
        name="nf4",
        title="NF4",
        help="Sixteen values spaced like a normal distribution, with a 32-bit scale a block; as in QLoRA.",
        source="Dettmers et al. 2023, arXiv:2305.14314",
        granularities=("group",),
        group_sizes=(32, 64, 128, 256, 512, 1024, 2048, 4096),
        symmetries=(),
        default="g{group}",
        value_bits=4,
        scale_bits=32,
        kind="4-bit tables",
        clips=True,
        details={"scale_dtype": "float32", "codebook": "nf4"},
    ),
    NormalFloat4,
)
