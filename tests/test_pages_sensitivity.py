"""The sensitivity page on a seeded store: every view, clicks and their keyboard twin, and what links can get wrong."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest
from streamlit.typing import PlotlyState

from quant_core.schema import Job, ModelInfo, ScoresEvent, ScoreTable, SensitivityRequest, replace
from quant_core.store import Store
from quant_core.workspace import DEFAULT_FORMATS, Workspace, browser_roots
from tests import made_results
from tests.served_pages import job, open_page, seed
from ui.score_charts import VIEWS, score_rows
from ui.selection import LAYERS

SOME = "model.layers.3.mlp.gate_proj.weight"


def page(**query: str) -> AppTest:
    return open_page("sensitivity", **query)


def figure(app: AppTest, index: int = 0) -> dict[str, Any]:
    """A chart's figure as the browser gets it."""
    data: dict[str, Any] = json.loads(app.get("plotly_chart")[index].proto.spec)
    return data


def test_without_a_sweep_the_page_leads_to_one(home: Path) -> None:
    seed(home, tables=False)
    app = page()
    assert any(button.label == "Score the layers" for button in app.button)
    assert any("56 layers in 7 formats" in text.value for text in app.markdown)
    assert not app.get("plotly_chart")
    app = page(stop="0.05")
    assert any("again until scores are known to within 5 %" in text.value for text in app.markdown)


def test_a_stored_sweep_is_shown_at_once(info: ModelInfo) -> None:
    app = page()
    assert figure(app)["layout"]["title"]["text"] == "Predicted KL in int4/g64/asym"
    assert not any(button.label == "Score the layers" for button in app.button)
    labels = [metric.label for metric in app.metric]
    assert labels == ["KL with this format for all", "Size with it", "Most sensitive", "Held by the top 5"]
    assert app.metric[0].value.endswith("nats/token")
    assert any("8,192 tokens in 32 sequences of bundled calibration text" in c.value for c in app.caption)


def running_sweep(home: Path) -> Job:
    """The sweep that the settings ask for, running."""
    workspace = Workspace(home, roots=browser_roots())
    names = tuple(workspace.parse_format(family).name for family in DEFAULT_FORMATS)
    model = made_results.model()
    workspace.close()
    return job(home, SensitivityRequest(model.ref, model.fingerprint, names), "running", "reading")


def tell(home: Path, running: Job, position: int, table: ScoreTable) -> None:
    """Have the sweep stream a table."""
    store = Store(home)
    store.jobs.emit(running.id, position, ScoresEvent(table))
    store.close()


def test_a_running_sweep_shows_what_it_knows_so_far(home: Path) -> None:
    seed(home, tables=False)
    whole = made_results.table(made_results.model())
    alone = replace(whole, tokens=0, sequences=0, fisher=(), fisher_stderr=(), output=())
    running = running_sweep(home)
    tell(home, running, 0, alone)
    app = page()
    assert any("A first picture" in info.value for info in app.info)
    assert figure(app)["layout"]["title"]["text"] == "Weight error in int4/g64/asym"
    assert not any("0 tokens" in caption.value for caption in app.caption)

    tell(home, running, 1, replace(whole, tokens=2048, sequences=8))
    app = page()
    assert any("So far, from 2,048 of about 8,192 tokens" in info.value for info in app.info)
    assert figure(app)["layout"]["title"]["text"] == "Predicted KL in int4/g64/asym"


def test_a_sweep_that_has_told_nothing_yet_shows_its_progress_alone(home: Path) -> None:
    seed(home, tables=False)
    running_sweep(home)
    app = page()
    assert not app.get("plotly_chart")
    assert not app.info


@pytest.mark.parametrize("view", [view for view in VIEWS if view != "what-if"])
def test_every_view_draws(info: ModelInfo, view: str) -> None:
    app = page(view=view, format="int3/g64/asym", unit=SOME)
    charts = len(app.get("plotly_chart"))
    assert charts == (1 if view == "table" else 2)
    assert app.selectbox(key="scores:unit").value == SOME


@pytest.mark.parametrize("score", ["output", "weight"])
def test_scores_without_a_unit_have_no_sum(info: ModelInfo, score: str) -> None:
    app = page(score=score)
    assert [metric.label for metric in app.metric] == ["Most sensitive", "Held by the top 5"]


def test_measured_scores_come_from_their_own_sweep(info: ModelInfo) -> None:
    app = page(view="agreement", across="measured", format="int3/g64/asym")
    assert figure(app)["layout"]["title"]["text"] == "Predicted KL against measured KL"
    assert "Spearman rank correlation 0.9" in figure(app)["layout"]["title"]["subtitle"]["text"]
    assert any(caption.value.startswith("Measured KL on 8,192 tokens") for caption in app.caption)


def test_a_click_on_a_cell_opens_its_layer_and_format() -> None:
    def script() -> None:
        from ui.score_charts import open_clicked

        open_clicked("chart")

    app = AppTest.from_function(script)
    point = {"customdata": [SOME, "int8/g64/asym"], "point_index": 3, "curve_number": 1}
    app.session_state["chart"] = PlotlyState({"selection": {"points": [point], "box": [], "lasso": []}})
    app.run()
    assert not app.exception
    assert app.session_state["url:unit"] == SOME
    assert app.session_state["url:format"] == "int8/g64/asym"
    app.session_state["chart"] = PlotlyState({"selection": {"points": [], "box": [], "lasso": []}})
    app.run()
    assert app.session_state["url:unit"] == SOME, "a click that deselects changes nothing"


def test_the_selectbox_does_what_a_click_does(info: ModelInfo) -> None:
    app = page()
    app.selectbox(key="scores:unit").select(SOME).run()
    assert app.session_state["url:unit"] == SOME
    outline = figure(app)["layout"]["shapes"][0]
    assert (outline["x0"], outline["y0"]) == (2.5, 3.5)


def test_the_format_is_shared_with_other_pages(info: ModelInfo) -> None:
    app = page()
    app.segmented_control(key="scores:format").set_value("int8/g64/asym").run()
    assert app.session_state["url:format"] == "int8/g64/asym"
    assert figure(app)["layout"]["title"]["text"] == "Predicted KL in int8/g64/asym"


def test_an_earlier_sweep_can_be_picked_and_new_settings_let_go_of_it(info: ModelInfo) -> None:
    app = page()
    assert [option.partition(" ·")[0] for option in app.selectbox(key="sweep:shown").options] == [
        "Predicted KL",
        "Measured KL",
    ]
    app.selectbox(key="sweep:shown").select_index(1).run()
    assert figure(app)["layout"]["title"]["text"] == "Measured KL in int4/g64/asym"
    app.segmented_control(key="widget:method").set_value("measured").run()
    app.segmented_control(key="widget:method").set_value("fisher").run()
    assert figure(app)["layout"]["title"]["text"] == "Predicted KL in int4/g64/asym"
    assert not app.exception


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"unit": "no.such.layer"}, "There is no layer named"),
        ({"unit": "model.embed_tokens.weight"}, "There is no layer named"),
        ({"tokens": "many"}, "the number of tokens “many”"),
        ({"tokens": "-5"}, "the number of tokens “-5”"),
        ({"score": "magic"}, "the score “magic”"),
        ({"view": "4d"}, "the view “4d”"),
        ({"sweep": "abcdef12"}, "The sweep that the link names is not stored here"),
        ({"sweep": "../../etc"}, "the sweep “../../etc”"),
    ],
)
def test_nonsense_in_a_link_is_answered_with_a_sentence(
    info: ModelInfo, query: dict[str, str], sentence: str
) -> None:
    app = page(**query)
    assert any(sentence in warning.value for warning in app.warning)
    assert figure(app)["layout"]["title"]["text"] == "Predicted KL in int4/g64/asym"


def test_formats_that_nobody_knows_are_passed_over(info: ModelInfo) -> None:
    app = page(formats="int2,<script>,int77", format="int77/g64/asym", top="9999")
    assert app.get("plotly_chart")


def test_pasted_text_that_is_empty_asks_for_text(info: ModelInfo) -> None:
    app = page()
    app.segmented_control(key="calibration:kind").set_value("paste").run()
    assert not app.exception
    assert any("Paste some text" in caption.value for caption in app.caption)
    assert app.get("plotly_chart"), "the stored sweep stays in sight"


def test_rows_are_complete_and_read_back(info: ModelInfo) -> None:
    table = made_results.table(info)
    frame = score_rows(info, table)
    assert len(frame) == len(table.units) * len(table.formats)
    again = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
    row = again[(again["unit"] == SOME) & (again["format"] == "int2/g64/asym")].iloc[0]
    assert row["block"] == 3
    assert row["role"] == "gate_proj"
    assert row["bits_per_weight"] == pytest.approx(2.28125)
    assert row["fisher"] == pytest.approx(table.fisher[table.units.index(SOME)][0])


def test_the_map_tells_which_layers_need_many_bits(info: ModelInfo) -> None:
    app = page(show="bits", reach="0.00001", view="map")
    assert figure(app)["layout"]["title"]["text"] == "Bits to reach 10⁻⁵ nats/token"
    sentence = next(
        text.value for text in app.markdown if text.value.startswith("At 10⁻⁵ nats/token a layer")
    )
    assert "of 56 layers need 8 bits or more" in sentence
    assert any(trace.get("name", "").startswith("INT8") for trace in figure(app)["data"])
    easy = page(show="bits", reach="1")
    assert any("none of 56 layers needs 8 bits" in text.value for text in easy.markdown)
    shares = page(show="bits", score="weight")
    assert any("need a score that is one" in caption.value for caption in shares.caption)


def test_selected_layers_are_summed_and_given_a_format_in_the_recipe(info: ModelInfo) -> None:
    app = page(drag="select", format="int3/g64/asym")
    assert any("Nothing is selected" in caption.value for caption in app.caption)
    app.text_input(key="selection:names").input("0-1 *.down_proj").run()
    table = made_results.table(info)
    names = [name for name in table.units if "down_proj" in name][:2]
    total = sum(table.fisher[table.units.index(name)][1] for name in names)
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown["Layers"] == "2"
    assert float(shown["Predicted KL, summed"].split()[0]) == pytest.approx(total, rel=5e-3)
    assert len(figure(app)["layout"]["shapes"]) == 4, "two outlines of two frames"
    app.selectbox(key="selected:format").select("int8/g64/asym").run()
    app.button(key="selected:give").click().run()
    draft = app.session_state["draft:now"]
    assert draft.pins == dict.fromkeys(names, "int8/g64/asym")
    app.button(key="selected:undo").click().run()
    assert app.session_state["draft:now"].pins == {}
    app.text_input(key="selection:names").input("nothing.like.this").run()
    assert any("No layer matches" in caption.value for caption in app.caption)


def test_a_selection_in_the_link_is_found_again(info: ModelInfo) -> None:
    app = page(drag="select", layers="1-7.14")
    assert {metric.label: metric.value for metric in app.metric}["Layers"] == "8"
    app = page(drag="select", layers="7-1")
    assert any("the selected layers" in warning.value for warning in app.warning)


@given(st.sets(st.integers(0, 99_999), max_size=40))
def test_selections_read_back_from_the_url(places: set[int]) -> None:
    rising = tuple(sorted(places))
    text = LAYERS._write(rising)
    assert not text or LAYERS._parse(text) == rising
    assert bool(text) or not rising or len(rising) > 30
