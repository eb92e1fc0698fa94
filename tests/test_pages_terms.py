"""Target, limits and rules on the recipe page: picked, carried by the URL, heeded by edits, taken back by undo."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from quant_core.allocation.usage import activation_bytes, cache_bytes
from quant_core.schema import (
    CALIBRATION,
    Budget,
    Limits,
    ModelInfo,
    ModelRef,
    Rule,
    ScoreTable,
    SensitivityRequest,
    Terms,
    Use,
)
from quant_core.workspace import DEFAULT_FORMATS, Workspace, browser_roots
from tests import made_results
from tests.served_pages import keep, open_page, texts
from tests.test_pages_recipe import SOME, choose, draft
from tests.test_targets import fused
from ui import terms

DOWN = "*.down_proj*"


@pytest.fixture
def info(home: Path) -> ModelInfo:
    """The made model with its fused groups, and its scores, in the home folder."""
    made = fused(made_results.model())
    workspace = Workspace(home, roots=browser_roots())
    names = tuple(workspace.parse_format(family).name for family in DEFAULT_FORMATS)
    keep(home, workspace.inspect_request(ModelRef("bundled")), made)
    keep(home, SensitivityRequest(made.ref, made.fingerprint, names, CALIBRATION), made_results.table(made))
    workspace.close()
    return made


def test_a_target_that_holds_nothing_scored_offers_what_it_holds(info: ModelInfo) -> None:
    """The sweep's integers have zero points, and compressed-tensors as vLLM reads it wants none."""
    app = open_page("recipe", target="compressed-tensors")
    assert app.button(key="terms:add").label.startswith("Score the layers in the ")
    assert "terms:add" not in {button.key for button in open_page("recipe").button}


def toasts(app: AppTest) -> str:
    return " ".join(toast.value for toast in app.toast)


def test_a_target_is_picked_and_the_recipe_solved_for_it(
    workspace: Workspace, info: ModelInfo, table: ScoreTable
) -> None:
    app = open_page("recipe")
    before = draft(app)
    app.selectbox(key="terms:target").select("gptq").run()
    expected = workspace.solve(info, table, Budget("bits", 4.5), terms=Terms("gptq"))
    assert draft(app).assignment == expected.assignment
    assert app.session_state["url:target"] == "gptq"
    assert "GPTQ: 4 of 6 formats can be held; q/k/v and gate/up share one format." in texts(app)
    assert [button.key for button in app.button if str(button.key).startswith("preset:")] == [
        f"preset:int{bits}/g64/asym" for bits in (2, 3, 4, 8)
    ]
    app.button(key="undo").click().run()
    assert draft(app) == before
    assert app.selectbox(key="terms:target").value == "any"


def test_an_edit_under_a_target_moves_the_group_or_says_why_not(info: ModelInfo) -> None:
    app = open_page("recipe", target="gptq")
    choose(app, SOME)
    app.segmented_control(key="edit:format").set_value("int8/g64/asym").run()
    up = SOME.replace("gate_proj", "up_proj")
    assert draft(app).pins == {SOME: "int8/g64/asym", up: "int8/g64/asym"}
    assert draft(app).assignment[up] == "int8/g64/asym"
    before = draft(app)
    app.segmented_control(key="edit:format").set_value("nf4/g64").run()
    assert draft(app) == before
    assert "cannot take nf4/g64" in toasts(app)
    assert "GPTQ does not hold nf4" in toasts(app)
    app.button(key="edit:release").click().run()
    assert draft(app).pins == {}


def test_rules_and_limits_in_a_link_are_heeded_and_kept_in_the_recipe(
    workspace: Workspace, info: ModelInfo
) -> None:
    app = open_page(
        "recipe",
        budget="3.4bits",
        rules=f"{DOWN}>=4;*.q_proj*=nf4+int8",
        hardware="m2",
        ms="0.2",
        memory="20",
    )
    found = draft(app)
    assert found.terms.rules == (Rule(DOWN, 4.0), Rule("*.q_proj*", families=("nf4", "int8")))
    assert found.terms.limits == Limits(memory=20e6, milliseconds=0.2)
    assert found.terms.use == Use(2048, 1, 16.0, "m2")
    for unit, form in found.assignment.items():
        assert ".down_proj" not in unit or form not in ("int2/g64/asym", "int3/g64/asym")
        assert ".q_proj" not in unit or form in ("nf4/g64", "int8/g64/asym")
    labels = [metric.label for metric in app.metric]
    assert labels == ["Average bits", "All weights", "Predicted KL", "Memory", "Read a token", "Time a token"]
    app.button(key="save").click().run()
    assert workspace.recipe(app.session_state["url:recipe"]).terms == found.terms


def test_a_recipe_in_a_link_brings_its_terms(
    workspace: Workspace, info: ModelInfo, table: ScoreTable
) -> None:
    asked = Terms("gptq", (Rule(DOWN, 4.0),), Limits(memory=20e6), Use(512, 2, 16.0, "m2"))
    budget = Budget("bits", 4.0)
    solution = workspace.solve(info, table, budget, terms=asked)
    recipe = workspace.make_recipe(info, table, solution, budget, terms=asked)
    app = open_page("recipe", recipe=workspace.save_recipe(recipe))
    assert draft(app).terms == asked
    assert draft(app).assignment == solution.assignment
    assert not draft(app).edited
    assert app.selectbox(key="terms:target").value == "gptq"


def test_a_rule_is_added_and_dropped(info: ModelInfo) -> None:
    app = open_page("recipe", budget="3.2bits")
    before = draft(app).assignment
    app.session_state["edit:tab"] = "Rules (0)"
    app.run()
    assert app.button(key="rules:add").disabled, "a rule has to say something"
    app.number_input(key="rules:least").set_value(4.0).run()
    app.button(key="rules:add").click().run()
    assert terms.RULES.key in app.session_state
    assert app.session_state[terms.RULES.key] == (Rule(DOWN, 4.0),)
    lowest = {form for unit, form in draft(app).assignment.items() if ".down_proj" in unit}
    assert not lowest & {"int2/g64/asym", "int3/g64/asym"}
    app.session_state["edit:tab"] = "Rules (1)"
    app.run()
    app.button(key="rules:drop:0").click().run()
    assert draft(app).assignment == before


def test_what_cannot_be_met_is_told_and_can_be_taken_back(info: ModelInfo) -> None:
    app = open_page("recipe")
    before = draft(app)
    app.number_input(key="terms:memory").set_value(1.0).run()
    assert "No recipe keeps the memory to 1.00 MB: the least is" in app.error[0].value
    assert not [button for button in app.button if button.label.startswith("Use the smallest")]
    app.button(key="refusal:back").click().run()
    assert not app.error
    assert draft(app) == before
    assert app.number_input(key="terms:memory").value == 0.0


@pytest.mark.parametrize(
    "query", [{"target": "vllm"}, {"rules": "nothing"}, {"hardware": "abacus"}, {"ms": "-1"}, {"batch": "0"}]
)
def test_senseless_terms_in_a_link_are_ignored(info: ModelInfo, query: dict[str, str]) -> None:
    app = open_page("recipe", **query)
    assert "makes no sense here" in app.warning[0].value
    assert draft(app).terms == Terms()


def test_a_rule_that_matches_no_layer_is_told(info: ModelInfo) -> None:
    app = open_page("recipe", rules="*.bananas>=4")
    assert "The rule for '*.bananas' matches no weight that is decided on." in app.error[0].value


def test_what_a_budget_leaves_unused_is_said(info: ModelInfo) -> None:
    app = open_page("recipe", budget="20bits")
    assert "16.00 bits of 20.00 bits are used: no layer has a better format to take." in texts(app)


def test_what_one_more_bit_would_take_elsewhere_is_shown(info: ModelInfo) -> None:
    app = open_page("recipe")
    choose(app, SOME)
    shown = texts(app)
    assert "- **INT2**: layers." in shown
    assert "Each with the best change of one other layer that keeps to 4.5bits." in shown
    app = open_page("recipe", memory="18")
    choose(app, SOME)
    assert "one other layer that keeps to 4.5bits and every further limit." in texts(app)


def test_the_front_ends_where_a_limit_binds_and_says_so(
    workspace: Workspace, info: ModelInfo, table: ScoreTable
) -> None:
    app = open_page("recipe", memory="21")
    asked = draft(app).terms
    points = workspace.front(info, table, terms=asked)
    beside = cache_bytes(info, asked.use) + activation_bytes(info, asked.use)
    assert 0.99 * 21e6 < max(point.total_bytes for point in points) + beside <= 21e6
    assert "a better recipe would break the limit of 21.00 MB on memory." in texts(app)
    assert '"best under these terms"' in app.get("plotly_chart")[0].proto.spec
    assert "a better recipe would break" not in texts(open_page("recipe"))


def test_the_command_line_of_a_recipe_names_its_terms(
    workspace: Workspace, info: ModelInfo, table: ScoreTable
) -> None:
    limits = Limits(bits=3.9, memory=20e6, milliseconds=0.5)
    asked = Terms(
        "gptq", (Rule(DOWN, 4.0), Rule("*.q_proj*", families=("int4",))), limits, Use(512, 2, 16.0, "m2")
    )
    solution = workspace.solve(info, table, Budget("bits", 4.0), terms=asked)
    recipe = workspace.make_recipe(info, table, solution, Budget("bits", 4.0), terms=asked)
    app = open_page("export", recipe=workspace.save_recipe(recipe))
    line = next(code.value for code in app.code if "quant_core recipe" in code.value)
    assert "--bits 3.9 --memory 20 --milliseconds 0.5 --target gptq --never-below '*.down_proj*=4'" in line
    assert "--only '*.q_proj*=int4' --context 512 --batch 2 --hardware m2" in line
