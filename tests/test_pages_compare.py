"""The compare and export pages on a seeded store: texts, divergence, metrics, files, commands, and bad links."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from quant_core.cli.arguments import parser
from quant_core.plots.palette import Palette, contrast, readable_on
from quant_core.report.commands import evaluate_command, file_name, generate_command, recipe_command
from quant_core.schema import (
    Attribution,
    AttributionRequest,
    Budget,
    GenerateRequest,
    ModelInfo,
    ScoreTable,
    Setup,
    TokenEvent,
    TokenReading,
    replace,
)
from quant_core.workspace import Workspace
from tests.served_pages import MEASURED, WRITTEN, job, keep, open_page, seed, texts
from ui import compare_tokens, recipe_draft, theme
from ui.compare_page import EXAMPLES, metrics_frame
from ui.compare_text import Sides, from_events, text_html

PALETTE = Palette(
    ("#112233",) * 10, ("#000000", "#ffffff"), ("#000000", "#888888", "#ffffff"), *["#445566"] * 4
)


@pytest.fixture
def request_now(workspace: Workspace, info: ModelInfo, table: ScoreTable) -> GenerateRequest:
    """What the compare page asks for when nothing was changed."""
    assignment = workspace.solve(info, table, Budget("bits", 4.5)).assignment
    changed = {unit: name for unit, name in assignment.items() if name != "original"}
    return GenerateRequest(info.ref, info.fingerprint, EXAMPLES[0], changed)


def test_without_scores_the_original_can_write_and_a_recipe_is_offered(home: Path) -> None:
    seed(home, tables=False)
    app = open_page("compare")
    assert "There is no recipe yet" in texts(app)
    assert any(button.label == "Write" for button in app.button)


def test_a_stored_comparison_comes_back_by_its_link(home: Path, request_now: GenerateRequest) -> None:
    keep(home, replace(request_now, seed=7), replace(WRITTEN, seed=7))
    app = open_page("compare", seed="7")
    pages = [element.proto.body for element in app.get("html")]
    assert any("first" in page and ">no<" in page for page in pages)
    assert "Seed 7, temperature 0.8" in texts(app)


def test_a_running_comparison_streams_and_can_be_stopped(home: Path, request_now: GenerateRequest) -> None:
    running = job(home, request_now, "running", "token 12 of 60")
    app = open_page("compare")
    assert any(button.key == f"stop:{running.id}" for button in app.button)
    assert "token 12 of 60" in texts(app)


def test_a_failed_comparison_says_why(home: Path, request_now: GenerateRequest) -> None:
    job(home, request_now, "failed", "The prompt is too long.", "Shorten it.")
    app = open_page("compare")
    assert app.error[0].value == "The prompt is too long.\n\nShorten it."


@pytest.mark.parametrize(
    ("other", "title"), [("int2/g64/asym", "All layers in INT2 g64 asym"), ("mix:q4_k_m", "Q4_K_M")]
)
def test_a_third_variant_stands_beside_the_two(
    home: Path, workspace: Workspace, info: ModelInfo, request_now: GenerateRequest, other: str, title: str
) -> None:
    decided = [unit.name for unit in info.units if unit.decided]
    whole = workspace.gguf_mix(info, "q4_k_m") if other.startswith("mix") else dict.fromkeys(decided, other)
    asked = replace(request_now, other={unit: whole[unit] for unit in decided})
    keep(home, asked, replace(WRITTEN, other=(" had", " a", " barn"), other_divergence=2))
    app = open_page("compare", other=other)
    assert f"**{title}**" in texts(app)
    pages = [element.proto.body for element in app.get("html")]
    assert sum('class="continuation"' in page for page in pages) == 3
    assert any(">barn<" in page for page in pages)
    assert any(f"token 2; {title}: token 3" in page for page in pages)


def test_a_saved_recipe_can_be_the_third(
    workspace: Workspace, info: ModelInfo, table: ScoreTable, request_now: GenerateRequest, home: Path
) -> None:
    small = workspace.solve(info, table, Budget("bits", 3.0))
    saved = workspace.save_recipe(workspace.make_recipe(info, table, small, setup=Setup(kv_cache="int8")))
    asked = replace(
        request_now, other=workspace.recipe(saved).assignment(), other_setup=Setup(kv_cache="int8")
    )
    keep(home, asked, replace(WRITTEN, other=(" was",), other_divergence=0))
    app = open_page("compare", other=f"recipe:{saved}")
    assert f"**Saved recipe {saved}**" in texts(app)
    assert any("at 3.00 bits" in option or "at 2.9" in option for option in _others(app))


def _others(app: AppTest) -> list[str]:
    return app.selectbox(key="widget:other").options


READ = replace(
    WRITTEN,
    prompt=(5, 6),
    readings={
        "original": TokenReading((1, 2, 3), (0.9, 0.4, 0.3), (0.0, 0.0, 0.0)),
        "recipe": TokenReading((1, 4, 5), (0.85, 0.004, 0.3), (0.0002, 0.05, 2.5)),
    },
)


def _texts(app: AppTest) -> list[str]:
    return [element.proto.body for element in app.get("html") if "continuation" in element.proto.body]


@pytest.mark.parametrize(
    ("colour", "steps"),
    [("kl", {" had": 0, " no": 2, " home": 4}), ("probability", {" had": 0, " no": 4, " home": 1})],
)
def test_tokens_are_coloured_by_their_step(
    home: Path, request_now: GenerateRequest, colour: str, steps: dict[str, int]
) -> None:
    keep(home, request_now, READ)
    app = open_page("compare", colour=colour)
    recipe, fills = _texts(app)[1], compare_tokens.colours(theme.palette())
    for token, step in steps.items():
        tag = re.search(f"<span[^>]*>{token}</span>", recipe)
        assert tag is not None
        assert (f"background:{fills[step]}" in tag[0]) == (step > 0)
        assert ("background" in tag[0]) == (step > 0)
        assert ("outline" in tag[0]) == (token == " no"), "the first that differs"
    assert 'title="KL 2.50 nats · probability 30.0 %"' in recipe
    frame = app.dataframe[0].value
    assert list(frame.index) == [1, 2, 3]
    assert list(frame["Original: probability (%)"]) == [90.0, 40.0, 30.0]
    assert list(frame.filter(like="KL (nats)").iloc[:, 0]) == [0.0002, 0.05, 2.5]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_steps_differ_in_lightness_and_can_be_read_on(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightness is what a reader who sees no red, no green or no blue still sees."""
    monkeypatch.setattr(theme, "mode", lambda: mode)
    fills = compare_tokens.colours(theme.palette())
    assert len(fills) == len(compare_tokens.SCALES["kl"].labels)
    assert min(contrast(*pair) for pair in pairwise(fills)) > 1.5
    assert min(contrast(fill, readable_on(fill)) for fill in fills) > 4.5


def test_the_first_difference_is_what_is_coloured_unless_asked(
    home: Path, request_now: GenerateRequest
) -> None:
    keep(home, request_now, READ)
    app = open_page("compare")
    assert 'class="token"' not in "".join(_texts(app))
    app.segmented_control(key="widget:colour").set_value("probability").run()
    assert _texts(app)[0].count('class="token"') == 3


def _moved_request(asked: GenerateRequest) -> AttributionRequest:
    """What stands before the first difference of ``READ``: its prompt and one token."""
    return AttributionRequest(
        asked.model, asked.fingerprint, (5, 6, 1), asked.assignment or {}, asked.setup, asked.roots
    )


def test_the_layers_behind_the_first_difference_are_asked_for(
    home: Path, request_now: GenerateRequest
) -> None:
    keep(home, request_now, READ)
    app = open_page("compare")
    assert "At token 2 the original writes `` ␣a ``" in texts(app)
    assert any(button.label == "Find the layers" for button in app.button)
    running = job(home, _moved_request(request_now), "running", "layer 7 of 56")
    app.run()
    assert any(button.key == f"cancel:here:{running.id}" for button in app.button)


def test_the_layers_behind_the_first_difference_are_shown(
    home: Path, info: ModelInfo, request_now: GenerateRequest
) -> None:
    keep(home, request_now, READ)
    units = tuple(request_now.assignment or {})[:4]
    keep(home, _moved_request(request_now), Attribution(units, (0.1, 0.3, 0.05, 0.05), 0.8, 3, 0.4))
    app = open_page("compare")
    shown = texts(app)
    assert "moves the prediction by 0.800 nats (KL)" in shown
    assert "add up to 0.500 nats: here rounding errors reinforce each other" in shown
    assert "make 90.0 % of that sum" in shown
    assert "behind 3 tokens" in shown
    frame = app.dataframe[1].value
    assert list(frame["Share (%)"]) == pytest.approx([60, 20, 10, 10])
    assert frame["Layer"].iloc[0] == units[1]


def test_texts_of_before_tokens_were_measured_say_so(home: Path, request_now: GenerateRequest) -> None:
    keep(home, request_now, WRITTEN)
    assert "stored before tokens were measured" in texts(open_page("compare", colour="kl"))


@pytest.mark.parametrize("other", ["recipe:nothere", "int99/g64"])
def test_a_third_that_is_not_there_is_told(info: ModelInfo, other: str) -> None:
    app = open_page("compare", other=other)
    assert len(app.error) == 1
    assert "\n\n" in app.error[0].value, "a sentence and what to do"
    assert app.selectbox(key="widget:other").value == ""


def test_an_example_fills_the_prompt(info: ModelInfo) -> None:
    app = open_page("compare")
    app.pills(key="compare:example").set_value(EXAMPLES[2]).run()
    assert app.text_area(key="widget:prompt").value == EXAMPLES[2]


@pytest.mark.parametrize(
    "query", [{"seed": "x"}, {"temperature": "9"}, {"length": "0"}, {"recipe": "not there"}]
)
def test_nonsense_in_a_link_falls_back(info: ModelInfo, query: dict[str, str]) -> None:
    app = open_page("compare", **query)
    assert app.warning or app.error
    assert any(button.label == "Write" for button in app.button)


def test_metrics_come_from_the_last_measurement(
    home: Path, info: ModelInfo, request_now: GenerateRequest
) -> None:
    keep(home, recipe_draft.measure_request(info, request_now.assignment or {}), MEASURED)
    app = open_page("compare", tab="text")
    frame = metrics_frame(MEASURED)
    assert frame.set_index("Metric").equals(app.table[0].value)
    assert "shows quality, not speed" in texts(app)
    assert frame.iloc[0, 1] == "43.10 ± 3.0"


def test_divergence_is_the_first_difference() -> None:
    events = [TokenEvent("recipe", 1, "c"), TokenEvent("original", 0, "a"), TokenEvent("recipe", 0, "a"),
              TokenEvent("original", 1, "b")]  # fmt: skip
    assert from_events(events) == Sides(("a", "b"), ("a", "c"))
    assert from_events(events).divergence("recipe") == 1
    assert Sides(("a", "b"), ("a",)).divergence("recipe") == -1, "a side that lags behind has not diverged"
    assert Sides().divergence("original") == -1
    three = Sides(("a", "b", "c"), ("a", "b", "d"), ("a", "e"))
    assert [three.divergence(side) for side in ("original", "recipe", "other")] == [1, 2, 1]


def test_text_is_escaped() -> None:
    html = text_html("<b>", ("<script>", "x"), 0, PALETTE)
    assert "<script>" not in html
    assert "&lt;b&gt;" in html
    assert "&lt;script&gt;" in html


def test_export_leads_to_a_recipe_when_there_is_none(home: Path) -> None:
    seed(home, tables=False)
    app = open_page("export")
    assert "There is no recipe yet." in texts(app)
    assert not app.get("download_button")


def test_export_offers_both_files_and_the_commands(workspace: Workspace, info: ModelInfo) -> None:
    app = open_page("export")
    assert [button.proto.label for button in app.get("download_button")] == [
        "Download JSON", "Download YAML", "Report (HTML)", "Report (Markdown)", "Model card",
    ]  # fmt: skip
    assert [code.value.split()[3] for code in app.code] == ["recipe", "evaluate", "generate"]
    assert app.session_state["url:recipe"]


def test_a_recipe_edited_by_hand_is_not_claimed_to_follow_from_a_budget(info: ModelInfo) -> None:
    app = open_page("recipe")
    app.multiselect(key="edit:chosen").set_value(["model.layers.3.mlp.gate_proj.weight"]).run()
    app.segmented_control(key="edit:format").set_value("int8/g64/asym").run()
    app.switch_page("pages/export.py").run()
    assert not app.exception
    assert "formats were chosen by hand" in texts(app)
    assert [code.value.split()[3] for code in app.code] == ["evaluate", "generate"]


def test_the_commands_are_ones_that_the_command_line_takes(
    workspace: Workspace, info: ModelInfo, table: ScoreTable
) -> None:
    pins = {"model.layers.0.mlp.up_proj.weight": "int8/g64/asym"}
    budget = Budget("bytes", 6e6)
    solution = workspace.solve(info, table, budget, pins)
    recipe = workspace.make_recipe(info, table, solution, budget, pins)
    file = file_name(info, recipe) + ".json"
    st.cache_resource.clear()
    table = replace(table, precision=0.05)
    where = replace(info, ref=replace(info.ref, source="my models/it's", revision="v1", dtype="float32"))
    for command in (
        recipe_command(where, table, recipe, file, workspace.usual_formats), evaluate_command(where, file),
        generate_command(where, file, GenerateRequest(where.ref, where.fingerprint, "Once 'upon' a time")),
    ):  # fmt: skip
        arguments = parser().parse_args(shlex.split(command)[3:])
        assert arguments.model == "my models/it's"
        assert getattr(arguments, "precision", 0.05) == 0.05
    assert json.loads(workspace.recipe_text(recipe, "json"))["average_bits"] == recipe.average_bits
    assert set(file) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")
