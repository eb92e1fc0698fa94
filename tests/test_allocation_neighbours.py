"""Neighbours of a recipe and the finalists, against every pair of changes there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_core.allocation import neighbours
from quant_core.allocation.neighbours import Trade, apply, finalists, swaps, trades
from quant_core.allocation.problem import IntArray, NamedProblem, Problem, build_problem
from quant_core.allocation.solver import InfeasibleBudget, solve
from quant_core.errors import QuantError
from tests import made_results
from tests.made_problems import made, problems, totals

INFO = made_results.model(blocks=2)
TABLE = made_results.table(INFO)


def every_swap(problem: Problem, choice: IntArray, low: int, high: int) -> list[tuple[float, int]]:
    """Cost and bits after every change of one or two units whose size is between the limits."""
    single = [
        (row, form)
        for row, form in itertools.product(*map(range, problem.cost.shape))
        if problem.allowed[row, form] and form != choice[row]
    ]
    found = []
    for made_ in [*((one,) for one in single), *itertools.combinations(single, 2)]:
        if len({row for row, _ in made_}) < len(made_):
            continue
        changed = choice.copy()
        for row, form in made_:
            changed[row] = form
        cost, bits = totals(problem, changed)
        if low <= bits <= high:
            found.append((cost, bits))
    return sorted(found)


@settings(max_examples=150, deadline=None)
@given(problems(), st.floats(0, 1), st.integers(1, 6), st.sampled_from([1, 3, 128]))
def test_swaps_are_the_best_of_all_there_are(problem: Problem, part: float, count: int, first: int) -> None:
    """``first`` small enough makes the search widen what it looks at, which must change nothing."""
    sizes = problem.bits.min(axis=1).sum(), problem.bits.max(axis=1).sum()
    open_ = np.where(problem.allowed, problem.bits, np.iinfo(np.int64).max).min(axis=1).sum()
    choice = solve(problem, max(float(open_), sizes[0] + part * (sizes[1] - sizes[0])))
    cost, bits = totals(problem, choice)
    low, high = round(bits * 0.7), round(bits * 1.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "FIRST", first)
        found = swaps(problem, choice, low, high, count)
    expected = every_swap(problem, choice, low, high)[:count]
    assert [cost + swap.added for swap in found] == pytest.approx([total for total, _ in expected])
    for swap in found:
        after = totals(problem, apply(choice, swap))
        assert after == pytest.approx((cost + swap.added, bits + swap.more))
        assert low <= after[1] <= high
    assert len({swap.changes for swap in found}) == len(found)


def test_finalists_of_a_real_sized_problem() -> None:
    problem = made(60, 8, seed=5)
    named = NamedProblem(problem, tuple(f"u{i}" for i in range(60)), (*"abcdefg", "original"))
    limit = 4.0 * problem.weights
    found = finalists(named, limit, 8)
    assert found[0].assignment == named.assignment(solve(problem, limit))
    assert [one.predicted_kl for one in found] == sorted(one.predicted_kl for one in found)
    assert len({tuple(one.assignment.items()) for one in found}) == 8
    assert all(one.average_bits <= 4.0 for one in found)
    assert all(one.average_bits >= found[0].average_bits * 0.995 - 1e-9 for one in found)
    choice = solve(problem, limit)
    bits = totals(problem, choice)[1]
    every = every_swap(problem, choice, round(bits * 0.995), int(limit))[:7]
    assert [one.predicted_kl for one in found[1:]] == pytest.approx([cost for cost, _ in every])


def test_finalists_are_as_many_as_there_are() -> None:
    problem = made(1, 2, seed=0)
    named = NamedProblem(problem, ("u",), ("a", "original"))
    assert len(finalists(named, 3.0 * problem.weights, 5)) == 1
    assert len(finalists(named, 3.0 * problem.weights, 1)) == 1
    with pytest.raises(InfeasibleBudget):
        finalists(named, 1.0 * problem.weights, 5)


def test_a_trade_by_hand() -> None:
    # One more bit for the first unit (9 to 4) has to come from the second (4 to 6) or the third (1 to 1.5).
    problem = Problem(
        cost=np.array([[9.0, 4.0], [6.0, 4.0], [1.5, 1.0]]),
        stderr=np.zeros((3, 2)),
        bits=np.array([[2, 3], [2, 3], [2, 3]]),
        allowed=np.ones((3, 2), bool),
        weights=3,
        fixed_bits=0,
    )
    named = NamedProblem(problem, ("a", "b", "c"), ("small", "original"))
    now = {"a": "small", "b": "original", "c": "original"}
    assert trades(named, now, "a", 8) == [Trade("original", "c", "original", "small", -4.5, 0)]
    assert trades(named, now, "a", 9) == [Trade("original", "", "", "", -5.0, 1)]
    assert trades(named, now, "a", 6) == []
    with pytest.raises(QuantError, match="no weight named"):
        trades(named, now, "d", 8)


def test_trades_of_a_table_keep_to_the_budget() -> None:
    named = build_problem(INFO, TABLE)
    limit = 4.3 * named.problem.weights
    choice = solve(named.problem, limit)
    unit = TABLE.units[3]
    found = trades(named, named.assignment(choice), unit, limit)
    assert len(found) == 5, "for the original no one other unit can make room"
    before = named.assignment(choice)
    for trade in found:
        after = before | {unit: trade.form} | ({trade.partner: trade.after} if trade.partner else {})
        cost, bits = totals(named.problem, named.choice(after))
        assert cost - totals(named.problem, choice)[0] == pytest.approx(trade.added)
        assert trade.added >= -1e-12, "the recipe is the best there is"
        assert bits <= limit
        assert not trade.partner or before[trade.partner] == trade.before
