"""The core of the budget problem, exactly: lists of states, and an integer program for what outgrows them.

A core starts from a recipe (the base) that leaves ``free`` bits over and asks which changes to it, at most one a
unit, save the most. Lists of states (Pisinger 1995, "A minimal algorithm for the multiple-choice knapsack
problem", European Journal of Operational Research 83(2)) take one unit after the other and keep every sum of
changes so far that is neither dominated (another one has no more bits and costs no more) nor hopeless (even if
the units still to come used its free bits, or gave back what it has too much, at their best rate, it would not
beat the best recipe seen). Units whose changes trade bits nearest the going rate come first, since they decide.

Real models need a few hundred states and some milliseconds, a tenth to a hundredth of what HiGHS needs for the
same core. Sizes without a common divisor and costs proportional to them need millions; there HiGHS takes over.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from quant_core.allocation.problem import FloatArray, IntArray
from quant_core.errors import BudgetError

SCALE = 1e3
"""HiGHS stops at an absolute gap of 1e-6: this makes it a billionth of what the incumbent may still be off."""
TIE = 1e-5
"""Weight of the used bits beside ``SCALE``: settles ties in favour of the smaller recipe, and nothing else."""
PATIENCE = 10.0
"""Seconds that HiGHS may take."""


class Core(NamedTuple):
    """Changes to a base recipe; all arrays are (changes,)."""

    unit: IntArray
    """The unit it changes, rising."""
    format: IntArray
    """The format index it changes to."""
    more: IntArray
    """Bits it adds; negative if it saves some."""
    added: FloatArray
    """Cost it adds in nats a token; negative if it saves some."""
    free: int
    """Bits that all changes together may add."""
    slope: float
    """KL saved a bit at this size: no change has ``added + slope * more`` below 0."""
    known: float = 0.0
    """What some changes among these are known to add, at most 0: worse ones need not be looked for."""


class Found(NamedTuple):
    """The best changes found, by index, and whether they are proven to be the best."""

    changes: IntArray
    added: float
    proven: bool


def by_states(core: Core, work: int) -> Found:
    """The best changes by lists of states.

    Args:
        core: The changes to choose from.
        work: How many sums may be formed in all; beyond it the search ends unproven with the best seen.
    """
    starts = np.flatnonzero(np.diff(core.unit, prepend=-1))
    # A unit may always stay as it is, so that bits to spare never cost anything.
    gain = np.where(core.more > 0, np.maximum(-core.added, 0.0) / np.maximum(core.more, 1), 0.0)
    loss = np.where(core.more < 0, core.added / np.maximum(-core.more, 1), np.inf)
    gain, loss = np.maximum.reduceat(gain, starts), np.minimum.reduceat(loss, starts)
    order = np.argsort(np.minimum(core.slope - gain, loss - core.slope), kind="stable")
    # The best rates among the units that come after each one.
    gain = np.append(np.maximum.accumulate(gain[order][::-1])[::-1][1:], 0.0)
    loss = np.append(np.minimum.accumulate(loss[order][::-1])[::-1][1:], np.inf)

    bits, cost = np.zeros(1, np.int64), np.zeros(1)
    trail: list[tuple[IntArray, IntArray]] = []
    best, at = (0.0, 0), (-1, 0)
    changes = np.split(np.arange(len(core.unit)), starts[1:])
    for level, group in enumerate(order):
        options = changes[group]
        work -= len(bits) * (len(options) + 1)
        if work < 0 or not len(bits):
            break
        more = np.add.outer(np.append(0, core.more[options]), bits).ravel()
        added = np.add.outer(np.append(0.0, core.added[options]), cost).ravel()
        spare = core.free - more
        rate = np.where(spare < 0, loss[level], gain[level])
        bound = added - np.where(spare == 0, 0.0, spare * rate)
        reach = min(best[0], core.known)
        hopeful = np.flatnonzero(bound <= reach + 1e-12 * abs(reach))
        hopeful = hopeful[np.lexsort((added[hopeful], more[hopeful]))]
        least = np.minimum.accumulate(added[hopeful])
        kept = hopeful[np.append(True, added[hopeful][1:] < least[:-1])[: len(hopeful)]]
        trail.append((kept % len(bits), np.append(-1, options)[kept // len(bits)]))
        bits, cost = more[kept], added[kept]
        last = int(np.searchsorted(bits, core.free, side="right")) - 1
        if last >= 0 and (float(cost[last]), int(bits[last])) < best:
            best, at = (float(cost[last]), int(bits[last])), (level, last)
    return Found(_walk_back(trail, *at), best[0], work >= 0)


def _walk_back(trail: list[tuple[IntArray, IntArray]], level: int, state: int) -> IntArray:
    """The changes that led to a state of a level; a trail's entries are (state before, change or -1)."""
    made = []
    for parents, changes in trail[level::-1] if level >= 0 else []:
        made.append(int(changes[state]))
        state = int(parents[state])
    return np.array([change for change in made if change >= 0], np.int64)


def by_program(core: Core, incumbent: Found) -> Found:
    """The best changes by HiGHS, given changes to beat.

    Costs are written as what they lose against ``slope`` and divided by what the incumbent loses, so that HiGHS'
    absolute tolerances do not matter; a change that alone loses more than the incumbent is left out.

    Raises:
        BudgetError: HiGHS did not finish in ``PATIENCE`` seconds.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import, and hardly ever needed
    from scipy.sparse import coo_array

    gap = incumbent.added + core.slope * core.free
    lost = np.maximum(core.added + core.slope * core.more, 0.0)
    index = np.flatnonzero(lost <= gap * (1 + 1e-9))
    if gap <= 0 or not len(index):
        return incumbent._replace(proven=True)
    count, step = len(index), math.gcd(*core.more[index].tolist())
    owner = np.unique(core.unit[index], return_inverse=True)[1]
    one_a_unit = coo_array(
        (np.ones(count), (owner, np.arange(count))), shape=(int(owner.max()) + 1, count + 1)
    )
    # The last variable is what is left over of the free bits, in units of `step`.
    size = np.append(core.more[index] // step, 1)[None, :].astype(np.float64)
    answer = milp(
        np.append(lost[index] / gap * SCALE, (core.slope / gap * SCALE - TIE / max(core.free, 1)) * step),
        integrality=np.append(np.ones(count), 0),
        bounds=Bounds(0, np.append(np.ones(count), np.inf)),
        constraints=[
            LinearConstraint(one_a_unit, ub=1),
            LinearConstraint(size, core.free // step, core.free // step),
        ],
        options={"mip_rel_gap": 0.0, "time_limit": PATIENCE},
    )
    if answer.status != 0:
        raise BudgetError(
            f"The best recipe for this budget could not be proven in {PATIENCE:.0f} seconds.",
            "Change the budget a little, or offer fewer formats.",
        )
    made = index[np.flatnonzero(answer.x[:count] > 0.5)]
    found = Found(made, float(core.added[made].sum()), True)
    fits = int(core.more[made].sum()) <= core.free
    return found if fits and found.added <= incumbent.added else incumbent._replace(proven=True)
