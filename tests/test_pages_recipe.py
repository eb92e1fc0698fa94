"""The recipe page on a seeded store: budget, edits by every way, pins, undo, files, and what links can get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest
from streamlit.typing import PlotlyState

from quant_core.errors import QuantError
from quant_core.schema import Budget, ModelInfo, ScoreTable, replace
from quant_core.workspace import Workspace
from tests.served_pages import MEASURED, job, keep, open_page, seed, texts
from ui import recipe_draft
from ui.recipe_files import read
from ui.recipe_pair import measured_change

SOME = "model.layers.3.mlp.gate_proj.weight"


def draft(app: AppTest) -> recipe_draft.Draft:
    found = app.session_state["draft:now"]
    assert isinstance(found, recipe_draft.Draft)
    return found


def choose(app: AppTest, *units: str) -> None:
    app.multiselect(key="edit:chosen").set_value(list(units)).run()


def saved_recipe(workspace: Workspace, info: ModelInfo, table: ScoreTable, **changes: Any) -> str:
    solution = workspace.solve(info, table, Budget("bits", 4.0))
    return workspace.save_recipe(workspace.make_recipe(info, table, solution, Budget("bits", 4.0), **changes))


def test_without_scores_the_page_offers_the_sweep(home: Path) -> None:
    seed(home, tables=False)
    app = open_page("recipe")
    assert any(button.label == "Score the layers" for button in app.button)
    assert "A recipe needs scores first" in texts(app)
    assert not app.get("plotly_chart")


def test_the_default_budget_is_solved(workspace: Workspace, info: ModelInfo, table: ScoreTable) -> None:
    app = open_page("recipe")
    expected = workspace.solve(info, table, Budget("bits", 4.5))
    assert draft(app).assignment == expected.assignment
    assert app.metric[0].value == f"{expected.average_bits:.2f} bits"
    assert len(app.get("plotly_chart")) == 2


def test_another_budget_is_solved_anew(workspace: Workspace, info: ModelInfo, table: ScoreTable) -> None:
    app = open_page("recipe")
    app.number_input(key="budget:exact").set_value(3.2).run()
    assert draft(app).assignment == workspace.solve(info, table, Budget("bits", 3.2)).assignment
    assert app.session_state["url:budget"] == Budget("bits", 3.2)
    app.button(key="undo").click().run()
    assert draft(app).budget == Budget("bits", 4.5)
    assert app.number_input(key="budget:exact").value == 4.5
    app.button(key="redo").click().run()
    assert draft(app).budget == Budget("bits", 3.2)


def test_megabytes_say_the_same_budget(info: ModelInfo) -> None:
    app = open_page("recipe")
    before = draft(app).assignment
    app.segmented_control(key="budget:kind").set_value("bytes").run()
    assert draft(app).budget.kind == "bytes"
    assert draft(app).assignment == before
    app.segmented_control(key="budget:kind").set_value("bits").run()
    assert draft(app).budget.value == pytest.approx(4.5)


def test_a_budget_in_the_link_is_used(workspace: Workspace, info: ModelInfo, table: ScoreTable) -> None:
    app = open_page("recipe", budget="6MB")
    assert draft(app).assignment == workspace.solve(info, table, Budget("bytes", 6e6)).assignment


@pytest.mark.parametrize("budget", ["4.5", "-3bits", "0bits", "4.5stones", "nanbits"])
def test_a_senseless_budget_in_the_link_is_ignored(info: ModelInfo, budget: str) -> None:
    app = open_page("recipe", budget=budget)
    assert "makes no sense here" in app.warning[0].value
    assert draft(app).budget == Budget("bits", 4.5)


def test_an_impossible_budget_is_answered_with_floor_and_ceiling(info: ModelInfo) -> None:
    app = open_page("recipe")
    app.number_input(key="budget:exact").set_value(1.5).run()
    assert "the smallest takes" in app.error[0].value
    assert "Choose between" in app.error[0].value
    assert app.metric[0].value == "4.50 bits", "the last recipe that fits stays in view"
    assert len(app.get("plotly_chart")) == 2
    next(button for button in app.button if button.label.startswith("Use the smallest")).click().run()
    assert not app.error
    assert draft(app).budget.value == pytest.approx(2.29)


def test_the_way_back_from_an_impossible_budget_keeps_the_edits(info: ModelInfo) -> None:
    app = open_page("recipe")
    choose(app, SOME)
    app.segmented_control(key="edit:format").set_value("int8/g64/asym").run()
    edited = draft(app)
    app.number_input(key="budget:exact").set_value(1.5).run()
    assert draft(app) == edited
    app.button(key="refusal:back").click().run()
    assert not app.error
    assert draft(app) == edited


def test_an_impossible_budget_in_a_link_shows_the_front_alone(info: ModelInfo) -> None:
    app = open_page("recipe", budget="1.5bits")
    assert "the smallest takes" in app.error[0].value
    assert len(app.get("plotly_chart")) == 1
    assert not app.metric


def test_a_preset_takes_the_size_of_a_uniform_format(info: ModelInfo) -> None:
    app = open_page("recipe")
    app.button(key="preset:int3/g64/asym").click().run()
    assert draft(app).budget.value == pytest.approx(3.296875)


def test_a_click_chooses_and_an_edit_changes_that_layer_only(info: ModelInfo) -> None:
    app = open_page("recipe")
    before = dict(draft(app).assignment)
    point = {"customdata": [SOME], "point_index": 3, "curve_number": 1}
    app.session_state["bands"] = PlotlyState({"selection": {"points": [point], "box": [], "lasso": []}})
    choose(app, SOME)
    app.segmented_control(key="edit:format").set_value("int8/g64/asym").run()
    after = draft(app)
    assert {unit for unit in before if before[unit] != after.assignment[unit]} == {SOME}
    assert after.edited
    assert after.pins == {SOME: "int8/g64/asym"}
    assert app.session_state["url:recipe"], "an edit is saved and named in the URL"


def test_pins_hold_when_the_budget_moves_until_they_are_released(info: ModelInfo) -> None:
    app = open_page("recipe")
    choose(app, SOME)
    app.segmented_control(key="edit:format").set_value("int8/g64/asym").run()
    app.number_input(key="budget:exact").set_value(3.0).run()
    assert draft(app).assignment[SOME] == "int8/g64/asym"
    assert not draft(app).edited
    app.button(key="edit:release").click().run()
    app.number_input(key="budget:exact").set_value(2.9).run()
    assert draft(app).assignment[SOME] != "int8/g64/asym"


def test_edits_without_pins_go_when_solved_again(info: ModelInfo) -> None:
    app = open_page("recipe")
    before = dict(draft(app).assignment)
    choose(app, SOME)
    app.toggle(key="edit:pin").set_value(False).run()
    app.segmented_control(key="edit:format").set_value("int8/g64/asym").run()
    assert draft(app).pins == {}
    app.button(key="resolve").click().run()
    assert draft(app).assignment == before
    app.button(key="undo").click().run()
    assert draft(app).assignment[SOME] == "int8/g64/asym"


def test_a_pattern_changes_every_match(info: ModelInfo) -> None:
    app = open_page("recipe")
    app.session_state["edit:tab"] = "By pattern"
    app.run()
    app.text_input(key="edit:pattern").input("*.down_proj*").run()
    app.selectbox(key="edit:pattern-format").select("int8/g64/asym").run()
    app.button(key="edit:pattern-apply").click().run()
    chosen = {unit: name for unit, name in draft(app).assignment.items() if "down_proj" in unit}
    assert set(chosen.values()) == {"int8/g64/asym"}
    assert len(chosen) == info.blocks


def test_a_mix_of_llama_cpp_wants_its_formats_scored(info: ModelInfo) -> None:
    app = open_page("recipe")
    app.session_state["edit:tab"] = "llama.cpp mixes"
    app.run()
    assert not app.exception
    assert app.button(key="edit:mix-apply").disabled
    assert any("There are no scores yet for Q4_K, Q6_K." in caption.value for caption in app.caption)
    assert app.button(key="edit:mix-add").label == "Score the layers in the 2 missing formats"


def test_a_mix_of_llama_cpp_is_taken_over(info: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    mix = {unit.name: "int3/g64/asym" if "down" in unit.name else "int8/g64/asym" for unit in info.units}
    monkeypatch.setattr(Workspace, "gguf_mix", lambda *_: mix)
    app = open_page("recipe")
    app.session_state["edit:tab"] = "llama.cpp mixes"
    app.run()
    app.button(key="edit:mix-apply").click().run()
    assert draft(app).assignment == {unit: mix[unit] for unit in draft(app).assignment}


def test_a_pattern_without_a_match_cannot_be_applied(info: ModelInfo) -> None:
    app = open_page("recipe")
    app.session_state["edit:tab"] = "By pattern"
    app.run()
    app.text_input(key="edit:pattern").input("nothing.like.this").run()
    assert app.button(key="edit:pattern-apply").disabled
    assert "No layer matches" in texts(app)


def test_patterns_take_brackets_literally(table: ScoreTable) -> None:
    assert recipe_draft.matches(table, "*.layers.0.*") == tuple(u for u in table.units if ".layers.0." in u)
    assert recipe_draft.matches(table, "*[0]*") == ()


def test_a_recipe_in_the_link_comes_back_with_its_pins(
    workspace: Workspace, info: ModelInfo, table: ScoreTable
) -> None:
    pins = {SOME: "int8/g64/asym"}
    solution = workspace.solve(info, table, Budget("bits", 4.0), pins)
    recipe = workspace.make_recipe(info, table, solution, Budget("bits", 4.0), pins)
    app = open_page("recipe", recipe=workspace.save_recipe(recipe))
    assert draft(app).assignment == solution.assignment
    assert draft(app).pins == pins
    assert draft(app).budget == Budget("bits", 4.0)
    assert not draft(app).edited


@pytest.mark.parametrize("recipe", ["nosuchrecipe", "../../etc"])
def test_a_recipe_that_is_not_there_is_told(info: ModelInfo, recipe: str) -> None:
    app = open_page("recipe", recipe=recipe)
    assert app.error or app.warning
    assert not app.exception


def test_another_models_recipe_is_refused(workspace: Workspace, info: ModelInfo, table: ScoreTable) -> None:
    recipe = workspace.recipe(saved_recipe(workspace, info, table))
    stranger = workspace.recipe_text(recipe, "json").replace(info.fingerprint, "b" * 24)
    with pytest.raises(Exception, match="This recipe was made for") as caught:
        read("recipe.json", stranger.encode(), info)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.json", b"\xff\xfe\x00"), ("a.json", b"{"), ("a.yaml", b"- 1"), ("a.json", b"x" * 5_000_001)],
)
def test_a_file_that_is_no_recipe_is_refused(
    workspace: Workspace, info: ModelInfo, name: str, data: bytes
) -> None:
    st.cache_resource.clear()
    with pytest.raises(QuantError):
        read(name, data, info)


def test_the_measurement_stands_beside_the_prediction(
    home: Path, workspace: Workspace, info: ModelInfo, table: ScoreTable
) -> None:
    app = open_page("recipe")
    assert any(button.label == "Measure it" for button in app.button)
    assignment = workspace.solve(info, table, Budget("bits", 4.5)).assignment
    keep(home, recipe_draft.measure_request(info, assignment), MEASURED)
    app.run()
    assert [metric.label for metric in app.metric] == [
        "Average bits",
        "All weights",
        "Predicted KL",
        "Measured KL",
    ]
    assert "Measured on 4,080 tokens of bundled evaluation text" in texts(app)


def test_a_failed_measurement_is_one_sentence_with_retry(
    home: Path, workspace: Workspace, info: ModelInfo, table: ScoreTable
) -> None:
    assignment = workspace.solve(info, table, Budget("bits", 4.5)).assignment
    job(
        home,
        recipe_draft.measure_request(info, assignment),
        "failed",
        "The worker process ended.",
        "Start it again.",
    )
    app = open_page("recipe")
    assert app.error[0].value == "The worker process ended.\n\nStart it again."
    assert any(button.label == "Retry" for button in app.button)
    assert app.get("plotly_chart"), "the recipe is still there"


def test_a_drag_is_one_step_for_undo(workspace: Workspace, info: ModelInfo, table: ScoreTable) -> None:
    """The last move of a drag used to come in after Undo where the page was slow, and took the undone step again."""

    def script() -> None:
        import streamlit as st

        from quant_core.schema import Budget, ModelRef
        from tests import made_results
        from ui import recipe_draft
        from ui.jobs import workspace

        info = workspace().result(workspace().inspect_request(ModelRef("bundled")))
        assert info is not None
        table = made_results.table(info)
        first = recipe_draft.ensure(info, table)
        for value in (4.0, 3.5, 3.0):
            recipe_draft.move_budget(info, table, Budget("bits", value), drag=7)
        recipe_draft.undo(info, table)
        recipe_draft.move_budget(info, table, Budget("bits", 3.0), drag=7)
        st.session_state["same"] = recipe_draft.current(info) == first
        recipe_draft.move_budget(info, table, Budget("bits", 3.0), drag=8)
        st.session_state["moved"] = recipe_draft.current(info) != first

    app = AppTest.from_function(script, default_timeout=30).run()
    assert not app.exception
    assert app.session_state["same"]
    assert app.session_state["moved"], "the next drag counts"


def test_edits_in_the_table_are_taken(info: ModelInfo) -> None:
    def script() -> None:
        import streamlit as st

        from quant_core.plots import fold
        from quant_core.schema import ModelRef
        from tests import made_results
        from ui import recipe_draft, recipe_edit
        from ui.jobs import workspace

        info = workspace().result(workspace().inspect_request(ModelRef("bundled")))
        assert info is not None
        table = made_results.table(info)
        recipe_draft.ensure(info, table)
        st.session_state["rows"] = {"edited_rows": {"3": {"format": "int8/g64/asym"}, "5": {"pinned": True}}}
        recipe_edit.take_rows(info, table, fold(info, table), "rows")
        draft = recipe_draft.current(info)
        assert draft is not None
        third, fifth = table.units[3], table.units[5]
        assert draft.assignment[third] == "int8/g64/asym"
        assert draft.pins == {third: "int8/g64/asym", fifth: draft.assignment[fifth]}

    assert not AppTest.from_function(script, default_timeout=30).run().exception


def test_experts_are_one_row_whose_change_all_of_them_take(home: Path) -> None:
    seed(home, blocks=2, experts=32, views=1)

    def script() -> None:
        import pytest
        import streamlit as st

        from quant_core.plots import fold
        from quant_core.schema import ModelRef
        from tests import made_results
        from ui import recipe_draft, recipe_edit
        from ui.jobs import workspace

        info = workspace().result(workspace().inspect_request(ModelRef("bundled")))
        assert info is not None
        table = made_results.table(info)
        draft = recipe_draft.ensure(info, table)
        drawn = fold(info, table)
        rows = recipe_edit.table_rows(info, table, drawn, draft)
        assert len(rows) == 14, "seven roles in two blocks"
        assert rows["weights"].sum() == sum(unit.parameters for unit in info.units if unit.decided)
        assert rows["kl"].sum() == pytest.approx(
            1e3 * sum(recipe_edit.layer_scores(table, draft.assignment).values())
        )
        place = list(drawn.table.units).index("model.layers.1.mlp.experts.up_proj[*]")
        assert rows["format"].isna()[place], "they have several"
        assert " INT" in rows["mixed"][place]
        st.session_state["rows"] = {"edited_rows": {str(place): {"format": "int8/g64/asym", "pinned": True}}}
        recipe_edit.take_rows(info, table, drawn, "rows")
        edited = recipe_draft.current(info)
        assert edited is not None
        experts = [name for name in table.units if name.startswith("model.layers.1.mlp.experts.up_proj[")]
        assert edited.pins == dict.fromkeys(experts, "int8/g64/asym")
        rows = recipe_edit.table_rows(info, table, drawn, edited)
        assert [rows[name][place] for name in ("format", "mixed", "pinned")] == ["int8/g64/asym", "32", True]
        inside = recipe_edit.table_rows(info, table, fold(info, table, 1), edited)
        assert len(inside) == 4 + 3 * 32
        assert set(inside["block"]) == {1}

    app = AppTest.from_function(script, default_timeout=30).run()
    assert not app.exception, app.exception[0].message


def test_a_recipe_is_held_as_a_and_compared_with_what_is_made_of_it(info: ModelInfo) -> None:
    app = open_page("recipe")
    assert "Hold a recipe as A" in texts(app)
    app.button(key="pair:hold").click().run()
    assert "Both give every layer the same format" in texts(app)
    held = app.session_state["url:held"]
    first = dict(draft(app).assignment)
    choose(app, SOME)
    app.segmented_control(key="edit:format").set_value("int8/g64/asym").run()
    assert app.session_state["url:held"] == held
    assert "**1 layer differs**" in texts(app)
    rows = next(frame.value for frame in app.dataframe if "spread" in frame.value)
    assert list(rows["layer"]) == ["layers.3.mlp.gate_proj"]
    figures = app.table[0].value
    assert list(figures.index) == ["All weights", "Average bits a weight", "Predicted KL (95 %)"]
    assert figures["B − A"].iloc[1].endswith("bits")
    assert len(app.get("plotly_chart")) == 4

    again = open_page("recipe", held=held, recipe=app.session_state["url:recipe"])
    assert "**1 layer differs**" in texts(again), "a reload finds both"
    again.button(key="pair:swap").click().run()
    assert draft(again).assignment == first
    assert "**1 layer differs**" in texts(again)
    again.button(key="undo").click().run()
    assert draft(again).assignment[SOME] == "int8/g64/asym"
    app.button(key="pair:back").click().run()
    assert draft(app).assignment == first
    app.button(key="pair:drop").click().run()
    assert app.session_state["url:held"] == ""


def test_a_held_recipe_that_is_not_there_is_told(info: ModelInfo) -> None:
    app = open_page("recipe", held="nosuchrecipe")
    assert app.error
    assert len(app.get("plotly_chart")) == 2, "the recipe under work stays"
    app.button(key="pair:drop").click().run()
    assert not app.error


def test_measurements_of_both_are_compared_on_the_same_tokens() -> None:
    other = replace(MEASURED, kl_mean=0.0304, kl_stderr=0.0011)
    assert measured_change(MEASURED, other) == "−0.00400 ± 0.0030 nats/token"
    assert measured_change(MEASURED, replace(other, tokens=1)) == "on other text"
    assert measured_change(MEASURED, None) == "–"


def test_settings_of_another_tool_become_the_recipe_and_say_what_was_understood(
    workspace: Workspace, info: ModelInfo
) -> None:
    st.cache_resource.clear()
    weights = "{num_bits: 4, group_size: 64, strategy: group, symmetric: false}"
    group = f"{{targets: [Linear, gone], weights: {weights}}}"
    settings = f"QuantizationModifier: {{config_groups: {{a: {group}}}, ignore: [lm_head]}}"
    found = read("recipe.yaml", settings.encode(), info)
    app = open_page("recipe", recipe=workspace.save_recipe(found.recipe))
    app.session_state["recipe:incoming"] = found
    app.run()
    assert set(draft(app).assignment.values()) == {"int4/g64/asym"}
    assert "From settings for llm-compressor" in texts(app)
    assert "No layer of this model is called gone." in [text.value for text in app.text]
    app.button(key="recipe:understood").click().run()
    assert "From settings for llm-compressor" not in texts(app)
