"""Recipes by rule, without any score: the reference lines beside a solved one."""

from __future__ import annotations

from quant_core.errors import FormatError
from quant_core.registry import unknown_name
from quant_core.schema import ORIGINAL, ModelInfo, ScoreTable


def uniform(info: ModelInfo, table: ScoreTable, form: str) -> dict[str, str]:
    """Every decided unit in the one format of full name ``form``; ``FormatError`` if the table lacks it."""
    return first_and_last_at(info, table, edge=form, rest=form)


def first_and_last_at(info: ModelInfo, table: ScoreTable, edge: str, rest: str) -> dict[str, str]:
    """The first and the last block in one format, all others in another: the usual rule of thumb.

    What lies outside the blocks (embedding, head), if it is decided on, goes with the first and the last.

    Args:
        info: The model.
        table: Scores, which say what is decided on and in which formats.
        edge: Full format name for the edges, usually one of 8 bits.
        rest: Full format name for the blocks between.

    Raises:
        FormatError: The table lacks a format.
    """
    for form in (edge, rest):
        if form not in (*table.formats, ORIGINAL):
            error = unknown_name("scored format", form, [*table.formats, ORIGINAL])
            raise FormatError(error.message, error.hint)
    blocks = {unit.name: unit.block for unit in info.units}
    edges = {-1, 0, info.blocks - 1}
    return {name: edge if blocks[name] in edges else rest for name in table.units}
