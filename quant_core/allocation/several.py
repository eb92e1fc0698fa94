"""The best choice under several limits at once: a multiple-choice knapsack of few dimensions.

1. Each limit alone, by ``solver``: an answer that keeps the others too is the best under all of them, and mostly one
   of the limits binds and that is the end of it.
2. Else the Lagrangian relaxation: with a price a limit, every unit takes its cheapest choice, and the best prices give
   a bound that no recipe beats (Fisher 1981, "The Lagrangian relaxation method for solving integer programming
   problems", Management Science 27(1)). They are found by cutting planes (Kelley 1960), so that the linear programs
   have a row a limit and a column a look, and stay tiny whatever the model's size.
3. The relaxation's recipes at prices a little higher keep all limits, and are improved by swaps. Choices whose reduced
   cost exceeds what the best of them is above the bound are in no better recipe and go, as in ``solver``.
4. HiGHS solves what is left, to within ``TOLERANCE`` of the predicted KL; if the recipe of step 3 is as good as that
   already, it is the answer.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from quant_core.allocation import core
from quant_core.allocation.problem import BoolArray, FloatArray, IntArray, Problem
from quant_core.allocation.solver import solve
from quant_core.errors import BudgetError

LOOKS = 60
"""Cutting planes at most; prices a little off cost time and nothing else."""
CLOSE = 1e-6
"""The prices are good enough when no others could raise the bound by more than this part of it."""
PIVOTS = 200
"""Pivots at most for the prices of one look; fewer than it takes cost time and nothing else."""
HAIR = 1e-10
"""A pivot that would lower the bound by less, in parts of it, is not made."""
TOLERANCE = 1e-3
"""How far, in parts of its predicted KL, an answer may be above the best there can be: far less than scores are off."""
NEAR = 256
"""Changes of which pairs are tried to improve a recipe before HiGHS is asked."""
RAISES = (1.0, 1.001, 1.003, 1.01, 1.03, 1.1, 1.3)
"""By how much each price is raised, to get a recipe that keeps its limit."""
STEEP = (2.0, 4.0, 16.0)
"""By how much all are, where none of those does."""
STEPS = 100
"""Such swaps at most."""


_MANY = 2**50
"""More than any bound allows a single choice; a sum over rows still fits 64 bits."""


class Bound(NamedTuple):
    """A limit as whole numbers."""

    use: IntArray
    """(rows, formats) what each choice takes."""
    limit: int


class JointlyInfeasible(BudgetError):
    """No recipe keeps all limits, though the size alone can be kept."""

    def __init__(self) -> None:
        super().__init__(
            "No recipe keeps all these limits at once.",
            "Loosen one of them, or score further formats.",
        )


def solve_all(problem: Problem, bounds: list[Bound]) -> IntArray:
    """The recipe of least predicted KL that keeps all bounds.

    Args:
        problem: Costs, and what is allowed.
        bounds: At least one, the stored bits first.

    Returns:
        (rows,) the chosen format index of each row.

    Raises:
        InfeasibleBudget: The bits are below the smallest recipe's.
        JointlyInfeasible: The bounds cannot be kept at once.
        BudgetError: HiGHS did not come near the best in time.
    """
    for bound in bounds[1:]:
        if np.where(problem.allowed, bound.use, _MANY).min(axis=1).sum() > bound.limit:
            raise JointlyInfeasible
    for bound in bounds:
        choice = solve(
            problem if bound.use is problem.bits else replace(problem, bits=bound.use), bound.limit
        )
        if _keeps(bounds, choice):
            return choice
    use = np.stack([bound.use for bound in bounds]).astype(
        np.float64
    )  # (bounds, rows, formats), exact below 2^53
    limits = np.array([bound.limit for bound in bounds], np.float64)
    prices, floor = _prices(problem, use, limits)
    reduced = _priced(problem, use, prices)
    base = reduced.argmin(axis=1)
    incumbent = _incumbent(problem, bounds, use, prices, floor)
    ceiling = np.inf if incumbent is None else _cost(problem, incumbent)
    gap = ceiling - floor
    if incumbent is not None and gap <= (TOLERANCE + 1e-12) * ceiling:
        return incumbent
    lost = reduced - reduced[np.arange(len(base)), base][:, None]
    hopeful = problem.allowed & (lost <= gap * (1 + 1e-9) + 1e-15)
    if incumbent is None:
        hopeful &= ~_dominated(problem, use)
    hopeful[np.arange(len(base)), base] = False
    found = _by_program(problem, bounds, prices, lost, base, hopeful, gap, TOLERANCE * ceiling)
    if found is None or (incumbent is not None and _cost(problem, found) > ceiling):
        if incumbent is None:
            raise JointlyInfeasible
        return incumbent
    return found


def _cost(problem: Problem, choice: IntArray) -> float:
    return float(problem.cost[np.arange(len(choice)), choice].sum())


def _totals(use: FloatArray, choice: IntArray) -> FloatArray:
    """(bounds,) what a choice takes of each."""
    totals: FloatArray = use[:, np.arange(len(choice)), choice].sum(axis=1)
    return totals


def _keeps(bounds: list[Bound], choice: IntArray) -> bool:
    rows = np.arange(len(choice))
    return all(int(bound.use[rows, choice].sum()) <= bound.limit for bound in bounds)


def _priced(problem: Problem, use: FloatArray, prices: FloatArray) -> FloatArray:
    """(rows, formats) cost with what the choice takes at its price; infinite where it is not allowed."""
    priced: FloatArray = np.where(problem.allowed, problem.cost + np.tensordot(prices, use, 1), np.inf)
    return priced


def _prices(problem: Problem, use: FloatArray, limits: FloatArray) -> tuple[FloatArray, float]:
    """The prices of the best bound found, and the bound: a cost that no recipe beats."""
    scale = np.maximum(limits, 1.0)
    top = np.array([steepest(problem, each) for each in use]) * 1.001
    master = _Master(top * scale)
    looks = [top * share for share in np.vstack([np.eye(len(limits)), np.ones(len(limits))]) / 100]
    best, best_prices = -np.inf, looks[0]
    for _ in range(LOOKS):
        prices = looks.pop()
        choice = _priced(problem, use, prices).argmin(axis=1)
        cost, over = _cost(problem, choice), _totals(use, choice) - limits
        if cost + float(prices @ over) > best:
            best, best_prices = cost + float(prices @ over), prices
        # At any prices p the bound is at most cost + p @ over: this choice is one of those it is the least of.
        master.add(cost, over / scale)
        if not looks:
            ceiling, found = master.solve()
            if ceiling - best <= CLOSE * abs(best):
                break
            looks.append(found / scale)
    return best_prices, best


class _Master:
    """The prices at which the least of the cuts seen so far is highest, by the simplex method on its dual.

    The dual mixes the choices seen, weights lambda >= 0 that sum to 1, at the least cost: min lambda @ cost + top @ s
    with lambda @ over - s + u = 0 and s, u >= 0, s being what the mix exceeds the limits by. It has a row a limit and
    one more, and a new cut is a new column that the last basis stays feasible with (Dantzig and Wolfe 1960,
    "Decomposition principle for linear programs", Operations Research 8(1)); a few pivots on so small a basis take far
    less than setting a solver up.
    """

    def __init__(self, top: FloatArray) -> None:
        limits = len(top)
        unit = np.vstack([np.eye(limits), np.zeros((1, limits))])
        self._columns = np.hstack([-unit, unit])
        """(limits + 1, columns): s, u, then a column a cut."""
        self._cost = np.append(top, np.zeros(limits))
        self._basis: list[int] = []

    def add(self, cost: float, over: FloatArray) -> None:
        """One more cut: a choice's cost, and what it takes (limits,) above the limits."""
        self._columns = np.column_stack([self._columns, np.append(over, 1.0)])
        self._cost = np.append(self._cost, cost)
        if not self._basis:
            rows = np.arange(len(over))
            self._basis = [*np.where(over > 0, rows, rows + len(over)).tolist(), len(self._cost) - 1]

    def solve(self) -> tuple[float, FloatArray]:
        """A number that no bound exceeds, and the prices (limits,), in costs a scaled unit."""
        right = np.append(np.zeros(len(self._basis) - 1), 1.0)
        for _ in range(PIVOTS):
            inverse = np.linalg.inv(self._columns[:, self._basis])
            duals = self._cost[self._basis] @ inverse
            reduced = self._cost - duals @ self._columns
            reduced[self._basis] = 0.0
            enters = int(reduced.argmin())
            if reduced[enters] >= -HAIR * max(abs(float(duals[-1])), 1e-300):
                break
            step, level = inverse @ self._columns[:, enters], inverse @ right
            ratios = np.where(step > 1e-9, np.maximum(level, 0.0) / np.where(step > 1e-9, step, 1.0), np.inf)
            leaves = int(ratios.argmin())
            if not np.isfinite(ratios[leaves]):
                break
            self._basis[leaves] = enters
        return float(duals[-1]), np.maximum(-duals[:-1], 0.0)


def steepest(problem: Problem, use: FloatArray) -> float:
    """The most KL that any single step saves for what it takes, from each row's smallest choice on."""
    rows = np.arange(len(use))
    first = np.where(problem.allowed, use, np.inf).argmin(axis=1)
    more = use - use[rows, first][:, None]
    saved = problem.cost[rows, first][:, None] - problem.cost
    steps = problem.allowed & (more > 0)
    return float((np.maximum(saved, 0.0) / np.where(steps, more, np.inf)).max(initial=0.0))


def _incumbent(
    problem: Problem, bounds: list[Bound], use: FloatArray, prices: FloatArray, floor: float
) -> IntArray | None:
    """The best, after swaps, of the relaxation's recipes at raised prices that keep all bounds; None if none does.

    Prices are raised each by itself: what the relaxation takes too much of is mostly one of the limits. It is enough to
    be within ``TOLERANCE`` of ``floor``.
    """
    best, least = None, np.inf
    seen: set[bytes] = set()
    raised = sorted(itertools.product(RAISES, repeat=len(bounds)), key=sum)
    for factors in [*raised, *([factor] * len(bounds) for factor in STEEP)]:
        if best is not None and factors[0] in STEEP:
            break
        choice = _priced(problem, use, prices * np.array(factors)).argmin(axis=1)
        if choice.tobytes() in seen or not _keeps(bounds, choice):
            continue
        seen.add(choice.tobytes())
        choice = _improved(problem, bounds, use, prices, choice)
        if (cost := _cost(problem, choice)) < least:
            best, least = choice, cost
        if least - floor <= (TOLERANCE + 1e-12) * least:
            break
    return best


def _improved(
    problem: Problem, bounds: list[Bound], use: FloatArray, prices: FloatArray, choice: IntArray
) -> IntArray:
    """A recipe after the best swaps of one or two rows, one after the other, among changes that lose least."""
    rows, limits = np.arange(len(choice)), np.array([bound.limit for bound in bounds], np.float64)
    formats = problem.cost.shape[1]
    priced = _priced(problem, use, prices)
    choice = choice.copy()
    for _ in range(STEPS):
        lost = priced - priced[rows, choice][:, None]
        lost[rows, choice] = np.inf
        near = np.argpartition(lost, min(NEAR, lost.size - 1), axis=None)[:NEAR]
        near = near[np.isfinite(lost.ravel()[near])]
        row, form = near // formats, near % formats
        added = np.append(
            problem.cost[row, form] - problem.cost[row, choice[row]], 0.0
        )  # the last: no change
        more = np.hstack([use[:, row, form] - use[:, row, choice[row]], np.zeros((len(bounds), 1))])
        row, form = np.append(row, -1), np.append(form, 0)
        fits = row[:, None] != row
        for each, free in zip(more, limits - _totals(use, choice), strict=True):
            fits &= np.add.outer(each, each) <= free
        both = np.where(fits, np.add.outer(added, added), 0.0)
        one, other = np.unravel_index(int(both.argmin()), both.shape)
        if both[one, other] >= 0:
            break
        for made in (one, other):
            if row[made] >= 0:
                choice[row[made]] = form[made]
    return choice


def _dominated(problem: Problem, use: FloatArray) -> BoolArray:
    """(rows, formats) whether another choice of the row costs and takes no more, the first of equals staying."""
    formats = problem.cost.shape[1]
    out = np.zeros(problem.cost.shape, bool)
    for one in range(formats):
        for other in range(formats):
            if one == other:
                continue
            no_more = (use[:, :, other] <= use[:, :, one]).all(axis=0)
            no_more &= (problem.cost[:, other] <= problem.cost[:, one]) & problem.allowed[:, other]
            same = (use[:, :, other] == use[:, :, one]).all(axis=0) & (
                problem.cost[:, other] == problem.cost[:, one]
            )
            out[:, one] |= no_more & (~same | (other < one))
    return out


def _by_program(
    problem: Problem,
    bounds: list[Bound],
    prices: FloatArray,
    lost: FloatArray,
    base: IntArray,
    hopeful: BoolArray,
    gap: float,
    near: float,
) -> IntArray | None:
    """The best changes to ``base`` among the hopeful ones by HiGHS; None if none keeps all bounds.

    What is minimized is what the changes lose beside the prices and what is left of the bounds at its price, in parts
    of the gap, so that HiGHS' absolute tolerances do not matter; it stops ``near`` the best.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    row, form = np.nonzero(hopeful)
    count = len(row)
    if not count:
        return base if _keeps(bounds, base) else None
    if not np.isfinite(gap):
        gap, near = float(lost[row, form].max()) or 1.0, 0.0
    owner = np.unique(row, return_inverse=True)[1]
    constraints = [
        LinearConstraint(
            coo_array(
                (np.ones(count), (owner, np.arange(count))), shape=(int(owner.max()) + 1, count + len(bounds))
            ),
            ub=1,
        )
    ]
    spare_costs = []
    for index, bound in enumerate(bounds):
        taken = bound.use[np.arange(len(base)), base]
        more, free = (bound.use[row, form] - taken[row]).astype(np.float64), float(bound.limit - taken.sum())
        unit = max(float(np.abs(more).max()), 1.0)
        spare = np.zeros(len(bounds))
        spare[index] = 1.0
        constraints.append(LinearConstraint(np.append(more / unit, spare)[None, :], free / unit, free / unit))
        spare_costs.append(prices[index] * unit / gap * core.SCALE)
    answer = milp(
        np.append(lost[row, form] / gap * core.SCALE, spare_costs),
        integrality=np.append(np.ones(count), np.zeros(len(bounds))),
        bounds=Bounds(0, np.append(np.ones(count), np.full(len(bounds), np.inf))),
        constraints=constraints,
        options={"mip_rel_gap": min(near / gap, 1.0), "time_limit": core.PATIENCE},
    )
    if answer.status == 2:
        return None
    if answer.status != 0:
        raise BudgetError(
            f"The best recipe under these limits could not be proven in {core.PATIENCE:.0f} seconds.",
            "Change a limit a little, or offer fewer formats.",
        )
    made = np.flatnonzero(answer.x[:count] > 0.5)
    choice = base.copy()
    choice[row[made]] = form[made]
    return choice if _keeps(bounds, choice) else None
