"""Which recipes to measure side by side for a budget: the best few by prediction, and one format for all layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from quant_core import targets
from quant_core.allocation.choose import keeps
from quant_core.allocation.neighbours import finalists
from quant_core.allocation.problem import build_problem, limit_bits
from quant_core.allocation.solution import price
from quant_core.errors import BudgetError
from quant_core.schema import ORIGINAL, Budget, ModelInfo, ScoreName, ScoreTable, Solution, Terms, digest

COUNT = 4
"""Recipes by prediction."""


class Contender(NamedTuple):
    """A recipe that meets the budget and all terms."""

    solution: Solution
    place: int
    """By prediction, from 0; -1 for one that was not solved for."""
    form: str
    """The format that all layers have; empty for one that was solved for."""


def contenders(
    info: ModelInfo,
    table: ScoreTable,
    budget: Budget,
    pins: Mapping[str, str] | None = None,
    score: ScoreName = "fisher",
    terms: Terms | None = None,
) -> dict[str, Contender]:
    """The best recipes by prediction within half a percent of the best one's size, and the best uniform format that
    meets the budget and the terms, if one does; all different, by a hash of what they assign.

    Raises:
        BudgetError: Nothing meets the budget and the terms.
    """
    named = build_problem(info, table, score, pins, terms=terms)
    found: dict[str, Contender] = {}
    for place, solution in enumerate(finalists(named, limit_bits(named.problem, budget), COUNT)):
        found.setdefault(digest(solution.assignment), Contender(solution, place, ""))
    best = _uniform(info, table, budget, score, terms or Terms())
    if best is not None:
        found.setdefault(digest(best.solution.assignment), best)
    return found


def _uniform(
    info: ModelInfo, table: ScoreTable, budget: Budget, score: ScoreName, terms: Terms
) -> Contender | None:
    """The format for all layers that the target holds, within the limits, of least predicted KL."""
    mine = set(table.units)
    units = [unit for unit in info.units if unit.name in mine]
    named = build_problem(info, table, score, terms=terms)
    limit = limit_bits(named.problem, budget)
    found = []
    for form in targets.held(targets.find(terms.target), units, table.formats):
        solution = price(info, table, dict.fromkeys(table.units, form), score)
        try:
            fits = keeps(named, limit, named.choice(solution.assignment))
        except BudgetError:  # units that share a format differ
            fits = False
        if fits:
            found.append(Contender(solution, -1, form))
    return min(found, key=lambda one: one.solution.predicted_kl, default=None)


def to_measure(assignments: Iterable[Mapping[str, str]]) -> tuple[dict[str, str], ...]:
    """Recipes as a measurement takes them: only the units that they change."""
    return tuple({unit: form for unit, form in one.items() if form != ORIGINAL} for one in assignments)
