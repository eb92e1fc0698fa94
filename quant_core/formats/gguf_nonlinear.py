"""IQ4_NL: sixteen values that are closer near zero, with a float16 step for 32 of a row.

    w ~ d t[q],   t = -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113

Every step at which the value of largest magnitude falls on or near an end of the table is tried, as in ggml's
``quantize_row_iq4_nl_impl``, and the one of least squared error kept, here for both ends of the table, and with codes
twice taken anew from the best step. Errors count alike, or by the importance of each value.
The table has no zero: only a block of zeros keeps them.
"""

from __future__ import annotations

from bisect import bisect
from itertools import pairwise

import torch
from torch import Tensor

from quant_core.formats import _gguf as gguf
from quant_core.formats.base import Grid, register

BLOCK = 32
# The format's definition: ggml-common.h, kvalues_iq4nl.
TABLE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_MIDDLES = [(low + high) / 2 for low, high in pairwise(TABLE)]
_CELLS = [bisect(_MIDDLES, cell / 2) for cell in range(-256, 256)]
"""The nearest entry, halves up, for every half unit from -128 on: entries part halfway, at whole or half units."""
_NUDGES = tuple(range(-7, 8))
"""How far beside its end of the table the extreme value may lie, in the table's units."""


class IQ4NL(gguf.GgufFormat):
    """Sixteen unevenly spaced values."""

    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """Steps as float16 (blocks, 1), of either sign."""
        return gguf.fit_at_once(_fit, blocks, importance)

    def encode(self, values: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """Table indices as uint8, halves up."""
        step = grid.scales.float()
        scaled = torch.where(step == 0, 0.0, values * gguf.inverse(step))
        return torch.tensor(_CELLS, dtype=torch.uint8, device=values.device)[_cell(scaled)]

    def decode(self, codes: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """``step * table[index]`` in float32."""
        return _table(codes)[codes.int()].mul_(grid.scales.float())

    def levels(self, grid: Grid, position: int = 0) -> Tensor:
        """The sixteen values of the block."""
        values: Tensor = torch.unique(_table(grid.scales) * grid.scales[0, 0].float())
        return values

    def pack(self, codes: Tensor, grid: Grid) -> Tensor:
        """Step, and codes with value i + 16 above value i."""
        return torch.cat([gguf.raw(grid.scales), gguf.planes(codes.reshape(-1, 1, 2, BLOCK // 2), 4)], dim=1)


def _table(like: Tensor) -> Tensor:
    return torch.tensor(TABLE, dtype=torch.float32, device=like.device)


def _cell(scaled: Tensor) -> Tensor:
    """Which half unit from -128 to 128 a value falls in, 0 to 511; whatever lies beyond goes to the outermost."""
    return (scaled * 2).floor_().clamp_(-256, 255).add_(256).int()


def _fit(blocks: Tensor, importance: Tensor | None) -> Grid:
    weights = gguf.counts(blocks, importance)
    cells = torch.tensor(_CELLS, device=blocks.device)
    table = _table(blocks)[cells]
    extreme = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True))
    best = step = torch.zeros_like(extreme)
    for attempt in (*(end + nudge for end in (TABLE[0], TABLE[-1]) for nudge in _NUDGES), None, None):
        scale = gguf.inverse(step) if attempt is None else attempt / extreme
        values = table[_cell((blocks * scale).nan_to_num_(0.0))]
        weighted = values * weights
        product = (weighted * blocks).sum(dim=1, keepdim=True)
        solved = product / weighted.mul_(values).sum(dim=1, keepdim=True)
        better = solved * product > best
        best = torch.where(better, solved * product, best)
        step = torch.where(better, solved, step)
    return Grid(gguf.half(step))


register(
    gguf.information(
        "iq4_nl",
        "Sixteen values that are closer near zero, a 16-bit step for 32 of a row.",
        4,
        16,
        BLOCK,
        uniform=False,
    ),
    IQ4NL,
)
