"""MSE-optimal clipping: give up the largest values of a block if that lets all others be more exact.

For every block the range is shrunk step by step, and the grid of least squared error is kept. The full range is one
of the candidates, so that the error is never larger than rounding to nearest.
Sung et al. 2015 (arXiv:1511.06488); Banner et al. 2019 (arXiv:1810.05723).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.calibration.statistics import Inputs
from quant_core.formats import Codes, Format, Grid, to_blocks
from quant_core.methods.rounding.base import Rounded, Rounding, register
from quant_core.schema import FamilyInfo, MethodInfo

SHRINKS = tuple(1 - step / 50 for step in range(40))
"""Parts of the range that are tried: 1, 0.98, ... 0.22."""


class Clip(Rounding):
    """Each block's range by least squared error."""

    def round(self, matrix: Tensor, form: Format, inputs: Inputs | None) -> Rounded:
        """Codes of the best of ``SHRINKS`` for every block."""
        blocks = to_blocks(matrix, form)
        grid = best_grid(blocks, form)
        return Rounded(Codes(form.encode(blocks, grid), grid))


def best_grid(blocks: Tensor, form: Format, importance: Tensor | None = None) -> Grid:
    """The grid of least squared error, weighted by ``importance`` (blocks, block size) if given, a block."""
    shrinks = torch.tensor(SHRINKS, device=blocks.device)
    least = torch.full((len(blocks),), torch.inf, device=blocks.device)
    best = torch.ones(len(blocks), 1, device=blocks.device)
    for shrink in shrinks:
        grid = form.fit(blocks, shrink=shrink.expand(len(blocks), 1))
        error = (form.decode(form.encode(blocks, grid), grid) - blocks).square_()
        total = (error if importance is None else error.mul_(importance)).sum(dim=1)
        better = total < least
        least = torch.where(better, total, least)
        best = torch.where(better[:, None], shrink, best)
    return form.fit(blocks, shrink=best)


def _refuses(family: FamilyInfo) -> str:
    return "" if family.clips else f"The range of {family.title} follows from its own rule and cannot be set."


register(
    MethodInfo(
        name="mse",
        title="MSE clipping",
        help="Shrinks each block's range to where the squared error is least; needs no text.",
        source="Banner et al. 2019, arXiv:1810.05723",
    ),
    Clip,
    _refuses,
)
