"""Columns of score tables put side by side: a sweep's own, and those scored later from the state it left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from quant_core.errors import QuantError
from quant_core.schema import ScoreTable, replace

Cell = TypeVar("Cell")


def joined(table: ScoreTable, more: Iterable[ScoreTable]) -> ScoreTable:
    """A sweep's table with the columns of others scored from its state, in that order; no format comes twice.

    A score that one of the tables lacks is left out for all of them; the sweep's own columns stay as they are.

    Raises:
        QuantError: A table is not from this sweep's state, or is of other units.
    """
    for extra in more:
        if not table.state or extra.state != table.state:
            raise QuantError(
                "Scores of another sweep cannot join these.", "Score the formats again from this sweep."
            )
        if extra.units != table.units:
            raise QuantError(
                f"The added scores are of {len(extra.units)} layers, the sweep's of {len(table.units)}.",
                "Score all layers of the sweep in the new formats.",
            )
        table = _beside(table, extra)
    return table


def _beside(table: ScoreTable, extra: ScoreTable) -> ScoreTable:
    fresh = [place for place, name in enumerate(extra.formats) if name not in table.formats]

    def rows(
        old: tuple[tuple[Cell, ...], ...], new: tuple[tuple[Cell, ...], ...]
    ) -> tuple[tuple[Cell, ...], ...]:
        if not (old and new):
            return ()
        return tuple(
            (*left, *(right[place] for place in fresh)) for left, right in zip(old, new, strict=True)
        )

    names = tuple(extra.formats[place] for place in fresh)
    return replace(
        table,
        formats=(*table.formats, *names),
        rescored=(*table.rescored, *names),
        storage_bits=rows(table.storage_bits, extra.storage_bits),
        padded=rows(table.padded, extra.padded),
        weight=rows(table.weight, extra.weight),
        output=rows(table.output, extra.output),
        fisher=rows(table.fisher, extra.fisher),
        fisher_stderr=rows(table.fisher_stderr, extra.fisher_stderr),
        measured=rows(table.measured, extra.measured),
        measured_stderr=rows(table.measured_stderr, extra.measured_stderr),
        notes=tuple(dict.fromkeys([*table.notes, *extra.notes])),
    )
