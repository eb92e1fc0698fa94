"""Several limits at once: the figures by hand, the solver against every recipe there is, and what is said."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from quant_core.allocation import several
from quant_core.allocation.choose import LimitTooLow, best, curve, headroom
from quant_core.allocation.front import front
from quant_core.allocation.moves import moved
from quant_core.allocation.needs import Kind, Need, budget_need, needs_of, usage_of
from quant_core.allocation.neighbours import finalists, trades
from quant_core.allocation.problem import IntArray, NamedProblem, Problem, build_problem
from quant_core.allocation.references import references
from quant_core.allocation.several import Bound, JointlyInfeasible, solve_all
from quant_core.allocation.solution import solution
from quant_core.allocation.solver import InfeasibleBudget, solve
from quant_core.allocation.usage import activation_bytes, cache_bytes, shares, step_seconds
from quant_core.errors import BudgetError
from quant_core.schema import ORIGINAL, Budget, Limits, Rule, Terms, Use
from quant_core.targets.hardware import Hardware, machine, machines
from tests import made_results
from tests.made_problems import made, problems, totals
from tests.test_targets import DOWN, K, Q, fused, routed

INFO = made_results.model(blocks=2)
TABLE = made_results.table(INFO)
SLOW = Hardware("slow", "Slow", "CPU", 1.0, 0.001, 8.0, frozenset({"int4"}), "made up: 1 GB/s, 1 GFLOP/s")


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers to the last digit, so that they can be compared with brute force."""
    monkeypatch.setattr(several, "TOLERANCE", 0.0)


# --- figures


def test_memory_by_hand() -> None:
    use = Use(context=100, batch=3, cache_bits=8.5)
    assert cache_bytes(INFO, use) == 1024 * 100 * 3 * 8.5 / 8
    # 300 tokens pass at once: two of 256 and two of 512 values at 2 bytes; 3 x 8,192 logits at 4.
    assert activation_bytes(INFO, use) == 2 * 300 * (2 * 256 + 2 * 512) + 4 * 3 * 8192
    assert activation_bytes(INFO, replace(use, context=1000)) == 2 * 2048 * (2 * 256 + 2 * 512) + 4 * 3 * 8192


def test_experts_are_read_in_the_share_of_steps_that_need_them() -> None:
    info = routed(experts=8)  # two of eight a token
    units = info.units[:2]
    assert shares(info, units, 1).tolist() == [1.0, 0.25]
    assert shares(info, units, 3).tolist() == pytest.approx([1.0, 1 - 0.75**3])
    unknown = replace(info, experts_per_token=0)
    assert shares(unknown, units, 1).tolist() == [1.0, 1.0], "unless told otherwise, all count"


def test_an_embedding_is_looked_up_and_a_shared_one_is_read_whole() -> None:
    embedding = INFO.units[0]
    assert shares(INFO, [embedding], 4).tolist() == [1.0]
    assert shares(INFO, [replace(embedding, tied=())], 4).tolist() == [4 / 8192]


def test_seconds_by_hand() -> None:
    """4 bits of 512 x 256 weights at 1 GB/s take 65.5 us; 2 operations a weight at 1 GFLOP/s take 262 us."""
    bits = np.array([[512 * 256 * 4, 512 * 256 * 3, 512 * 256 * 16]])
    forms = ["int4/g64/asym", "int3/g64/asym", ORIGINAL]
    fast = replace(SLOW, teraflops=1.0)
    assert step_seconds(INFO, [DOWN], forms, bits, Use(), fast)[0] == pytest.approx(
        [131072 * 0.5e-9, 131072 * (0.375 + 4) * 1e-9, 131072 * 2e-9]
    )
    assert step_seconds(INFO, [DOWN], forms, bits, Use(batch=2), SLOW)[0] == pytest.approx(
        [131072 * 4e-9, 131072 * 4.375e-9, 131072 * 4e-9]
    )


def test_a_recipe_is_told_what_it_takes_by_the_same_sums_as_limits() -> None:
    terms = Terms(
        use=Use(context=64, batch=2, hardware="rtx-4090"),
        limits=Limits(bits=5.0, bytes=6e6, memory=9e6, active=6e6, milliseconds=1.0),
    )
    named = build_problem(INFO, TABLE, terms=terms)
    choice = solve(named.problem, 4.4 * named.problem.weights)
    found = solution(named, choice)
    use = usage_of(INFO, TABLE, found.assignment, terms)
    assert use.weights == pytest.approx(found.total_bytes)
    figures = {need.kind: need.of(named.problem.bits, choice) for need in named.needs}
    assert figures == pytest.approx(
        {"bits": found.average_bits, "bytes": use.weights, "memory": use.memory, "active": use.active,
         "milliseconds": use.milliseconds}
    )  # fmt: skip
    assert usage_of(INFO, TABLE, found.assignment, Terms()).milliseconds is None


def test_active_bytes_of_experts_weigh_less_than_their_size() -> None:
    info = routed(experts=8)
    named = build_problem(info, made_results.table(info), terms=Terms(limits=Limits(active=1e6)))
    (need,) = named.needs
    assert need.use is not None
    assert need.use[0] == pytest.approx(named.problem.bits[0] / 8)
    assert need.use[1] == pytest.approx(named.problem.bits[1] / 8 / 4)
    assert need.fixed == info.other_bits / 8


def test_every_machine_has_figures_and_a_source() -> None:
    assert len(machines()) > 20
    for name, one in machines().items():
        assert name == one.name
        assert one.kind in ("GPU", "Apple", "CPU")
        assert 10 < one.bandwidth < 20_000
        assert 0.5 < one.teraflops < 5_000
        assert one.source
        assert one.has_kernel(ORIGINAL)
        assert not one.has_kernel("kmeans3")
    with pytest.raises(BudgetError, match=r"no hardware profile named 'rtx-409'\. Did you mean 'rtx-4090'"):
        machine("rtx-409")


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (Limits(memory=-1.0), "makes no sense"),
        (Limits(active=float("nan")), "makes no sense"),
        (Limits(milliseconds=1.0), "no machine is named"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(limits: Limits, sentence: str) -> None:
    with pytest.raises(BudgetError, match=sentence):
        build_problem(INFO, TABLE, terms=Terms(limits=limits))


# --- the solver


@settings(max_examples=200, deadline=None)
@given(problems(), st.data())
def test_the_best_under_several_limits_is_found(problem: Problem, data: st.DataObject) -> None:
    shape = problem.cost.shape
    numbers = st.lists(st.integers(0, 60), min_size=problem.cost.size, max_size=problem.cost.size)
    uses = [problem.bits]
    uses += [np.array(data.draw(numbers)).reshape(shape) for _ in range(data.draw(st.integers(1, 2)))]
    bounds = []
    for use in uses:
        low = int(np.where(problem.allowed, use, 10**15).min(axis=1).sum())
        high = int(np.where(problem.allowed, use, 0).max(axis=1).sum())
        bounds.append(Bound(use, low + round(data.draw(st.floats(0, 0.8)) * (high - low))))
    rows = np.arange(shape[0])
    options = [np.flatnonzero(row) for row in problem.allowed]
    kept = [
        float(problem.cost[rows, choice].sum())
        for choice in map(np.array, itertools.product(*options))
        if all(int(bound.use[rows, choice].sum()) <= bound.limit for bound in bounds)
    ]
    if not kept:
        with pytest.raises(JointlyInfeasible):
            solve_all(problem, bounds)
        return
    choice = solve_all(problem, bounds)
    assert problem.allowed[rows, choice].all()
    assert all(int(bound.use[rows, choice].sum()) <= bound.limit for bound in bounds)
    assert float(problem.cost[rows, choice].sum()) == pytest.approx(min(kept), rel=1e-9, abs=1e-12)


def test_two_limits_bind_at_once_in_a_real_sized_problem() -> None:
    """A quick but large format against a small but slow one: the answer keeps both and is near the relaxation."""
    problem = made(56, 8, seed=6)
    slow = problem.bits + np.where(np.arange(8) % 2, 24 * problem.bits[:, :1] // 2, 0)
    size = Bound(problem.bits, int(4.0 * problem.weights))
    alone = solve(problem, size.limit)
    quick = solve(replace(problem, bits=slow), int(slow.min(axis=1).sum() * 1.3))
    rows = np.arange(56)
    time = Bound(slow, int(0.4 * slow[rows, alone].sum() + 0.6 * slow[rows, quick].sum()))
    found = solve_all(problem, [size, time])
    assert totals(problem, found)[1] <= size.limit
    assert slow[rows, found].sum() <= time.limit
    assert totals(problem, alone)[0] < totals(problem, found)[0], "the second limit costs something"


def test_prices_give_the_bound_of_the_linear_relaxation() -> None:
    """The Lagrangian bound is that of the relaxation with parts of choices (Geoffrion 1974), here by HiGHS."""
    for seed in range(4):
        problem = made(24, 5, seed)
        dice = np.random.default_rng(seed)
        uses = [problem.bits, *(dice.integers(1, 10**6, problem.cost.shape) for _ in range(1 + seed % 2))]
        limits = [0.4 * use.max(axis=1).sum() + 0.6 * use.min(axis=1).sum() for use in uses]
        _, bound = several._prices(problem, np.stack(uses).astype(float), np.array(limits))
        units, formats = problem.cost.shape
        relaxed = linprog(
            problem.cost.ravel(),
            A_ub=np.stack([use.ravel() / limit for use, limit in zip(uses, limits, strict=True)]),
            b_ub=np.ones(len(uses)),
            A_eq=np.kron(np.eye(units), np.ones(formats)),
            b_eq=np.ones(units),
        )
        assert bound == pytest.approx(relaxed.fun, rel=1e-5)


def test_two_limits_mostly_need_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Swaps come within a thousandth of the bound by themselves; HiGHS took ten times as long."""
    monkeypatch.undo()
    monkeypatch.setattr(several, "_by_program", None)
    for seed in (1, 2, 3):
        problem = made(300, 8, seed)
        slow = problem.bits + np.where(np.arange(8) % 2, 12 * problem.bits[:, :1], 0)
        size, rows = Bound(problem.bits, int(4.0 * problem.weights)), np.arange(300)
        alone = solve(problem, size.limit)
        quick = solve(replace(problem, bits=slow), int(slow.min(axis=1).sum() * 1.3))
        time = Bound(slow, int(0.4 * slow[rows, alone].sum() + 0.6 * slow[rows, quick].sum()))
        found, limits = solve_all(problem, [size, time]), np.array([size.limit, time.limit], float)
        _, bound = several._prices(problem, np.stack([problem.bits, slow]).astype(float), limits)
        assert several._keeps([size, time], found)
        assert bound <= totals(problem, found)[0] <= bound / (1 - several.TOLERANCE) + 1e-12


def test_limits_join_the_budget() -> None:
    budget = 6.0 * build_problem(INFO, TABLE).problem.weights
    tight = Terms(limits=Limits(bits=4.4))
    named = build_problem(INFO, TABLE, terms=tight)
    found = best(named, budget)
    assert found.choice.tolist() == solve(named.problem, 4.4 * named.problem.weights).tolist()
    time = Terms(limits=Limits(milliseconds=0.02), use=Use(context=1, hardware="rtx-4090"))
    named = build_problem(INFO, TABLE, terms=time)
    found = best(named, budget)
    assert named.needs[0].of(named.problem.bits, found.choice) <= 0.02
    assert all(
        one.predicted_kl >= solution(named, found.choice).predicted_kl for one in finalists(named, budget, 5)
    )
    for one in finalists(named, budget, 5):
        assert named.needs[0].of(named.problem.bits, named.choice(one.assignment)) <= 0.02


def test_a_limit_that_cannot_be_kept_is_named_with_what_is_possible() -> None:
    terms = Terms(limits=Limits(memory=5e6, bits=4.0), use=Use(context=1024))
    named = build_problem(INFO, TABLE, terms=terms)
    with pytest.raises(LimitTooLow) as caught:
        best(named, 16.0 * named.problem.weights)
    assert "No recipe keeps the memory to 5.00 MB: the least is " in caught.value.message
    assert "memory " in caught.value.hint
    assert "bits a weight 2.28 bits to 16.00 bits" in caught.value.hint
    with pytest.raises(InfeasibleBudget):
        best(build_problem(INFO, TABLE), 1.0 * named.problem.weights)


def test_limits_that_clash_are_told_with_what_each_could_be() -> None:
    """Small codes have no kernel on the CPU, so that the least time takes formats larger than 3 bits."""
    use = Use(context=1, hardware="ddr4")
    least = build_problem(INFO, TABLE, terms=Terms(limits=Limits(milliseconds=1.0), use=use)).needs[0]
    problem = build_problem(INFO, TABLE).problem
    limit = 1.01 * least.least(problem.bits, problem.allowed)
    named = build_problem(INFO, TABLE, terms=Terms(limits=Limits(milliseconds=limit), use=use))
    with pytest.raises(BudgetError, match="keeps all these limits at once") as caught:
        best(named, 3.0 * problem.weights)
    assert "bits a weight 2.28 bits to 16.00 bits, time a token 0.09" in caught.value.hint


# --- what is said of it


def test_a_recipe_that_fills_its_budget_needs_no_word() -> None:
    named = build_problem(INFO, TABLE)
    for average in (3.0, 4.5):
        limit = average * named.problem.weights
        need = budget_need(Budget("bits", average), named.problem.weights, named.problem.fixed_bits)
        assert headroom(named, best(named, limit), need) == ""


def test_what_keeps_a_recipe_from_filling_its_budget_by_hand() -> None:
    problem = Problem(
        cost=np.array([[2.0, 1.0], [3.0, 0.5]]), stderr=np.zeros((2, 2)), bits=np.array([[2, 8], [2, 6]]),
        allowed=np.ones((2, 2), bool), weights=2, fixed_bits=0,
    )  # fmt: skip
    named = NamedProblem(problem, ("a", "b"), ("small", ORIGINAL))
    found = best(named, 7)
    assert found.choice.tolist() == [0, 0]
    told = headroom(named, found, Need("bits", 3.5, 0.0, factor=1 / 2))
    assert told == "2.00 bits of 3.50 bits are used: the next better choice takes 4.00 bits."
    full = best(named, 20)
    told = headroom(named, full, Need("bits", 10.0, 0.0, factor=1 / 2))
    assert told == "7.00 bits of 10.00 bits are used: no layer has a better format to take."


# --- one format beside 16 bits


def test_bitsandbytes_gets_the_best_recipe_of_one_format() -> None:
    info = made_results.model(blocks=1)
    table = made_results.table(info)
    table = replace(
        table, formats=("nf4/g64", "nf4/g64/dq", "llm_int8/channel", "nf4/g64@hqq", "int4/g64/asym", "q8_0")
    )
    named = build_problem(info, table, terms=Terms("bitsandbytes"))
    plain = build_problem(info, table).problem
    for average in (5.0, 8.5, 12.0):
        limit = average * named.problem.weights
        found = best(named, limit)
        cost = float(plain.cost[np.arange(7), found.choice].sum())
        used = {named.formats[form].partition("@")[0] for form in found.choice} - {ORIGINAL}
        assert len(used) <= 1
        expected = min(
            float(plain.cost[np.arange(7), choice].sum())
            for columns in ((0, 3, 6), (1, 6), (2, 6))
            for choice in map(np.array, itertools.product(columns, repeat=7))
            if plain.bits[np.arange(7), choice].sum() <= limit
        )
        assert cost == pytest.approx(expected)
    sizes, least, _ = curve(named)
    assert (np.diff(sizes) > 0).all()
    assert (np.diff(least) < 0).all()
    with pytest.raises(BudgetError, match="must take one format"):
        best(
            build_problem(
                info, table, pins={table.units[0]: "nf4/g64", table.units[1]: "nf4/g64/dq"},
                terms=Terms("bitsandbytes"),
            ), 1e9,
        )  # fmt: skip


def test_the_curve_of_a_free_problem_is_its_front() -> None:
    named = build_problem(INFO, TABLE)
    points = front(named.problem)
    bits, cost, ends = curve(named)
    assert ends == ""
    assert bits.tolist() == points.bits.tolist()
    assert cost.tolist() == points.cost.tolist()


# --- the curve and trades under limits


@st.composite
def limited(draw: st.DrawFn) -> NamedProblem:
    """A small problem with up to three limits, whole numbers and a half so that nothing lies on one."""
    problem = draw(problems())
    units, formats = problem.cost.shape
    needs = []
    if draw(st.booleans()):
        share = draw(st.floats(0, 1))
        low, high = (int(problem.bits[problem.allowed].min()), int(problem.bits.max(axis=1).sum()))
        needs.append(Need("bits", (low + round(share * (high - low)) + 0.5) / 100, 0.0, factor=1 / 100))
    numbers = st.lists(st.integers(0, 60), min_size=problem.cost.size, max_size=problem.cost.size)
    kinds: list[Kind] = ["active", "milliseconds"]
    for kind in draw(st.lists(st.sampled_from(kinds), unique=True)):
        use = np.array(draw(numbers), float).reshape(units, formats)
        low, high = use.min(axis=1).sum(), use.max(axis=1).sum()
        limit = low + round(draw(st.floats(0, 1)) * (high - low)) + 0.5
        needs.append(Need(kind, 7 + limit, 7.0, use=use))
    names = tuple(f"u{unit}" for unit in range(units))
    forms = (*"abc"[: formats - 1], ORIGINAL)
    return NamedProblem(problem, names, forms, needs=tuple(needs), one_format=draw(st.booleans()))


def feasible(named: NamedProblem, choice: IntArray, allowed: bool = True) -> bool:
    """Whether a choice keeps every limit, is allowed, and has one format beside 16 bits if it has to."""
    rows = np.arange(len(choice))
    one = len(set(choice.tolist()) - {len(named.formats) - 1}) <= 1 or not named.one_format
    kept = all(need.of(named.problem.bits, choice) <= need.limit for need in named.needs)
    return one and kept and (not allowed or bool(named.problem.allowed[rows, choice].all()))


def every_choice(named: NamedProblem) -> list[IntArray]:
    options = [range(len(named.formats))] * len(named.units)
    return [choice for choice in map(np.array, itertools.product(*options)) if feasible(named, choice)]


@settings(max_examples=60, deadline=None)
@given(limited())
def test_no_point_of_the_curve_breaks_a_limit(named: NamedProblem) -> None:
    kept = [totals(named.problem, choice) for choice in every_choice(named)]
    if not kept:
        with pytest.raises(BudgetError):
            curve(named)
        return
    found = curve(named)
    for bits, cost in zip(found.bits.tolist(), found.cost.tolist(), strict=True):
        assert any(size == bits and value == pytest.approx(cost, abs=1e-9) for value, size in kept)
    assert (np.diff(found.bits) > 0).all()
    assert (np.diff(found.cost) < 0).all()
    assert found.cost[-1] == pytest.approx(min(kept)[0], abs=1e-9), "it ends with the best there is"
    if not any(need.use is not None for need in named.needs):
        least = {bits: min(cost for cost, size in kept if size <= bits) for bits in found.bits.tolist()}
        assert list(least.values()) == pytest.approx(found.cost.tolist(), abs=1e-9)
    free = curve(named._replace(needs=()))
    assert found.ends or found.cost[-1] == pytest.approx(free.cost[-1], abs=1e-9), "what cuts it is named"


@settings(max_examples=60, deadline=None)
@given(limited(), st.data())
def test_no_trade_breaks_a_limit_and_none_is_missing(named: NamedProblem, data: st.DataObject) -> None:
    """Against every change of one other unit; the recipe itself may break a limit, as one edited by hand does."""
    problem, formats = named.problem, len(named.formats)
    start = [
        choice
        for choice in map(np.array, itertools.product(range(formats), repeat=len(named.units)))
        if feasible(named._replace(needs=()), choice)
    ]
    if not start:
        return
    choice = data.draw(st.sampled_from(start))
    row = data.draw(st.integers(0, len(named.units) - 1))
    limit = int(problem.bits.sum())
    found = {trade.form: trade for trade in trades(named, named.assignment(choice), named.units[row], limit)}
    before = totals(problem, choice)
    for form in set(range(formats)) - {int(choice[row])}:
        after = []
        for other, other_form in itertools.product(range(len(named.units)), range(formats)):
            changed = choice.copy()
            changed[other] = other_form
            changed[row] = form
            if feasible(named, changed):
                after.append(totals(problem, changed)[0] - before[0])
        trade = found.pop(named.formats[form], None)
        assert (trade is not None) == bool(after)
        if trade is not None:
            assert trade.added == pytest.approx(min(after), abs=1e-9)
            changed = choice.copy()
            changed[row] = form
            if trade.partner:
                changed[named.units.index(trade.partner)] = named.formats.index(trade.after)
            assert feasible(named, changed)
            assert totals(problem, changed)[0] - before[0] == pytest.approx(trade.added, abs=1e-9)
    assert not found


def test_the_curve_says_where_and_why_it_ends() -> None:
    whole = curve(build_problem(INFO, TABLE))
    tight = build_problem(INFO, TABLE, terms=Terms(limits=Limits(bits=5.0)))
    found = curve(tight)
    assert (
        found.ends
        == "The curve ends at 5.00 bits: a better recipe would break the limit of 5.00 bits on bits a weight."
    )
    assert set(whole.bits[whole.bits <= 5.0 * tight.problem.weights]) <= set(found.bits)
    assert curve(build_problem(INFO, TABLE, terms=Terms(limits=Limits(bits=20.0)))).ends == ""
    use = Use(context=1, hardware="ddr4")
    slow = build_problem(INFO, TABLE, terms=Terms(limits=Limits(milliseconds=0.12), use=use))
    found = curve(slow)
    assert found.ends.startswith("The curve begins at ")
    assert "the smallest recipe breaks the limit of 0.12 ms on time a token." in found.ends
    for place in (0, len(found.bits) // 2, -1):
        solved = solution(slow, best(slow, float(found.bits[place])).choice)
        assert solved.predicted_kl <= found.cost[place] * (1 + 1e-9)


# --- edits by hand


def test_an_edit_moves_what_shares_the_format() -> None:
    info, terms = fused(INFO), Terms("gptq")
    assert moved(info, TABLE, {Q.name: "int4/g64/asym"}, Terms()) == {Q.name: "int4/g64/asym"}
    names = {unit.name for unit in info.units if unit.block == 0 and unit.fused == "0.qkv"}
    assert moved(info, TABLE, {K.name: "int4/g64/asym"}, terms) == dict.fromkeys(names, "int4/g64/asym")


@pytest.mark.parametrize(
    ("form", "terms", "sentence"),
    [
        ("nf4/g64", Terms("gptq"), "cannot take nf4/g64. .*GPTQ does not hold nf4"),
        ("int3/g64/asym", Terms(rules=(Rule("*.k_proj*", 4.0),)), "the rule .*at least 4 bits.* rules out int3"),
        ("int3/g64/asym", Terms("gptq", (Rule("*.v_proj*", 4.0),)), "v_proj.*: the rule"),
        ("int8/g64/asym", Terms(rules=(Rule("*.k_proj*", families=("int4",)),)), "only int4"),
    ],
)  # fmt: skip
def test_an_edit_that_cannot_be_says_why(form: str, terms: Terms, sentence: str) -> None:
    with pytest.raises(BudgetError, match=sentence):
        moved(fused(INFO), TABLE, {K.name: form}, terms)


# --- references


def test_references_are_priced_as_their_rules_say() -> None:
    found = references(INFO, TABLE, 5.2)
    uniform = [one for one in found if one.kind == "uniform"]
    assert len(uniform) == len(TABLE.formats)
    assert uniform[0].form == "int2/g64/asym"
    assert uniform[0].solution.predicted_kl == pytest.approx(sum(row[0] for row in TABLE.fisher))
    assert [one.solution.average_bits for one in uniform] == sorted(
        one.solution.average_bits for one in uniform
    )
    assert not [one for one in found if one.kind == "edges"], "both blocks of two are edges: 8.4 bits"
    assert not [one for one in found if one.kind == "mix"]


def test_better_edges_keep_to_the_budget() -> None:
    info = made_results.model(blocks=8)
    table = made_results.table(info)
    (edges,) = [one for one in references(info, table, 5.4) if one.kind == "edges"]
    assert (edges.edge, edges.form) == ("int8/g64/asym", "nf4/g64")
    assert 5.0 < edges.solution.average_bits <= 5.4
    for unit, form in edges.solution.assignment.items():
        block = next(one.block for one in info.units if one.name == unit)
        assert form == ("int8/g64/asym" if block in (0, 7) else "nf4/g64")


def test_llama_cpps_mix_is_there_where_its_formats_are_scored() -> None:
    table = replace(TABLE, formats=("q4_k", "q6_k", *TABLE.formats[2:]))
    (mix,) = [one for one in references(INFO, table, 5.4) if one.kind == "mix"]
    assert set(mix.solution.assignment.values()) == {"q4_k", "q6_k"}


def test_limits_on_stored_bits_need_no_matrix_of_their_own() -> None:
    units = [unit for unit in INFO.units if unit.decided]
    bits = np.array(TABLE.storage_bits)
    terms = Terms(limits=Limits(bits=4.0, bytes=1e6, memory=1e6, active=1e6))
    found = needs_of(INFO, units, TABLE.formats, bits, 100, 800, terms)
    assert [need.use for need in found] == [None] * 4
