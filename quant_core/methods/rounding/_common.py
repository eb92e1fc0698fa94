"""What several rounding methods share: grids by least (weighted) squared error, and importance laid out in blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.formats import Format, Grid, to_blocks
from quant_core.schema import FamilyInfo

SHRINKS = tuple(1 - step / 50 for step in range(40))
"""Parts of the range that are tried: 1, 0.98, ... 0.22."""


def best_grid(blocks: Tensor, form: Format, importance: Tensor | None = None) -> Grid:
    """The grid of least squared error among ``SHRINKS`` of the full range, for each block of a family that clips.

    The full range is the first candidate, so that no block's error is larger than rounding to nearest. Where blocks
    depend on each other this is promised for all of them together.

    Args:
        blocks: Values (blocks, block size).
        form: A format whose family ``clips``.
        importance: Weight of each value's squared error, shaped like ``blocks``; None for 1.
    """
    shrinks = torch.tensor(SHRINKS, device=blocks.device)
    least = torch.full((len(blocks),), torch.inf, device=blocks.device)
    best = torch.ones(len(blocks), 1, device=blocks.device)
    for shrink in shrinks:
        total = errors(blocks, form, form.fit(blocks, shrink=shrink.expand(len(blocks), 1)), importance)
        better = total < least
        least = torch.where(better, total, least)
        best = torch.where(better[:, None], shrink, best)
    grid = form.fit(blocks, shrink=best)
    if form.independent:
        return grid
    full = form.fit(blocks)
    before, after = (errors(blocks, form, some, importance).sum() for some in (full, grid))
    return grid if bool(after < before) else full


def errors(blocks: Tensor, form: Format, grid: Grid, importance: Tensor | None = None) -> Tensor:
    """Sum of (weighted) squared errors of each block (blocks, block size) on its grid, (blocks,)."""
    square = (form.decode(form.encode(blocks, grid), grid) - blocks).square_()
    return (square if importance is None else square.mul_(importance)).sum(dim=1)


def weighted_grid(blocks: Tensor, form: Format, importance: Tensor) -> Grid:
    """Grids that put the error where it counts least: by the family's own fit, else by the range, else as ever."""
    if form.info.weighted:
        return form.fit(blocks, importance=importance)
    return best_grid(blocks, form, importance) if form.info.clips else form.fit(blocks)


def importance_blocks(importance: Tensor, matrix: Tensor, form: Format) -> Tensor:
    """Importance (rows, columns) cut into blocks as ``matrix`` is, with a mean of 1; what fills up counts nothing.

    So do weights that the format keeps in 16 bits, zeros in ``matrix``. A block in which nothing counts is treated as
    if all did, so that it gets a sensible grid.
    """
    counts = importance.expand(matrix.shape).float()
    if form.spec.keep:
        counts = counts * (matrix != 0)
    blocks = to_blocks(counts / counts.mean().clamp(min=torch.finfo(torch.float32).tiny), form)
    return torch.where(blocks.sum(dim=1, keepdim=True) > 0, blocks, 1.0)


def no_say(family: FamilyInfo) -> str:
    """Why weighting errors cannot change the grids of a family; empty if it can."""
    if family.weighted or family.clips:
        return ""
    return f"The values that {family.title} can hold follow from the largest alone, so that no weight counts more."
