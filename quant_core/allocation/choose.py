"""The best recipe under a budget and all other terms, the front under them, and what a recipe leaves unused.

``solver`` and ``front`` know one problem and one limit. Here a runtime that holds a single format beside 16 bits
makes as many problems of one as there are formats, of which the best counts, and further limits join the budget.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from quant_core.allocation.front import Front, front
from quant_core.allocation.needs import NAMES, Need, told
from quant_core.allocation.problem import FloatArray, IntArray, NamedProblem, Problem
from quant_core.allocation.several import Bound, JointlyInfeasible, solve_all, steepest
from quant_core.allocation.solver import solve, whole_limit
from quant_core.errors import BudgetError
from quant_core.schema import ORIGINAL

FULL = 0.995
"""A recipe that takes this part of its limit fills it."""
LADDER = tuple(4.0**-step for step in range(12))
"""Prices at which fronts under limits beside size are looked at, in parts of the highest that can matter."""
_UNITS = 2**40
"""Whole numbers into which a limit that is no number of bits is cut; what a choice takes is rounded up."""


class Best(NamedTuple):
    """A recipe, and the problem it is the best of."""

    choice: IntArray
    """(rows,) format indices."""
    problem: Problem
    bounds: list[Bound]
    """Everything that it keeps, the bits first."""


class Curve(NamedTuple):
    """The front under limits."""

    bits: IntArray
    """(points,) stored bits of the decided units, rising."""
    cost: FloatArray
    """(points,) predicted KL in nats a token, falling."""
    ends: str
    """Where it begins or ends because of a limit, in words; empty where none cuts it."""


class LimitTooLow(BudgetError):
    """A limit beside the budget is below what any recipe takes."""


def best(named: NamedProblem, limit_bits: float) -> Best:
    """The recipe of least predicted KL that keeps a limit in bits and those of the problem.

    Args:
        named: The problem, its names, and its limits.
        limit_bits: Bits that all decided units may take; see ``problem.limit_bits``.

    Raises:
        InfeasibleBudget: The budget is below the smallest recipe.
        LimitTooLow: Another limit is below what any recipe takes.
        BudgetError: The limits cannot be kept at once, or nothing was proven in time.
    """
    found: list[Best] = []
    refused: BudgetError | None = None
    _check_limits(named)
    for problem in variants(named):
        bounds = bounds_of(named, problem, limit_bits)
        try:
            choice = solve(problem, bounds[0].limit) if len(bounds) == 1 else solve_all(problem, bounds)
        except BudgetError as error:
            refused = error
            continue
        found.append(Best(choice, problem, bounds))
    if not found:
        assert refused is not None, "there is at least one problem"
        if isinstance(refused, JointlyInfeasible):
            raise BudgetError(
                refused.message, f"Each alone may be: {_ranges(named)}. Loosen one."
            ) from refused
        raise refused
    return min(found, key=lambda one: (_cost(one), int(_total(one.problem.bits, one.choice))))


def keeps(named: NamedProblem, limit_bits: float, choice: IntArray) -> bool:
    """Whether a choice, (rows,) format indices, is allowed and keeps a limit in bits and those of the problem."""
    rows = np.arange(len(choice))
    return any(
        problem.allowed[rows, choice].all()
        and all(_total(bound.use, choice) <= bound.limit for bound in bounds_of(named, problem, limit_bits))
        for problem in variants(named)
    )


def variants(named: NamedProblem) -> list[Problem]:
    """The problem, or, where all quantized units must take one format, one problem a format.

    Raises:
        BudgetError: Pins ask for more than one format.
    """
    if not named.one_format:
        return [named.problem]
    forms = [name.partition("@")[0] for name in named.formats]
    found = []
    for form in dict.fromkeys(forms):
        if form == ORIGINAL and len(set(forms)) > 1:
            continue
        allowed = named.problem.allowed & np.array([name in (form, ORIGINAL) for name in forms])
        if allowed.any(axis=1).all():
            found.append(replace(named.problem, allowed=allowed))
    if not found:
        raise BudgetError(
            "All quantized layers must take one format, and pins or rules ask for several.",
            "Remove pins or rules, or choose another target.",
        )
    return found


def curve(named: NamedProblem) -> Curve:
    """The front under the limits of the problem, by rising size: what they rule out is not on it.

    Without a limit beside size every point is exact, see ``front``. Where another one binds, the points are those of
    fronts whose costs hold what that limit takes at a price, for a ladder of prices: each keeps all limits, and is the
    best of those that take no more of any of them. The last point is the best recipe of any size, as ``best`` gives it.

    Raises:
        LimitTooLow: A limit is below what any recipe takes.
        BudgetError: The limits cannot be kept at once.
    """
    _check_limits(named)
    fronts = [(problem, front(problem)) for problem in variants(named)]
    if not named.needs:
        return Curve(*_lowest([(points.bits, points.cost) for _, points in fronts]), "")
    end = best(named, math.inf)
    parts = [(np.array([_total(end.problem.bits, end.choice)]), np.array([_cost(end)]))]
    for problem, points in fronts:
        parts += _kept(problem, points, bounds_of(named, problem, math.inf))
    bits, cost = _lowest(parts)
    return Curve(bits, cost, _ends(named, [points for _, points in fronts], end.choice, bits))


def _lowest(parts: list[tuple[IntArray, FloatArray]]) -> tuple[IntArray, FloatArray]:
    """Of points by bits and cost those that no smaller or equal one matches, by rising size."""
    bits, cost = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((cost, bits))
    bits, cost = bits[order], cost[order]
    kept = np.append(True, cost[1:] < np.minimum.accumulate(cost)[:-1])
    return bits[kept], cost[kept]


def _kept(problem: Problem, points: Front, bounds: list[Bound]) -> list[tuple[IntArray, FloatArray]]:
    """Bits and cost of the points that keep all bounds, of this front and of those at prices."""
    priced = [points]
    beside = [(bound.use, steepest(problem, bound.use.astype(np.float64))) for bound in bounds[1:]]
    if any((points.totals(bound.use) > bound.limit).any() for bound in bounds[1:]):
        some = [[one] for one in beside] + ([beside] if len(beside) > 1 else [])
        for share in LADDER:
            for chosen in some:
                extra = sum((share * price * use for use, price in chosen), np.zeros(problem.cost.shape))
                priced.append(front(replace(problem, cost=problem.cost + extra)))
    found = []
    for each in priced:
        fits = each.bits <= bounds[0].limit
        for bound in bounds[1:]:
            fits &= each.totals(bound.use) <= bound.limit
        found.append((each.bits[fits], np.maximum(each.totals(problem.cost)[fits], 0.0)))
    return found


def _ends(named: NamedProblem, fronts: list[Front], last: IntArray, bits: IntArray) -> str:
    """Where the curve begins and ends short of what the formats allow, and because of which limit, in words."""
    stored, weights = named.problem.bits, named.problem.weights
    floor = min(fronts, key=lambda one: int(one.bits[0]))
    ceiling = min(fronts, key=lambda one: float(one.cost[-1]))
    said = []
    for place, choice, verb in (
        (0, floor.choice(0), "begins"),
        (-1, ceiling.choice(len(ceiling.unit)), "ends"),
    ):
        broken = [need for need in named.needs if need.of(stored, choice) > need.limit * (1 + 1e-12)]
        if broken:
            need = max(broken, key=lambda one: one.of(stored, last if place else choice) / one.limit)
            beyond = "the smallest recipe breaks" if place == 0 else "a better recipe would break"
            said.append(
                f"The curve {verb} at {told('bits', bits[place] / weights)}: {beyond} the limit of "
                f"{told(need.kind, need.limit)} on {NAMES[need.kind][0]}."
            )
    return " ".join(said)


def headroom(named: NamedProblem, found: Best, budget: Need) -> str:
    """Why a recipe does not fill the limit that binds it, as a sentence; empty if it does, to within 0.5 %.

    Args:
        named: The problem and its limits.
        found: The recipe.
        budget: The budget, as one more limit.
    """
    bits = named.problem.bits
    needs = [budget, *named.needs]
    binding = max(needs, key=lambda need: need.of(bits, found.choice) / need.limit)
    value = binding.of(bits, found.choice)
    if value >= FULL * binding.limit:
        return ""
    rows = np.arange(len(found.choice))
    better = found.problem.allowed & (found.problem.cost < found.problem.cost[rows, found.choice][:, None])
    used = f"{told(binding.kind, value)} of {told(binding.kind, binding.limit)} are used"
    if not better.any():
        return f"{used}: no layer has a better format to take."
    use = bits * binding.factor if binding.use is None else binding.use
    more = use - use[rows, found.choice][:, None]
    return f"{used}: the next better choice takes {told(binding.kind, value + float(more[better].min()))}."


def binding_limit(named: NamedProblem, choice: IntArray, budget: Need) -> Need:
    """Which limit a recipe comes nearest to."""
    return max([budget, *named.needs], key=lambda need: need.of(named.problem.bits, choice) / need.limit)


def _check_limits(named: NamedProblem) -> None:
    """Raise ``LimitTooLow`` for a limit that no recipe keeps, with what is possible under each."""
    problem = named.problem
    low = [
        need for need in named.needs if need.least(problem.bits, problem.allowed) > need.limit * (1 + 1e-12)
    ]
    if not low:
        return
    first = low[0]
    raise LimitTooLow(
        f"No recipe keeps the {NAMES[first.kind][0]} to {told(first.kind, first.limit)}: the least is "
        f"{told(first.kind, first.least(problem.bits, problem.allowed))}.",
        f"Possible are: {_ranges(named)}. Loosen the limit, add a smaller format, or remove pins and rules.",
    )


def _ranges(named: NamedProblem) -> str:
    """What there is to choose between under each limit and in size: from the least to that of the least KL."""
    problem = named.problem
    points = front(problem)
    top = points.choice(len(points.bits) - 1)
    size = Need("bits", math.inf, 0.0, factor=1 / problem.weights)
    needs = named.needs if any(need.kind == "bits" for need in named.needs) else (size, *named.needs)
    return ", ".join(
        f"{NAMES[need.kind][0]} {told(need.kind, need.least(problem.bits, problem.allowed))} to "
        f"{told(need.kind, need.of(problem.bits, top))}"
        for need in needs
    )


def bounds_of(named: NamedProblem, problem: Problem, limit_bits: float) -> list[Bound]:
    """All limits as whole numbers: the tightest of those on stored bits, then the others.

    Args:
        named: The limits.
        problem: One of its ``variants``.
        limit_bits: Bits that all decided units may take; infinite for no budget.
    """
    stored = [(need.limit - need.fixed) / need.factor for need in named.needs if need.use is None]
    stored.append(float(problem.bits.max(axis=1).sum()))
    bounds = [Bound(problem.bits, whole_limit(min([limit_bits, *stored])))]
    for need in named.needs:
        if need.use is None:
            continue
        room = need.limit - need.fixed
        if room <= 0:  # no recipe keeps it
            bounds.append(Bound(np.zeros_like(problem.bits), -1))
        else:
            scale = _UNITS / room
            bounds.append(Bound(np.ceil(need.use * scale - 1e-6).astype(np.int64), _UNITS))
    return bounds


def _total(values: IntArray, choice: IntArray) -> int:
    return int(values[np.arange(len(choice)), choice].sum())


def _cost(found: Best) -> float:
    return math.fsum(found.problem.cost[np.arange(len(found.choice)), found.choice])
