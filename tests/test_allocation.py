"""The budget problem: against brute force, against HiGHS, and the properties that any solver must have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from quant_core.allocation import core, solver
from quant_core.allocation.front import front
from quant_core.allocation.problem import Problem, build_problem, limit_bits
from quant_core.allocation.solution import price, solution
from quant_core.allocation.solver import InfeasibleBudget, extent, solve
from quant_core.errors import BudgetError, FormatError, QuantError
from quant_core.schema import ORIGINAL, Budget
from tests import made_results
from tests.made_problems import every_total, made, problems, totals

INFO = made_results.model(blocks=2)
TABLE = made_results.table(INFO)
Q0 = TABLE.units[0]


def shuffled(problem: Problem, seed: int) -> Problem:
    """The same problem with its units and its formats in another order."""
    dice = np.random.default_rng(seed)
    units, formats = (dice.permutation(count) for count in problem.cost.shape)
    order = np.ix_(units, formats)
    return replace(
        problem,
        cost=problem.cost[order],
        stderr=problem.stderr[order],
        bits=problem.bits[order],
        allowed=problem.allowed[order],
    )


# --- solve


def test_bits_to_spare_cost_nothing() -> None:
    """The middle unit's second format takes fewer bits at the same cost or more: no change of it gains anything.

    The search once counted such a unit's free bits as a cost and dropped the best recipe (14 in 15 bits) for 15.
    """
    cost = np.array([[3.0, 9.0], [1.0, 8.0], [4.0, 6.0]])
    bits = np.array([[7, 2], [9, 3], [4, 7]])
    every = np.ones((3, 2), dtype=bool)
    problem = Problem(cost, np.zeros((3, 2)), bits, every, weights=3, fixed_bits=0)
    assert totals(problem, solve(problem, 19)) == (14.0, 15)


@settings(max_examples=400, deadline=None)
@given(problems(), st.floats(0, 1))
def test_the_best_recipe_is_found(problem: Problem, part: float) -> None:
    every = every_total(problem)
    sizes = sorted(bits for _, bits in every)
    limit = sizes[0] + part * (sizes[-1] - sizes[0])
    best = min(total for total in every if total[1] <= limit)
    assert totals(problem, solve(problem, limit)) == best, "least cost, and of those the fewest bits"


@settings(max_examples=100, deadline=None)
@given(problems(), st.floats(0, 1))
def test_highs_alone_finds_the_best_recipe(problem: Problem, part: float) -> None:
    every = every_total(problem)
    sizes = sorted(bits for _, bits in every)
    limit = sizes[0] + part * (sizes[-1] - sizes[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solver, "WORK", 0)
        cost, bits = totals(problem, solve(problem, limit))
    assert bits <= limit
    assert cost == min(cost for cost, bits in every if bits <= limit)


@pytest.mark.parametrize("average", [2.3, 3.1, 4.0, 5.7])
def test_a_middling_problem_agrees_with_highs_on_the_plain_program(average: float) -> None:
    problem = made(20, 6, seed=1)
    units, formats = problem.cost.shape
    one = np.kron(np.eye(units), np.ones(formats))
    limit = average * problem.weights
    scale = 1e6
    answer = milp(
        problem.cost.ravel() * scale,
        integrality=np.ones(units * formats),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(one, 1, 1), LinearConstraint(problem.bits.ravel() / limit, ub=1.0)],
        options={"mip_rel_gap": 0.0},
    )
    cost, bits = totals(problem, solve(problem, limit))
    assert bits <= limit
    assert answer.fun is not None
    assert cost == pytest.approx(answer.fun / scale, rel=1e-9)


def test_a_large_problem_is_within_a_hair_of_the_bound() -> None:
    problem = made(300, 20, seed=2)
    points = front(problem)
    for average in (2.5, 3.5, 4.5, 6.0, 9.0):
        limit = average * problem.weights
        cost, bits = totals(problem, solve(problem, limit))
        bound = np.interp(limit, points.bits, points.cost)
        assert bits <= limit
        assert bound * (1 - 1e-12) <= cost <= bound * (1 + 1e-3)


def test_a_search_that_grows_too_large_is_finished_by_highs(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made(40, 8, seed=3)
    limit = 3.3 * problem.weights
    expected = totals(problem, solve(problem, limit))
    for work in (0, 100, 1000):
        monkeypatch.setattr(solver, "WORK", work)
        assert totals(problem, solve(problem, limit)) == pytest.approx(expected, rel=1e-12)


def test_giving_up_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver, "WORK", 0)
    monkeypatch.setattr(core, "PATIENCE", 0.0)
    problem = made(300, 20, seed=2)
    with pytest.raises(BudgetError, match="could not be proven"):
        solve(problem, 3.3 * problem.weights)


@settings(max_examples=50, deadline=None)
@given(problems(), st.integers(0, 1000), st.floats(0, 1))
def test_the_order_of_units_and_formats_does_not_matter(problem: Problem, seed: int, part: float) -> None:
    low, high = (end.average_bits * problem.weights for end in extent(problem))
    limit = low + part * (high - low)
    other = shuffled(problem, seed)
    assert totals(problem, solve(problem, limit)) == totals(other, solve(other, limit))


@settings(max_examples=50, deadline=None)
@given(problems(), st.floats(0, 1), st.floats(0, 1))
def test_more_bits_are_never_worse(problem: Problem, one: float, other: float) -> None:
    low, high = (end.average_bits * problem.weights for end in extent(problem))
    limits = [low + part * (high - low) for part in sorted((one, other))]
    small, large = (totals(problem, solve(problem, limit))[0] for limit in limits)
    assert large <= small


def test_the_same_problem_gets_the_same_answer() -> None:
    problem = made(60, 10, seed=4)
    limit = 4.2 * problem.weights
    assert (solve(problem, limit) == solve(problem, limit)).all()


def test_a_case_by_hand() -> None:
    # The first unit saves 4.75 with two bits more, the others 3 and 2.5 with one bit each.
    problem = Problem(
        cost=np.array([[9.0, 4.25], [4.0, 1.0], [3.0, 0.5]]),
        stderr=np.zeros((3, 2)),
        bits=np.array([[2, 4], [2, 3], [2, 3]]),
        allowed=np.ones((3, 2), bool),
        weights=3,
        fixed_bits=0,
    )
    assert solve(problem, 6).tolist() == [0, 0, 0]
    assert solve(problem, 7.9).tolist() == [0, 1, 0]
    assert solve(problem, 8).tolist() == [0, 1, 1]
    assert solve(problem, 9).tolist() == [1, 1, 0]
    assert solve(problem, 100).tolist() == [1, 1, 1]
    points = front(problem)
    assert points.bits.tolist() == [6, 7, 8, 10]
    assert points.cost.tolist() == [16.0, 13.0, 10.5, 5.75]


def test_a_budget_below_the_floor_names_floor_and_ceiling() -> None:
    problem = replace(made(5, 4, seed=0), fixed_bits=8_000_000)
    floor, ceiling = extent(problem)
    with pytest.raises(InfeasibleBudget) as caught:
        solve(problem, 1.5 * problem.weights)
    assert (caught.value.floor, caught.value.ceiling) == (floor, ceiling)
    assert floor.average_bits == pytest.approx(2.25, abs=1e-3)
    assert ceiling.average_bits == 16
    assert ceiling.total_bytes == 16 * problem.weights / 8 + 1e6
    assert f"{ceiling.total_bytes / 1e6:.2f} MB" in caught.value.hint
    assert "1.50 bits" in caught.value.message
    shown = float(caught.value.message.partition("smallest takes ")[2].split()[0])
    assert solve(problem, shown * problem.weights).shape == (5,), "the floor it shows is one that works"


def test_the_floor_itself_is_a_budget() -> None:
    for seed in range(20):
        problem = made(7, 5, seed)
        floor, _ = extent(problem)
        assert totals(problem, solve(problem, floor.average_bits * problem.weights))


# --- front


@settings(max_examples=100, deadline=None)
@given(problems())
def test_every_point_of_the_front_is_the_best_of_its_size(problem: Problem) -> None:
    every, points = every_total(problem), front(problem)
    for index, (bits, cost) in enumerate(zip(points.bits, points.cost, strict=True)):
        assert totals(problem, points.choice(index)) == (cost, bits)
        assert cost == min(total[0] for total in every if total[1] <= bits)
    assert (np.diff(points.bits) > 0).all()
    assert (np.diff(points.cost) < 0).all(), "no point is dominated"
    assert (np.diff(points.slope) <= 1e-12).all()
    assert (points.cost[-1], points.bits[-1]) == min(every), "the ceiling"
    assert (points.bits[0], points.cost[0]) == min((bits, cost) for cost, bits in every), "the floor"


@settings(max_examples=50, deadline=None)
@given(problems())
def test_nothing_lies_below_the_front(problem: Problem) -> None:
    points = front(problem)
    for cost, bits in every_total(problem):
        assert cost >= np.interp(bits, points.bits, points.cost) - 1e-9


def test_pins_hold_along_the_front() -> None:
    named = build_problem(INFO, TABLE, pins={"*.q_proj.weight": "int8/g64/asym"})
    points = front(named.problem)
    for index in (0, len(points.bits) // 2, len(points.bits) - 1):
        assignment = solution(named, points.choice(index)).assignment
        assert assignment[Q0] == "int8/g64/asym"


# --- the problem of a table


def test_original_is_the_last_column_and_costs_nothing() -> None:
    problem, units, formats, *_ = build_problem(INFO, TABLE)
    assert units == TABLE.units
    assert formats == (*TABLE.formats, ORIGINAL)
    assert not problem.cost[:, -1].any()
    assert not problem.stderr[:, -1].any()
    assert problem.bits[0, -1] == 256 * 256 * 16
    assert problem.cost[:, :-1].tolist() == [list(row) for row in TABLE.fisher]
    assert problem.stderr[:, :-1].tolist() == [list(row) for row in TABLE.fisher_stderr]
    assert problem.allowed.all()


def test_bits_and_bytes_are_limits_on_the_same_units() -> None:
    problem = build_problem(INFO, TABLE).problem
    decided = sum(unit.parameters for unit in INFO.units if unit.decided)
    assert problem.weights == decided
    assert limit_bits(problem, Budget("bits", 4.5)) == 4.5 * decided
    bits = limit_bits(problem, Budget("bytes", 6e6))
    assert problem.total_bytes(bits) == 6e6
    assert problem.total_bytes(problem.bits[:, -1].sum()) == INFO.original_bits / 8
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(BudgetError, match="makes no sense"):
            limit_bits(problem, Budget("bits", value))


def test_a_selection_of_formats_leaves_the_others_to_the_pins() -> None:
    problem, units, formats, *_ = build_problem(
        INFO, TABLE, pins={Q0: "int8/g64/asym", "*.k_proj.*": ORIGINAL}, formats=["int4/g64/asym", "nf4/g64"]
    )
    assert formats == ("int4/g64/asym", "int8/g64/asym", "nf4/g64", ORIGINAL)
    allowed = dict(zip(units, problem.allowed.tolist(), strict=True))
    assert allowed[Q0] == [False, True, False, False]
    assert allowed[units[1]] == [False, False, False, True]
    assert allowed[units[2]] == [True, False, True, True]


def test_of_several_pins_the_exact_name_and_then_the_last_wins() -> None:
    pins = {Q0: "nf4/g64", "*q_proj*": "int8/g64/asym", "*layers.1*": "int4/g64/asym"}
    problem, units, formats, *_ = build_problem(INFO, TABLE, pins=pins)
    pinned = {unit: formats[index] for unit, index in zip(units, problem.allowed.argmax(axis=1), strict=True)}
    assert pinned[Q0] == "nf4/g64"
    assert pinned[Q0.replace("layers.0", "layers.1")] == "int4/g64/asym"


def test_brackets_of_an_expert_are_literal() -> None:
    units = tuple(replace(INFO.units[1], name=f"experts.up[{index}]") for index in range(12))
    info = replace(INFO, units=units)
    table = made_results.table(info)
    problem = build_problem(info, table, pins={"experts.*[1]": "nf4/g64"}).problem
    assert np.flatnonzero(problem.allowed.sum(axis=1) == 1).tolist() == [1]


@pytest.mark.parametrize(
    ("pins", "sentence"),
    [
        ({"model.layers.0.self_attn.q_prj.weight": "nf4/g64"}, "Did you mean 'model.layers.0.self_attn.q_proj.weight'"),
        ({"*.bananas": "nf4/g64"}, "matches no weight. Names look like"),
        ({Q0: "int8/g64"}, "pinned to 'int8/g64', which has no scores. Did you mean 'int8/g64/asym'"),
        ({"model.embed_tokens.weight": "nf4/g64"}, "that these scores do not decide on"),
    ],
)  # fmt: skip
def test_a_pin_that_cannot_hold_is_refused(pins: dict[str, str], sentence: str) -> None:
    with pytest.raises(BudgetError) as caught:
        build_problem(INFO, TABLE, pins=pins)
    assert sentence in str(caught.value)


def test_noise_below_zero_counts_as_zero() -> None:
    noisy = replace(TABLE, fisher=((-1e-9,) * 6, *TABLE.fisher[1:]))
    assert not build_problem(INFO, noisy).problem.cost[0].any()


def test_a_table_that_does_not_fit_is_refused() -> None:
    holed = replace(TABLE, fisher=((0.1, float("nan"), 0.1, 0.1, 0.1, 0.1), *TABLE.fisher[1:]))
    with pytest.raises(QuantError, match=rf"{Q0} in int3/g64/asym is not a finite number"):
        build_problem(INFO, holed)
    with pytest.raises(QuantError, match="hold no 'measured' score"):
        build_problem(INFO, TABLE, "measured")
    with pytest.raises(QuantError, match="another model"):
        build_problem(replace(INFO, fingerprint="0" * 24), TABLE)
    with pytest.raises(FormatError, match="Did you mean 'int4/g64/asym'"):
        build_problem(INFO, TABLE, formats=["int4/g64/sym"])


def test_a_problem_checks_itself() -> None:
    problem = made(3, 4, seed=0)
    for change in (
        {"cost": -problem.cost},
        {"stderr": problem.stderr[1:]},
        {"allowed": problem.allowed & False},
    ):
        with pytest.raises(ValueError, match=r"negative|shape|no allowed"):
            replace(problem, **change)


# --- prices


def test_a_price_is_a_sum_and_its_error_a_root_of_squares() -> None:
    second = TABLE.units[5]
    priced = price(INFO, TABLE, {Q0: "int2/g64/asym", second: "int4/g64/asym"})
    assert priced.predicted_kl == pytest.approx(TABLE.fisher[0][0] + TABLE.fisher[5][2], rel=1e-15)
    together = TABLE.fisher_stderr[0][0] + TABLE.fisher_stderr[5][2]
    assert priced.predicted_stderr == pytest.approx(together, rel=1e-15)
    assert priced.assignment[TABLE.units[1]] == ORIGINAL
    saved = 256 * 256 * 16 - TABLE.storage_bits[0][0] + 512 * 256 * 16 - TABLE.storage_bits[5][2]
    assert priced.total_bytes == (INFO.original_bits - saved) / 8


def test_a_price_and_a_solution_agree() -> None:
    named = build_problem(INFO, TABLE)
    solved = solution(named, solve(named.problem, 4.5 * named.problem.weights))
    assert price(INFO, TABLE, solved.assignment) == solved
    assert solved.average_bits <= 4.5


def test_a_score_without_errors_has_none() -> None:
    assert price(INFO, TABLE, {Q0: "int2/g64/asym"}, "weight").predicted_stderr == 0


def test_what_has_no_score_has_no_price() -> None:
    with pytest.raises(QuantError, match="no weight named"):
        price(INFO, TABLE, {"model.embed_tokens.weight": "nf4/g64"})
    with pytest.raises(FormatError, match=r"'int4', which has no scores"):
        price(INFO, TABLE, {Q0: "int4"})
