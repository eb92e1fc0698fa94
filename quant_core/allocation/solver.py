"""The exact multiple-choice knapsack: least predicted KL within a number of bits.

The problem is made small without losing the optimum, then solved exactly:

1. ``front`` gives the linear relaxation's optimum: a whole recipe (the base), the slope ``s`` at which KL trades
   against bits there, and a bound that no recipe beats: cost(base) - s * (bits the base leaves free).
2. Against that bound every choice has a reduced cost, (cost - base's) + s * (bits - base's) >= 0, and a recipe
   costs the bound + its choices' reduced costs + s * (bits it leaves free).
3. The base with its best change of one or two units is the incumbent. A choice whose reduced cost alone exceeds
   incumbent - bound is in no optimal recipe and goes (Dyer, Kayal and Walker 1984, "A branch and bound algorithm
   for solving the multiple-choice knapsack problem"; Kellerer, Pferschy and Pisinger 2004, "Knapsack Problems",
   chapter 11).
4. What is left is the core: lists of states solve it, or HiGHS where those grow too long (``core.py``) and what they
   found is not within ``HAIR`` of the bound already, as it is where there are tens of thousands of experts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from quant_core.allocation.core import Core, by_program, by_states
from quant_core.allocation.front import front
from quant_core.allocation.problem import FloatArray, IntArray, Problem
from quant_core.errors import BudgetError

WORK = 3_000_000
"""Sums that the lists of states may form, about half a second's worth, before HiGHS takes over."""


HAIR = 1e-4
"""Where the lists grow too long, an answer at most this part of its cost above the bound is taken as it is."""
NEAR = 256
"""Changes of which pairs are tried for the incumbent: the better it is, the smaller the core."""


class Extent(NamedTuple):
    """How large a recipe is."""

    average_bits: float
    """Stored bits a decided weight."""
    total_bytes: float
    """All the model's weights."""


class InfeasibleBudget(BudgetError):
    """The budget is below the smallest recipe; ``floor`` and ``ceiling`` are what there is to choose between."""

    def __init__(self, asked: Extent, floor: Extent, ceiling: Extent) -> None:
        super().__init__(
            f"No recipe fits into {asked.average_bits:.2f} bits a weight ({asked.total_bytes / 1e6:.2f} MB): "
            f"the smallest takes {_up(floor.average_bits)} bits a weight ({_up(floor.total_bytes / 1e6)} MB).",
            f"Choose between that and {_up(ceiling.average_bits)} bits a weight "
            f"({_up(ceiling.total_bytes / 1e6)} MB), add a smaller format, or remove pins.",
        )
        self.floor = floor
        self.ceiling = ceiling


def extent(problem: Problem) -> tuple[Extent, Extent]:
    """The smallest recipe (floor), and the smallest of those with the least predicted KL (ceiling)."""
    low, high = front(problem).bits[[0, -1]].tolist()
    return _extent(problem, low), _extent(problem, high)


def solve(problem: Problem, limit_bits: float) -> IntArray:
    """The recipe of least predicted KL whose decided units take at most ``limit_bits``.

    Of recipes with equal cost it is the one with fewer bits, and the same problem always gets the same answer.

    Args:
        problem: Costs and sizes.
        limit_bits: Bits for all decided units together; see ``problem.limit_bits``.

    Returns:
        (units,) the chosen format index of each unit.

    Raises:
        InfeasibleBudget: Not even the smallest recipe fits.
        BudgetError: The core outgrew both ways of solving it; see ``core.by_program``.
    """
    limit = whole_limit(limit_bits)
    points = front(problem)
    if limit < points.bits[0]:
        floor, ceiling = (_extent(problem, int(points.bits[end])) for end in (0, -1))
        raise InfeasibleBudget(_extent(problem, limit_bits), floor, ceiling)
    at = int(np.searchsorted(points.bits, limit, side="right")) - 1
    base = points.choice(at)
    free = limit - int(points.bits[at])
    if free == 0 or at == len(points.slope):
        return base
    core = _core(problem, base, free, float(points.slope[at]))
    if not len(core.unit):
        return base
    found = by_states(core, WORK)
    above = found.added + core.slope * core.free
    if not found.proven and above > HAIR * float(points.cost[at]):
        found = by_program(core, found)
    base[core.unit[found.changes]] = core.format[found.changes]
    return base


def whole_limit(limit_bits: float) -> int:
    """A limit in whole bits: one made by average * weights may miss its whole number by rounding."""
    whole = round(limit_bits)
    return whole if math.isclose(limit_bits, whole, rel_tol=1e-12) else math.floor(limit_bits)


def _core(problem: Problem, base: IntArray, free: int, slope: float) -> Core:
    """The changes to ``base`` that a recipe may hold that is better than its best change of one or two units."""
    rows = np.arange(len(base))
    more = problem.bits - problem.bits[rows, base][:, None]
    added = problem.cost - problem.cost[rows, base][:, None]
    lost = np.where(problem.allowed, added + slope * more, np.inf)
    lost[rows, base] = np.inf
    known = min(
        float(added.min(initial=0.0, where=problem.allowed & (more <= free))), _pair(lost, added, more, free)
    )
    hopeful = lost <= (known + slope * free) * (1 + 1e-9)
    # Bits come in steps that all changes share: what is left of the last one can never be used.
    step = int(np.gcd.reduce(more[hopeful], initial=0))
    if step > 1 and free % step:
        free -= free % step
        hopeful = lost <= (known + slope * free) * (1 + 1e-9)
    unit, format_ = np.nonzero(hopeful)
    return Core(unit, format_, more[hopeful], added[hopeful], free, slope, known)


def _pair(lost: FloatArray, added: FloatArray, more: IntArray, free: int) -> float:
    """What the best pair adds of changes that lose least beside the going rate and fit together; 0 for none."""
    near = np.argsort(lost, axis=None, kind="stable")[:NEAR] if lost.size <= NEAR else np.argpartition(
        lost, NEAR, axis=None
    )[:NEAR]  # fmt: skip
    near = near[np.isfinite(lost.ravel()[near])]
    unit = near // lost.shape[1]
    both = np.add.outer(added.ravel()[near], added.ravel()[near])
    fits = np.add.outer(more.ravel()[near], more.ravel()[near]) <= free
    return float(both.min(initial=0.0, where=fits & (unit[:, None] != unit)))


def _extent(problem: Problem, bits: float) -> Extent:
    return Extent(problem.average_bits(bits), problem.total_bytes(bits))


def _up(value: float) -> str:
    """Two digits, rounded up, so that the number shown is one that works."""
    return f"{math.ceil(value * 100 - 1e-9) / 100:.2f}"
