"""The Pareto front of size against predicted KL, exact at every point it names.

Each unit's choices have a lower convex hull in the plane of bits and cost. Going from every unit's smallest
choice and always taking the hull step that saves most KL a bit solves the linear relaxation of the
multiple-choice knapsack for every budget at once (Sinha and Zoltners 1979, "The multiple-choice knapsack
problem", Operations Research 27(3); Kellerer, Pferschy and Pisinger 2004, "Knapsack Problems", chapter 11).
Between two steps nothing is split, so the point is integral and the relaxation's optimum: no recipe of its size
or less is better. These are the supported points, all vertices of the front's own lower hull among them; the
recipes above that hull are ``solver.solve``'s to find.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quant_core.allocation.problem import FloatArray, IntArray, Numbers, Problem


@dataclass(frozen=True, eq=False)
class Front:
    """Supported Pareto points in order of size, as a first choice and one change a point."""

    bits: IntArray
    """(points,) stored bits of the decided units, rising."""
    cost: FloatArray
    """(points,) predicted KL in nats a token, falling."""
    slope: FloatArray
    """(points - 1,) KL saved a bit by each step, falling."""
    first: IntArray
    """(units,) format index of each unit at the floor."""
    unit: IntArray
    """(points - 1,) the unit that each step changes."""
    format: IntArray
    """(points - 1,) the format index it changes to."""

    def choice(self, point: int) -> IntArray:
        """(units,) format index of each unit at the point of index ``point``, 0 being the floor."""
        chosen = self.first.copy()
        chosen[self.unit[:point]] = self.format[:point]  # of several steps of a unit the last one stays
        return chosen

    def totals(self, values: Numbers) -> Numbers:
        """(points,) the sum over units of ``values``, (units, formats), at every point."""
        before = self.first[self.unit]
        order = np.argsort(self.unit, kind="stable")
        again = self.unit[order[1:]] == self.unit[order[:-1]]
        before[order[1:][again]] = self.format[order[:-1][again]]
        more = values[self.unit, self.format] - values[self.unit, before]
        last = values[np.arange(len(self.first)), self.choice(len(self.unit))].sum(keepdims=True)
        # From the ceiling down, as for the cost: what the original adds is often exactly 0.
        totals: Numbers = np.concatenate([last - np.cumsum(more[::-1])[::-1], last])
        return totals


def front(problem: Problem) -> Front:
    """Every supported Pareto point from the floor (fewest bits) to the ceiling (least cost, in fewest bits).

    Time is O(units x formats x hull steps), vectorized over units and formats.
    """
    rows = np.arange(len(problem.cost))
    bits = np.where(problem.allowed, problem.bits, np.iinfo(np.int64).max)
    smallest = bits == bits.min(axis=1, keepdims=True)
    first = np.where(smallest, problem.cost, np.inf).argmin(axis=1)

    current, limit = first, np.full(len(rows), np.inf)
    steps: list[tuple[IntArray, IntArray, FloatArray, IntArray, FloatArray]] = []
    while True:
        more = problem.bits - problem.bits[rows, current][:, None]
        saved = problem.cost[rows, current][:, None] - problem.cost
        better = problem.allowed & (more > 0) & (saved > 0)
        slopes = np.where(better, saved / np.maximum(more, 1), -1.0)
        best = slopes.max(axis=1)
        # Of equal slopes the longest step, so that a hull edge is one step.
        step = np.where(slopes == best[:, None], more, -1).argmax(axis=1)
        moving = np.flatnonzero(better.any(axis=1))
        if not len(moving):
            break
        limit = np.minimum(limit, best)  # rounding must not put a unit's later step before its earlier one
        to = step[moving]
        steps.append((moving, to, limit[moving], more[moving, to], saved[moving, to]))
        current = current.copy()
        current[moving] = to

    unit, target, slope, more_bits, less_cost = _in_order(steps)
    low = int(problem.bits[rows, first].sum())
    high_cost = float(problem.cost[rows, current].sum())
    return Front(
        bits=low + np.concatenate([[0], np.cumsum(more_bits)]),
        # Summed from the ceiling down: subtracting from the floor would leave rounding where the cost is near 0.
        cost=high_cost + np.concatenate([np.cumsum(less_cost[::-1])[::-1], [0.0]]),
        slope=slope,
        first=first,
        unit=unit,
        format=target,
    )


def _in_order(
    steps: list[tuple[IntArray, IntArray, FloatArray, IntArray, FloatArray]],
) -> tuple[IntArray, IntArray, FloatArray, IntArray, FloatArray]:
    """The units' steps in one list, steepest first; equal slopes keep the units' own order of steps."""
    if not steps:
        whole, real = np.zeros(0, np.int64), np.zeros(0)
        return whole, whole, real, whole, real
    unit, target, slope, more_bits, less_cost = (np.concatenate(part) for part in zip(*steps, strict=True))
    order = np.argsort(-slope, kind="stable")
    return unit[order], target[order], slope[order], more_bits[order], less_cost[order]
