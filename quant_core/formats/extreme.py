"""One and three values a block: binary and ternary weights, with a 16-bit scale.

Binary, w ~ +-scale: the error is least for the signs of w and scale = mean |w|.
Rastegari et al. 2016, "XNOR-Net" (arXiv:1603.05279), equations 6 and 7. Zeros are left out of the mean, for they are
the filling of a last group and weights that are kept apart; a zero decodes to +scale.

Ternary, w ~ scale * {-1, 0, 1}: the error is least where

    I = the k largest |w|,    scale = mean of |w| over I,    k of largest (sum of |w| over I)^2 / k,

Li et al. 2016, "Ternary Weight Networks" (arXiv:1605.04711), equations 4 to 6, who then estimate the threshold as
0.7 mean |w|. Here every k is tried, with sorted weights and running sums. BitNet b1.58 (Ma et al. 2024,
arXiv:2402.17764) rounds to scale = mean |w|, which suits weights trained for it but costs others more error. Five
ternary values fit a byte (3^5 = 243), 1.6 bits each.

With an importance h, means and sums weigh each value: (sum of h |w|)^2 / (sum of h). Codes are the nearest values of
the float16 scale; half a scale goes to 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.formats._common import check_half, half_scales, parts, wide
from quant_core.formats.base import Format, Grid, register
from quant_core.schema import FamilyInfo


class Binary(Format):
    """A sign a value."""

    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """Scales as float16 (blocks, 1), 0 for a block of zeros."""
        scales = [_mean(values, counts) for values, counts in parts(blocks, importance)]
        result = torch.cat(scales)
        check_half(result, blocks)
        return Grid(result.to(torch.float16))

    def encode(self, values: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """Codes as int8, -1 or 1."""
        return torch.where(values < 0, -1, 1).to(torch.int8)

    def decode(self, codes: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """``scale * code`` in float32."""
        return codes.float() * grid.scales.float()

    def levels(self, grid: Grid, position: int = 0) -> Tensor:
        """Both values of the block; 0 alone if its scale is 0."""
        scale = grid.scales[:1, 0].float()
        values: Tensor = torch.unique(torch.cat([-scale, scale]))
        return values


class Ternary(Format):
    """-1, 0 or 1 times a scale."""

    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """Scales as float16 (blocks, 1), those of least squared error."""
        scales = [_ternary(values, counts) for values, counts in parts(blocks, importance)]
        return Grid(half_scales(torch.cat(scales), blocks))

    def encode(self, values: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """Codes as int8: -1, 0 or 1."""
        return (values / grid.scales.float()).clamp_(-1, 1).round_().to(torch.int8)

    def decode(self, codes: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """``scale * code`` in float32."""
        return codes.float() * grid.scales.float()

    def levels(self, grid: Grid, position: int = 0) -> Tensor:
        """The three values of the block."""
        scale = grid.scales[:1, 0].float()
        return torch.cat([-scale, torch.zeros_like(scale), scale])

    def step(self, grid: Grid) -> Tensor:
        """The scale."""
        return grid.scales.float()


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """Weighted mean of |w| over what is not 0, (blocks, 1); 0 where nothing is left."""
    size = values.abs()
    counts = torch.where(size > 0, counts, 0.0)
    total = (size * counts).sum(dim=1, keepdim=True, dtype=wide(values.device))
    mass = counts.sum(dim=1, keepdim=True, dtype=wide(values.device))
    return torch.where(mass > 0, total / mass, 0.0).float()


def _ternary(values: Tensor, counts: Tensor) -> Tensor:
    """The scale of least weighted squared error a block, (blocks, 1); 0 for a block of zeros."""
    size, order = values.abs().sort(dim=1, descending=True)
    counts = counts.gather(1, order)
    mass = counts.cumsum(dim=1, dtype=wide(values.device))
    total = (size * counts).cumsum(dim=1, dtype=wide(values.device))
    mean = torch.where(mass > 0, total / mass, 0.0)
    best = (mean * total).argmax(dim=1, keepdim=True)
    return mean.gather(1, best).float()


register(
    FamilyInfo(
        name="ternary",
        title="Ternary",
        help="-1, 0 or 1 times the scale of least error; five values in a byte, 1.6 bits each.",
        source="Li et al. 2016, arXiv:1605.04711; Ma et al. 2024, arXiv:2402.17764",
        granularities=("group", "channel", "tensor"),
        group_sizes=(32, 64, 128),
        symmetries=(),
        default="g{group}",
        value_bits=8,
        scale_bits=16,
        kind="Extreme",
        pack=5,
        uniform=True,
        weighted=True,
        details={"scale_dtype": "float16"},
    ),
    Ternary,
)
register(
    FamilyInfo(
        name="binary",
        title="Binary",
        help="The sign of each weight times the mean magnitude of its block: one bit a weight.",
        source="Rastegari et al. 2016, arXiv:1603.05279",
        granularities=("group", "channel", "tensor"),
        group_sizes=(32, 64, 128),
        symmetries=(),
        default="g{group}",
        value_bits=1,
        scale_bits=16,
        kind="Extreme",
        weighted=True,
        details={"scale_dtype": "float16"},
    ),
    Binary,
)
