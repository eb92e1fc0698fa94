"""Recipes next to a recipe: what changes when one or two units trade formats, best first.

Scores add up, so that a swap is worth the sum of its changes. A unit's change to another format adds cost ``a`` and
bits ``m``; at the slope ``s`` at which KL trades against bits near the recipe, ``r = a + s m`` is what the change loses
beside the going rate. A swap of two units adds ``r + r' - s (m + m')``, and ``m + m'`` is at most what is left over. So
only changes of small ``r`` can be part of a good swap. They are looked at in order of ``r``, twice as many at a time,
until no change left out could do better than what was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from quant_core.allocation.choose import best, bounds_of, variants
from quant_core.allocation.front import front
from quant_core.allocation.problem import FloatArray, IntArray, NamedProblem, Problem
from quant_core.allocation.several import Bound
from quant_core.allocation.solution import solution
from quant_core.schema import Solution

WINDOW = 0.005
"""Finalists take at most so much less, in parts of the size of the exact solution, than it does."""
FIRST = 128
"""Changes that the search begins with."""
MOST = 2048
"""Changes that it ends with at the latest, unproven: two million pairs, a fifth of a second's worth."""


class Change(NamedTuple):
    """One unit in another format."""

    row: int
    """The unit, as a row of the problem."""
    format: int
    """The format index that it takes."""


class Swap(NamedTuple):
    """One or two changes to a recipe, and what they add."""

    changes: tuple[Change, ...]
    added: float
    """Predicted KL in nats a token; below 0 where the swap is an improvement."""
    more: int
    """Bits."""


class _Changes(NamedTuple):
    """Every change there is; arrays are (changes,), the first being no change at all (row -1)."""

    row: IntArray
    format: IntArray
    added: FloatArray
    more: IntArray
    taken: IntArray
    """(bounds, changes) what each adds to what else is bounded."""

    def some(self, index: IntArray) -> _Changes:
        """Those of an index."""
        return _Changes(
            self.row[index], self.format[index], self.added[index], self.more[index], self.taken[:, index]
        )


def swaps(
    problem: Problem, choice: IntArray, low: int, high: int, count: int, bounds: Sequence[Bound] = ()
) -> list[Swap]:
    """The best changes of one or two units, by rising cost, that leave the recipe's size between two limits.

    Args:
        problem: Costs and sizes.
        choice: (units,) format index of each unit.
        low: Fewest bits that all units together may then take.
        high: Most bits.
        count: How many swaps at most.
        bounds: What else the recipe must keep.

    Returns:
        Distinct swaps; of equal cost, the smaller recipe first.
    """
    changes, rows = _changes(problem, choice, bounds), np.arange(len(choice))
    bits = int(problem.bits[rows, choice].sum())
    free = [bound.limit - int(bound.use[rows, choice].sum()) for bound in bounds]
    room = (low - bits, high - bits)
    slope = _slope(problem, bits)
    rate = changes.added + slope * changes.more
    order = np.argsort(rate, kind="stable")
    size = FIRST
    while True:
        found = _pairs(changes.some(order[:size]), room, free, count)
        if size >= min(len(order), MOST):
            return found
        # A pair with a change that was left out adds at least this much.
        bound = float(rate[order[size]] + rate[order[0]] - slope * max(room[1], 0))
        if len(found) == count and found[-1].added <= bound:
            return found
        size *= 2


def apply(choice: IntArray, swap: Swap) -> IntArray:
    """The choice after a swap."""
    changed = choice.copy()
    for row, form in swap.changes:
        changed[row] = form
    return changed


class Trade(NamedTuple):
    """What giving one unit another format takes from another one."""

    form: str
    """The format that the unit would take."""
    partner: str
    """The unit that makes room, or, with spare bits, that takes them; empty where none is needed."""
    before: str
    """The partner's format."""
    after: str
    """The format that it would take."""
    added: float
    """Predicted KL that both changes add, in nats a token; below 0 for an improvement."""
    more: int
    """Bits that both changes add."""


def trades(named: NamedProblem, assignment: Mapping[str, str], unit: str, limit_bits: float) -> list[Trade]:
    """What it takes to give one unit each of its other formats: the best change of one other unit that makes room.

    Args:
        named: The problem, its names and its limits, all of which hold.
        assignment: Decided unit to full format name: the recipe as it is.
        unit: The unit that is to change, with all that shares its format.
        limit_bits: Bits that all decided units may take.

    Returns:
        At most one trade a format, by rising size. Formats for which no single other change makes room are left out.

    Raises:
        QuantError: The unit is not decided on, or the assignment does not fit; see ``NamedProblem.choice``.
    """
    choice, row = named.choice(assignment), named.row(unit)
    found: dict[str, Trade] = {}
    for problem in variants(named):
        for trade in _trades(named, problem, choice, row, bounds_of(named, problem, limit_bits)):
            known = found.setdefault(trade.form, trade)
            found[trade.form] = min(known, trade, key=lambda one: (one.added, one.more))
    sizes = dict(zip(named.formats, named.problem.bits[row].tolist(), strict=True))
    return sorted(found.values(), key=lambda trade: sizes[trade.form])


def _trades(
    named: NamedProblem, problem: Problem, choice: IntArray, row: int, bounds: Sequence[Bound]
) -> Iterator[Trade]:
    """The trades of one row that leave every row in a format that is allowed, and all bounds kept."""
    rows = np.arange(len(choice))
    free = [bound.limit - int(bound.use[rows, choice].sum()) for bound in bounds]
    changes = _changes(problem, choice, bounds)
    others = np.flatnonzero(changes.row != row)
    amiss = np.setdiff1d(np.flatnonzero(~problem.allowed[rows, choice]), [row])
    if len(amiss):
        others = others[changes.row[others] == amiss[0]] if len(amiss) == 1 else others[:0]
    members = named.rows if named.rows is not None else rows
    for form in np.flatnonzero(
        problem.allowed[row] & (np.arange(len(named.formats)) != choice[row])
    ).tolist():
        fits = np.ones(len(others), bool)
        for bound, taken, most in zip(bounds, changes.taken, free, strict=True):
            fits &= taken[others] + int(bound.use[row, form] - bound.use[row, choice[row]]) <= most
        fitting = others[fits]
        if not len(fitting):
            continue
        best_ = fitting[np.lexsort((changes.more[fitting], changes.added[fitting]))[0]]
        other = int(changes.row[best_])
        partner, before, after = "", "", ""
        if other >= 0:
            partner = named.units[int(np.flatnonzero(members == other)[0])]
            before, after = named.formats[choice[other]], named.formats[changes.format[best_]]
        added = float(problem.cost[row, form] - problem.cost[row, choice[row]] + changes.added[best_])
        more = int(problem.bits[row, form] - problem.bits[row, choice[row]] + changes.more[best_])
        yield Trade(named.formats[form], partner, before, after, added, more)


def finalists(named: NamedProblem, limit_bits: float, count: int) -> list[Solution]:
    """The exact solution of a budget and its best neighbours of nearly the same size, to be measured.

    Args:
        named: The problem and its names.
        limit_bits: Bits that all decided units may take; see ``problem.limit_bits``. The problem's own limits hold too.
        count: How many recipes at most, the exact solution included.

    Returns:
        Distinct recipes within the budget by rising predicted KL, the exact solution first; the others take at most
        0.5 % fewer bits than it does.

    Raises:
        BudgetError: No recipe keeps the limits; see ``choose.best``.
    """
    choice, problem, bounds = best(named, limit_bits)
    bits = int(problem.bits[np.arange(len(choice)), choice].sum())
    low, high = round(bits * (1 - WINDOW)), bounds[0].limit
    found = swaps(problem, choice, low, high, count - 1, bounds[1:])
    return [solution(named, one) for one in [choice, *(apply(choice, swap) for swap in found)]][:count]


def _changes(problem: Problem, choice: IntArray, bounds: Sequence[Bound] = ()) -> _Changes:
    rows = np.arange(len(choice))
    open_ = problem.allowed.copy()
    open_[rows, choice] = False
    row, form = np.nonzero(open_)
    added = (problem.cost - problem.cost[rows, choice][:, None])[open_]
    more = (problem.bits - problem.bits[rows, choice][:, None])[open_]
    taken = [np.append(0, (each.use - each.use[rows, choice][:, None])[open_]) for each in bounds]
    return _Changes(
        np.append(-1, row), np.append(-1, form), np.append(0.0, added), np.append(0, more),
        np.array(taken, np.int64).reshape(len(bounds), len(row) + 1),
    )  # fmt: skip


def _slope(problem: Problem, bits: int) -> float:
    """KL saved a bit around a size; 0 at the ceiling."""
    points = front(problem)
    at = int(np.searchsorted(points.bits, bits, side="right")) - 1
    return float(points.slope[min(max(at, 0), len(points.slope) - 1)]) if len(points.slope) else 0.0


def _pairs(changes: _Changes, room: tuple[int, int], free: Sequence[int], count: int) -> list[Swap]:
    """The best pairs of changes of different units, no change being one of them, whose bits lie within ``room``.

    ``free`` is what they may add to what else is bounded.
    """
    first, second = np.triu_indices(len(changes.row), 1)
    more = changes.more[first] + changes.more[second]
    fits = (changes.row[first] != changes.row[second]) & (more >= room[0]) & (more <= room[1])
    for taken, most in zip(changes.taken, free, strict=True):
        fits &= taken[first] + taken[second] <= most
    first, second, more = first[fits], second[fits], more[fits]
    added = changes.added[first] + changes.added[second]
    if len(added) > count > 0:
        within = added <= np.partition(added, count - 1)[count - 1]
        first, second, more, added = first[within], second[within], more[within], added[within]
    swaps_ = []
    for pair in np.lexsort((more, added))[: max(count, 0)].tolist():
        ends = (int(first[pair]), int(second[pair]))
        made = tuple(
            Change(int(changes.row[end]), int(changes.format[end])) for end in ends if changes.row[end] >= 0
        )
        swaps_.append(Swap(made, float(added[pair]), int(more[pair])))
    return swaps_
