"""Models with very many units, made small enough to look at: experts folded by block and role, or those of one block.

``fold`` gives a model and scores that maps draw like any other. Folded, the experts of a role in a block are one unit:
parameters, stored bits and scores are sums (a standard error too: units are scored on the same sequences, so that their
errors do not average out), errors that are shares the mean over the weights. Unfolded, a block's experts lie side by
side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from quant_core.plots.grid import EXPERT, MOST_ROWS, block_rows
from quant_core.schema import Matrix, ModelInfo, ScoreTable, Unit, replace


class Fold(NamedTuple):
    """What is drawn in the place of a model and its scores."""

    model: ModelInfo
    table: ScoreTable
    members: Mapping[str, tuple[str, ...]]
    """The units behind each unit that is drawn; empty if nothing had to be folded."""
    block: int = -1
    """Whose experts lie side by side; -1 for all blocks."""

    @property
    def needed(self) -> bool:
        """Whether there are too many units to draw each."""
        return bool(self.members)

    @property
    def closed(self) -> bool:
        """Whether experts are folded into one."""
        return self.needed and self.block < 0

    def drawn(self, units: Iterable[str]) -> tuple[str, ...]:
        """The drawn units that stand for some units, each once."""
        if not self.members:
            return tuple(units)
        behind = {name: one for one, names in self.members.items() for name in names}
        return tuple(dict.fromkeys(behind[name] for name in units if name in behind))

    def behind(self, drawn: Iterable[str]) -> tuple[str, ...]:
        """The units behind some drawn ones."""
        return tuple(name for one in drawn for name in self.members.get(one, (one,)))

    def most(self, assignment: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """For each drawn unit the format that most of its units have; and where they differ, how many have which."""
        if not self.members:
            return dict(assignment), {}
        found, told = {}, {}
        for one, names in self.members.items():
            counts = Counter(assignment[name] for name in names if name in assignment)
            if not counts:
                continue
            found[one] = max(counts, key=lambda form: (counts[form], form))
            if len(counts) > 1:
                told[one] = ", ".join(f"{count:,} in {form}" for form, count in counts.most_common())
        return found, told

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        """The values of the units behind each drawn one, added up; what none has is left out."""
        if not self.members:
            return dict(values)
        return {
            one: sum(values.get(name, 0) for name in names)
            for one, names in self.members.items()
            if any(name in values for name in names)
        }


def fold(model: ModelInfo, table: ScoreTable, block: int = -1) -> Fold:
    """What to draw of a model's scored units: all, the experts of each block as one, or those of one ``block``."""
    known = set(table.units)
    units = [unit for unit in model.units if unit.name in known]
    if not any(map(_expert, units)) or block_rows(units) <= MOST_ROWS:
        return Fold(model, table, {})
    inside = [unit for unit in units if unit.block == block] if block >= 0 else []
    if inside:
        drawn = [_beside(unit) for unit in inside]
        members: dict[str, tuple[str, ...]] = {unit.name: (unit.name,) for unit in inside}
        return Fold(replace(model, units=tuple(drawn)), _rows(table, members, {}), members, block)
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(_folded(unit), []).append(unit)
    members = {name: tuple(unit.name for unit in group) for name, group in groups.items()}
    weights = {unit.name: float(unit.parameters) for unit in units}
    folded = tuple(_one(name, group) for name, group in groups.items())
    return Fold(replace(model, units=folded), _rows(table, members, weights), members)


def _expert(unit: Unit) -> bool:
    return unit.role.endswith("]")


def _folded(unit: Unit) -> str:
    return f"{unit.name.rpartition('[')[0]}[*]" if _expert(unit) else unit.name


def _one(name: str, group: Sequence[Unit]) -> Unit:
    first = group[0]
    if len(group) == 1:
        return first
    rows = sum(unit.parameters for unit in group) // first.columns
    return replace(first, name=name, role=first.role.partition("[")[0], rows=rows)


def _beside(unit: Unit) -> Unit:
    """A unit of the block that is open: experts in the places of blocks, the others beside them."""
    if not _expert(unit):
        return replace(unit, block=-1)
    role, _, number = unit.role.partition("[")
    return replace(unit, role=role, kind=EXPERT, block=int(number.rstrip("]")))


def _rows(
    table: ScoreTable, members: Mapping[str, Sequence[str]], weights: Mapping[str, float]
) -> ScoreTable:
    """A table with a row for each of ``members``; shares are averaged by ``weights``, all else is added up."""
    place = {name: row for row, name in enumerate(table.units)}
    order = [place[name] for names in members.values() for name in names]
    starts = np.cumsum([0, *(len(names) for names in members.values())])[:-1]
    shares = np.array([[weights.get(table.units[row], 1.0)] for row in order])

    def added(matrix: Matrix) -> Matrix:
        if not matrix:
            return ()
        return _tuples(np.add.reduceat(np.array(matrix, np.float64)[order], starts, axis=0))

    def averaged(matrix: Matrix) -> Matrix:
        if not matrix:
            return ()
        total = np.add.reduceat(np.array(matrix, np.float64)[order] * shares, starts, axis=0)
        return _tuples(total / np.add.reduceat(shares, starts, axis=0))

    bits = np.add.reduceat(np.array(table.storage_bits, np.int64)[order], starts, axis=0)
    return replace(
        table, units=tuple(members), storage_bits=tuple(map(tuple, bits.tolist())), padded=(),
        fisher=added(table.fisher), fisher_stderr=added(table.fisher_stderr), measured=added(table.measured),
        measured_stderr=added(table.measured_stderr), weight=averaged(table.weight), output=averaged(table.output),
    )  # fmt: skip


def _tuples(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Matrix:
    return tuple(map(tuple, values.tolist()))
