"""What runtimes can hold: cases by hand, and recipes solved for them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from quant_core import targets
from quant_core.allocation.problem import build_problem
from quant_core.allocation.solution import solution
from quant_core.allocation.solver import solve
from quant_core.errors import BudgetError
from quant_core.schema import ORIGINAL, ModelInfo, Rule, ScoreTable, Terms, Unit
from quant_core.targets import TARGETS, check, find, shares, summary
from quant_core.workspace import Workspace
from tests import made_results

INFO = made_results.model(blocks=2)
TABLE = made_results.table(INFO)
Q, K, V, OUT, GATE, UP, DOWN = (unit for unit in INFO.units if unit.block == 0)
LINEAR = replace(DOWN, columns=768)


def fused(info: ModelInfo) -> ModelInfo:
    """The made model with q/k/v and gate/up told as what some runtimes fuse."""
    groups = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}
    units = tuple(
        replace(unit, fused=f"{unit.block}.{groups[unit.role]}") if unit.role in groups else unit
        for unit in info.units
    )
    return replace(info, units=units)


def routed(experts: int = 4) -> ModelInfo:
    """Two blocks of an attention projection and some experts in 3-D parameters."""
    units = []
    for block in range(2):
        path = f"model.layers.{block}"
        units.append(replace(OUT, name=f"{path}.self_attn.o_proj.weight", block=block))
        for role, rows in (("gate_up_proj", 512), ("down_proj", 256)):
            units += [
                Unit(f"{path}.mlp.experts.{role}[{expert}]", block, f"{role}[{expert}]", "expert", rows, 256, 16, True,
                     fused=f"{path}.mlp.experts")
                for expert in range(experts)
            ]  # fmt: skip
    return replace(INFO, units=tuple(units), architecture="MixtralForCausalLM", blocks=2, experts_per_token=2)


@pytest.mark.parametrize(
    ("target", "form", "unit", "reason"),
    [
        ("any", "int7/tensor/float/keep1.0@gptq", DOWN, None),
        ("compressed-tensors", "int4/g128/sym", DOWN, None),
        ("compressed-tensors", "int4/g128/sym@gptq", DOWN, None),
        ("compressed-tensors", "int8/channel/sym", DOWN, None),
        ("compressed-tensors", "int4/g64/asym", DOWN, "holds int4 as sym, not asym"),
        ("compressed-tensors", "int4/g256/sym", DOWN, "in groups of 32, 64 or 128, not 256"),
        ("compressed-tensors", "int4/tensor/sym", DOWN, "a scale a channel or group, not a tensor"),
        ("compressed-tensors", "int3/g64/sym", DOWN, "does not hold int3; it holds int4, int8, fp8_e4m3"),
        ("compressed-tensors", "int4/g64/sym/keep0.5", DOWN, "no place for weights kept in 16 bits"),
        ("compressed-tensors", "int4/g128/sym", replace(DOWN, columns=320), "do not divide its rows of 320"),
        ("compressed-tensors", "int4/g128/sym", replace(DOWN, kind="conv1d"), "leaves Conv1D layers in 16 bits"),
        ("compressed-tensors", ORIGINAL, replace(DOWN, kind="conv1d"), None),
        ("compressed-tensors", "nvfp4", DOWN, None),
        ("compressed-tensors", "nvfp4", replace(Q, fused="qkv"), "it would merge"),
        ("compressed-tensors", "fp8_e4m3/tensor", replace(Q, fused="qkv"), "it would merge"),
        ("compressed-tensors", "fp8_e4m3/channel", replace(Q, fused="qkv"), None),
        ("compressed-tensors", "nvfp4", routed().units[1], "without the scale of their tensor"),
        ("compressed-tensors", "mxfp4", routed().units[1], None),
        ("gptq", "int3/g64/asym", DOWN, None),
        ("gptq", "int5/g64/asym", DOWN, "does not hold int5"),
        ("gguf", "q4_k", LINEAR, None),
        ("gguf", "q4_k", replace(DOWN, columns=320), "would take q5_0 instead"),
        ("gguf", "q8_0", replace(DOWN, columns=320), None),
        ("gguf", "q8_0", replace(DOWN, columns=300), "needs rows of a multiple of 32"),
        ("gguf", "q6_k", replace(DOWN, kind="embedding"), None),
        ("gguf", "int4/g32/sym", DOWN, "does not hold int4"),
        ("bitsandbytes", "nf4/g64/dq", DOWN, None),
        ("bitsandbytes", "nf4/g128", DOWN, "in groups of 64, not 128"),
        ("bitsandbytes", "llm_int8/channel", DOWN, None),
        ("bitsandbytes", "nf4/g64", routed().units[1], "leaves experts in 16 bits"),
        ("torchao", "int5/g64/asym", DOWN, None),
        ("torchao", "int4/g64/float", DOWN, "as sym or asym, not float"),
        ("torchao", "int5/g64/float", DOWN, "as sym or asym, not float"),
        ("torchao", "int5/tensor/sym", DOWN, "not a tensor"),
        ("mlx", "int6/g64/float", DOWN, None),
        ("mlx", "int6/g64/asym", DOWN, "as float, not asym"),
        ("mlx", "mxfp8_e4m3", DOWN, None),
        ("mlx", "nf4/g64/dq", DOWN, "does not hold nf4"),
    ],
)  # fmt: skip
def test_what_a_target_holds(target: str, form: str, unit: Unit, reason: str | None) -> None:
    found = check(find(target), unit, form)
    assert (found is None) == (reason is None)
    assert reason is None or (found and reason in found and found.endswith("."))


def test_every_format_that_a_target_names_is_one(workspace: Workspace) -> None:
    known = {family.name: family for family in workspace.catalog.families}
    for target in TARGETS.values():
        for holds in target.holds or ():
            assert set(holds.families) <= set(known), target.name
            assert {*holds.instead, *holds.instead.values()} <= set(known)
            for name in holds.families:
                family = known[name]
                assert set(holds.granularities) & set(family.granularities) or not holds.granularities
                assert set(holds.group_sizes) <= set(family.group_sizes)
                assert set(holds.symmetries) <= set(family.symmetries)
                assert not holds.double or family.double


def test_what_shares_a_format() -> None:
    q, expert = replace(Q, fused="0.qkv"), routed().units[2]
    assert [shares(find(name), q) for name in ("any", "gguf", "gptq")] == ["", "", "0.qkv"]
    assert shares(find("gptq"), expert) == "model.layers.0.mlp.experts"
    assert shares(find("gguf"), expert) == "model.layers.0.mlp.experts.gate_up_proj"
    assert shares(find("torchao"), expert) == ""


def test_a_summary_says_what_is_ruled_out() -> None:
    info = fused(INFO)
    units = [unit for unit in info.units if unit.decided]
    forms = ["int4/g64/sym", "int4/g64/asym", "q4_k"]
    assert summary(find("any"), info, units, forms) == ""
    told = summary(find("compressed-tensors"), info, units, forms)
    assert told == "compressed-tensors: 1 of 3 formats can be held; q/k/v and gate/up share one format."
    assert "experts stay in 16 bits" in summary(find("torchao"), routed(), routed().units, forms)
    assert summary(find("gguf"), INFO, units, ["q4_k"]) == "GGUF: the format can be held."
    opt = replace(INFO, architecture="OPTForCausalLM")
    assert summary(find("gguf"), opt, units, forms).endswith("llama.cpp does not run OPT.")


def test_an_unknown_target_is_told_with_the_nearest() -> None:
    with pytest.raises(BudgetError, match=r"no target runtime named 'ggfu'. Did you mean 'gguf'"):
        find("ggfu")


# --- problems under a target


def test_fused_units_are_one_row_whose_costs_and_sizes_add_up() -> None:
    info = fused(INFO)
    plain = build_problem(info, TABLE).problem
    named = build_problem(info, TABLE, terms=Terms("compressed-tensors"))
    assert named.problem.cost.shape == (2 * 4, 7)
    assert named.problem.cost[0] == pytest.approx(plain.cost[:3].sum(axis=0))
    assert named.problem.stderr[0] == pytest.approx(plain.stderr[:3].sum(axis=0))
    assert named.problem.bits[0].tolist() == plain.bits[:3].sum(axis=0).tolist()
    assert named.problem.weights == plain.weights
    assert named.problem.fixed_bits == plain.fixed_bits
    held = [name == ORIGINAL or name == "fp8_e4m3/channel" for name in named.formats]
    assert named.problem.allowed.tolist() == [held] * 8


def test_a_solution_under_ties_is_the_best_of_those_that_heed_them() -> None:
    info = fused(made_results.model(blocks=1))
    table = made_results.table(info)
    named = build_problem(info, table, formats=["int3/g64/asym", "int8/g64/asym"], terms=Terms("gptq"))
    limit = 6.0 * named.problem.weights
    found = solution(named, solve(named.problem, limit))
    plain = build_problem(info, table, formats=["int3/g64/asym", "int8/g64/asym"]).problem
    groups = [[0, 1, 2], [3], [4, 5], [6]]
    best = np.inf
    for choice in itertools.product(range(3), repeat=4):
        spread = np.zeros(7, int)
        for members, form in zip(groups, choice, strict=True):
            spread[members] = form
        if plain.bits[np.arange(7), spread].sum() <= limit:
            best = min(best, plain.cost[np.arange(7), spread].sum())
    assert found.predicted_kl == pytest.approx(best)
    for members in groups:
        assert len({found.assignment[table.units[index]] for index in members}) == 1
    assert named.choice(found.assignment).tolist() == solve(named.problem, limit).tolist()


@pytest.mark.parametrize(("target", "rows"), [("any", 18), ("torchao", 18), ("gguf", 6), ("gptq", 4)])
def test_experts_are_tied_as_the_target_wants(target: str, rows: int) -> None:
    info = routed()
    named = build_problem(info, made_results.table(info), terms=Terms(target))
    assert len(named.problem.cost) == rows


def test_a_pin_of_one_moves_all_that_share_its_format() -> None:
    info = fused(INFO)
    named = build_problem(info, TABLE, pins={K.name: "int4/g64/asym"}, formats=[], terms=Terms("gptq"))
    assignment = named.assignment(solve(named.problem, 16 * named.problem.weights))
    assert {assignment[unit.name] for unit in (Q, K, V)} == {"int4/g64/asym"}
    assert assignment[OUT.name] == ORIGINAL
    with pytest.raises(BudgetError, match=r"q_proj.weight and .*v_proj.weight share one format under GPTQ"):
        build_problem(info, TABLE, pins={Q.name: "int4/g64/asym", V.name: ORIGINAL}, terms=Terms("gptq"))


def test_what_shares_a_format_must_be_given_the_same() -> None:
    named = build_problem(fused(INFO), TABLE, terms=Terms("gptq"))
    with pytest.raises(BudgetError, match="have different ones"):
        named.choice({Q.name: "int4/g64/asym"})


@pytest.mark.parametrize(
    ("pins", "terms", "sentence"),
    [
        ({Q.name: "nf4/g64"}, Terms("gguf"), "pinned to nf4/g64. .*GGUF does not hold nf4"),
        ({Q.name: "int3/g64/asym"}, Terms(rules=(Rule("*q_proj*", 4.0),)), "pinned to int3/g64/asym. .*rules out"),
        ({}, Terms(rules=(Rule("*q_proj*", 5.0, ("int3", "nf4")),)), "No format is left for .*q_proj.* by the rule"),
        ({}, Terms(rules=(Rule("*q_prj*", 5.0),)), "rule for .* matches no weight"),
        ({}, Terms("gguf", (Rule("*", 0.0, ("int4",)),)), "No format is left for .* under GGUF by the rule"),
    ],
)  # fmt: skip
def test_what_leaves_nothing_to_choose_is_told(pins: dict[str, str], terms: Terms, sentence: str) -> None:
    with pytest.raises(BudgetError, match=sentence):
        build_problem(INFO, TABLE, pins=pins, terms=terms)


def test_a_model_that_the_target_does_not_run_is_refused() -> None:
    opt = replace(INFO, architecture="OPTForCausalLM")
    with pytest.raises(BudgetError, match=r"llama\.cpp does not run OPT"):
        build_problem(opt, TABLE, terms=Terms("gguf"))


def allowed(terms: Terms, table: ScoreTable = TABLE) -> dict[str, list[str]]:
    problem, units, formats, *_ = build_problem(INFO, table, terms=terms)
    return {
        unit: [name for name, open_ in zip(formats, row, strict=True) if open_]
        for unit, row in zip(units, problem.allowed.tolist(), strict=True)
    }


def test_never_below_counts_stored_bits() -> None:
    found = allowed(Terms(rules=(Rule("*.down_proj*", 4.26),)))
    assert found[DOWN.name] == ["int4/g64/asym", "int8/g64/asym", "fp8_e4m3/channel", ORIGINAL]
    assert len(found[Q.name]) == 7


def test_only_some_families_leave_the_original_out_unless_it_is_named() -> None:
    rules = (Rule("*.down_proj*", families=("int4", "nf4")), Rule("*.q_proj*", families=("nf4", ORIGINAL)))
    found = allowed(Terms(rules=rules))
    assert found[DOWN.name] == ["int4/g64/asym", "nf4/g64"]
    assert found[Q.name] == ["nf4/g64", ORIGINAL]


def test_all_rules_that_match_hold() -> None:
    found = allowed(Terms(rules=(Rule("*.layers.0.*", 4.0), Rule("*q_proj*", families=("int2", "int8")))))
    assert found[Q.name] == ["int8/g64/asym"]
    assert found[Q.name.replace("layers.0", "layers.1")] == ["int2/g64/asym", "int8/g64/asym"]


def test_targets_are_listed_any_first() -> None:
    assert list(TARGETS) == [
        "any", "awq", "bitsandbytes", "compressed-tensors", "gguf", "gptq", "mlx", "torchao"
    ]  # fmt: skip
    assert targets.TARGETS["any"].holds is None
