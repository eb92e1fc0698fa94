"""The model page on a seeded store: what is open, memory, and every way a link can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from quant_core.schema import (
    CALIBRATION,
    Budget,
    EvaluateRequest,
    ModelInfo,
    ModelRef,
    ScoreTable,
    SensitivityRequest,
    replace,
)
from quant_core.workspace import Workspace, browser_roots
from tests import made_results
from tests.served_pages import job, keep, open_page, seed, texts
from ui.words import count, duration, significant, size


def other(home: Path, info: ModelInfo, source: str, **changes: str) -> ModelInfo:
    """A second model in the store, by the name of a hub repository."""
    ref = ModelRef(source)
    found = replace(info, ref=ref, title=source.rsplit("/", maxsplit=1)[-1], fingerprint="a" * 24, **changes)
    workspace = Workspace(home, roots=browser_roots())
    keep(home, workspace.inspect_request(ref), found)
    workspace.close()
    return found


def chart(app: AppTest, key: str) -> dict[str, Any]:
    """The specification of the figure whose key begins so."""
    found = next(each for each in app.get("plotly_chart") if str(each.key).startswith(key))
    spec: dict[str, Any] = json.loads(found.proto.spec)
    return spec


def alt(app: AppTest, key: str) -> str:
    """What the figure says in words."""
    return str(next(each for each in app.get("plotly_chart") if each.key == key).proto.alt)


def links(app: AppTest) -> set[str]:
    """Labels of the links to pages."""
    return {link.proto.label for link in app.get("page_link")}


def hovers(app: AppTest) -> list[str]:
    """The hover texts of the architecture's cells."""
    texts: list[str] = chart(app, "architecture")["data"][0]["hovertext"]
    return texts


def test_the_bundled_model_is_open_without_a_click(info: ModelInfo) -> None:
    app = open_page("model")
    assert [metric.label for metric in app.metric][:3] == ["Parameters", "Weights on disk", "To be quantized"]
    assert app.metric[2].value == "56 layers"
    assert "A made model" in texts(app)
    assert [each.key for each in app.get("plotly_chart")] == ["architecture:0", "memory", "sizes"]
    assert len(app.dataframe[-1].value) == len(info.units)
    assert not app.error


# --- the diagram, in the states that its numbers can be in


def test_finished_the_open_block_and_its_scores_come_from_the_link(info: ModelInfo) -> None:
    app = open_page("model", overlay="sensitivity", open="2", format="int3/g64/asym")
    cells = chart(app, "architecture")["data"][0]
    assert ["block:2"] in cells["customdata"]
    assert ["layer:model.layers.2.mlp.up_proj.weight"] in cells["customdata"]
    assert ["layer:model.layers.3.mlp.up_proj.weight"] not in cells["customdata"]
    assert "On 8,192 tokens in 32 sequences of bundled calibration text" in texts(app)
    app.selectbox(key="architecture:unit").set_value("model.layers.2.mlp.up_proj.weight").run()
    assert "Look at the weights of 2 · up_proj" in links(app)
    app.selectbox(key="widget:open").set_value("all").run()
    assert ["layer:model.layers.3.mlp.up_proj.weight"] in chart(app, "architecture")["data"][0]["customdata"]
    assert app.session_state["url:open"] == "all"


def test_finished_the_recipe_tells_bits_bytes_and_where_it_fits(
    workspace: Workspace, info: ModelInfo, table: ScoreTable
) -> None:
    solution = workspace.solve(info, table, Budget("bits", 4.0))
    recipe = workspace.save_recipe(workspace.make_recipe(info, table, solution))
    app = open_page("model", overlay="bits", recipe=recipe)
    bits = workspace.assigned_bits(info, solution.assignment)
    block = [unit for unit in info.units if unit.block == 0]
    mean = sum(bits[unit.name] for unit in block) / sum(unit.parameters for unit in block)
    shown = app.dataframe[0].value
    assert shown[shown["Part"] == "block 0"]["Bits a weight (bits)"].item() == pytest.approx(mean)
    fits = app.dataframe[1].value
    assert "The recipe" in fits.columns
    assert len(fits) == len(workspace.machines)
    app.segmented_control(key="widget:overlay").set_value("bytes").run()
    app.selectbox(key="widget:precision").set_value("recipe").run()
    shown = app.dataframe[0].value
    assert shown["Size (MB)"].sum() == pytest.approx(
        workspace.assigned_bytes(info, solution.assignment) / 1e6
    )


@pytest.mark.parametrize(
    ("overlay", "way"), [("sensitivity", "Find its sensitive layers"), ("bits", "Make a recipe")]
)
def test_empty_a_number_that_is_not_there_says_where_to_get_it(home: Path, overlay: str, way: str) -> None:
    seed(home, tables=False)
    app = open_page("model", overlay=overlay)
    assert [each.key for each in app.get("plotly_chart")] == ["memory", "sizes"]
    assert [link.proto.label for link in app.get("page_link")].count(way) == 2, "above, and where it lacks"
    app.segmented_control(key="widget:overlay").set_value("parameters").run()
    assert chart(app, "architecture")


def test_partial_layers_without_a_score_are_counted(home: Path) -> None:
    info = seed(home, tables=False)
    whole = made_results.table(info)
    part = replace(
        whole, units=whole.units[:10], storage_bits=whole.storage_bits[:10], padded=whole.padded[:10],
        fisher=whole.fisher[:10], fisher_stderr=whole.fisher_stderr[:10], weight=whole.weight[:10],
        output=whole.output[:10],
    )  # fmt: skip
    keep(home, SensitivityRequest(info.ref, info.fingerprint, whole.formats, CALIBRATION), part)
    app = open_page("model", overlay="sensitivity")
    assert "46 layers have no score in this sweep and stay grey" in texts(app)
    assert any("of 3 weights that have one" in text for text in hovers(app))


def test_nonsense_in_the_diagrams_links_falls_back(info: ModelInfo) -> None:
    app = open_page("model", open="99", precision="int99/x", overlay="bytes", recipe="a" * 12)
    assert app.session_state["url:open"] == ""
    assert app.session_state["url:precision"] == "original"
    app.segmented_control(key="widget:overlay").set_value("bits").run()
    assert app.error, "the recipe is not stored, and that is said"


# --- layers and memory


def test_the_filter_narrows_the_layers(info: ModelInfo) -> None:
    app = open_page("model")
    app.text_input(key="layers:filter").input("down_proj").run()
    assert len(app.dataframe[-1].value) == info.blocks


def test_weights_are_read_on_request_and_the_worst_layers_picked(home: Path, info: ModelInfo) -> None:
    app = open_page("model")
    assert "Kurtosis" not in app.dataframe[-1].value
    assert any(button.label == "Read the weights" for button in app.button)
    workspace = Workspace(home, roots=browser_roots())
    keep(home, workspace.weights_request(info.ref), made_results.weight_statistics(info))
    workspace.close()
    app = open_page("model")
    whole = app.dataframe[-1].value
    assert len(whole) == len(info.units)
    assert whole["Kurtosis"].isna().tolist() == [False] * (len(info.units) - 1) + [True]
    assert "holds 3 infinite or undefined values" in texts(app)
    assert f"{info.units[-1].name} is stored in another form" in texts(app)
    for by, column in (("kurtosis", "Kurtosis"), ("outliers", "Outliers (%)"), ("largest", "Largest")):
        app.segmented_control(key="layers:worst").set_value(by).run()
        values = app.dataframe[-1].value[column].tolist()
        assert values == sorted(whole[column].dropna(), reverse=True)[:10]


def test_memory_follows_the_context(info: ModelInfo) -> None:
    app = open_page("model", context="100")
    before = alt(app, "memory")
    app.slider(key="widget:context").set_value(1000).run()
    assert alt(app, "memory") != before
    assert "1,000 tokens" in alt(app, "memory")
    assert app.session_state["url:context"] == 1000


def test_a_context_beyond_the_model_is_cut(info: ModelInfo) -> None:
    app = open_page("model", context="90000")
    assert app.slider(key="widget:context").value == info.context_length


@pytest.mark.parametrize(
    "query", [{"context": "many"}, {"dtype": "float3"}, {"device": "abacus"}, {"group": "-4"}]
)
def test_nonsense_in_a_link_is_ignored_with_a_sentence(info: ModelInfo, query: dict[str, str]) -> None:
    app = open_page("model", **query)
    assert "makes no sense here; it was ignored" in app.warning[0].value
    assert app.metric[0].label == "Parameters"


def test_a_model_opened_before_opens_at_once(home: Path, info: ModelInfo) -> None:
    other(home, info, "lab/tiny")
    app = open_page("model", model="lab/tiny")
    assert "**tiny**" in texts(app)


def test_a_link_to_a_broken_model_offers_the_bundled_one(home: Path, info: ModelInfo) -> None:
    workspace = Workspace(home, roots=browser_roots())
    job(
        home,
        workspace.inspect_request(ModelRef("lab/gone")),
        "failed",
        "There is no model lab/gone.",
        "Check it.",
    )
    app = open_page("recipe", model="lab/gone")
    assert app.error[0].value.startswith("There is no model lab/gone.")
    next(button for button in app.button if button.label == "Open the bundled model").click().run()
    assert not app.exception
    assert not app.error
    assert "A made model" in texts(app)


def test_a_running_job_shows_in_the_strip(home: Path, info: ModelInfo) -> None:
    workspace = Workspace(home, roots=browser_roots())
    running = job(home, workspace.inspect_request(ModelRef("lab/large")), "running", "Loading the model")
    app = open_page("model")
    assert any(button.key == f"cancel:strip:{running.id}" for button in app.button)


def test_a_failed_job_can_be_dismissed(home: Path, info: ModelInfo) -> None:
    request = EvaluateRequest(info.ref, info.fingerprint, {})
    failed = job(home, request, "failed", "It broke.", "Mend it.")
    app = open_page("model")
    assert "It broke. Mend it." in texts(app)
    app.button(key=f"strip:dismiss:{failed.id}").click().run()
    assert "It broke." not in texts(app)


def test_a_model_that_failed_to_open_is_told_where_it_was_asked_for_only(home: Path, info: ModelInfo) -> None:
    """Every later visit of the hour had on each page that a mistyped folder could not be opened."""
    workspace = Workspace(home, roots=browser_roots())
    job(home, workspace.inspect_request(ModelRef("lab/x")), "failed", "It broke.", "Mend it.")
    assert "It broke." not in texts(open_page("model"))
    assert "It broke." in texts(open_page("model", model="lab/x"))


def test_numbers_read_like_numbers() -> None:
    assert [count(value) for value in (12, 15_234, 18_883_072, 1.5e9)] == ["12", "15.2 k", "18.9 M", "1.5 B"]
    assert [size(value) for value in (12, 16_660_000, 3.2e9)] == ["12 bytes", "16.66 MB", "3.20 GB"]
    assert [significant(value) for value in (0, 0.0335, 12.345, 1e-9)] == ["0", "0.0335", "12.3", "1.00e-09"]
    assert [duration(value) for value in (0.44, 42, 200, 7500)] == ["0.4 s", "42 s", "3 min", "2 h 5 min"]
