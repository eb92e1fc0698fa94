"""Formats added from the score state, and the what-if view: on the pages, without an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from quant_core.plots.what_if import alternatives, draw_what_if, texts
from quant_core.schema import ModelInfo, RescoreRequest, ScoreTable, replace
from tests import made_results
from tests.served_pages import job, keep, open_page
from tests.served_pages import texts as page_texts
from tests.test_plots import LIGHT
from ui import what_if
from ui.jobs import workspace

NEW = "int3/g32/asym"
UNIT = "model.layers.3.mlp.gate_proj.weight"


def request(info: ModelInfo, *forms: str, unit: str = "") -> RescoreRequest:
    return RescoreRequest(info.ref, info.fingerprint, made_results.STATE, forms, (unit,) if unit else ())


def titles(app: AppTest) -> list[str]:
    return [json.loads(chart.proto.spec)["layout"]["title"]["text"] for chart in app.get("plotly_chart")]


def test_an_added_format_joins_the_sweeps(info: ModelInfo, home: Path) -> None:
    keep(home, request(info, NEW), made_results.rescored(info, (NEW,)))
    app = open_page("sensitivity", format=NEW)
    control = app.segmented_control(key="scores:format")
    assert len(control.options) == 6
    app.button(key="added:add").click().run()
    assert app.session_state["url:more"] == (NEW,)
    control = app.segmented_control(key="scores:format")
    assert [option for option in control.options if "from the state" in option] == [
        "INT3 g32 asym (from the state)"
    ]
    assert titles(app)[0] == f"Predicted KL in {NEW}"
    assert any(
        "comes from the score state: the model was not run" in caption.value for caption in app.caption
    )
    app.multiselect(key="added:names").unselect(NEW).run()
    assert len(app.segmented_control(key="scores:format").options) == 6


def test_a_link_brings_its_added_formats_and_nonsense_is_passed_over(info: ModelInfo, home: Path) -> None:
    keep(home, request(info, NEW), made_results.rescored(info, (NEW,)))
    app = open_page("sensitivity", more=f"{NEW},int77,<b>,int3/g64/asym,original")
    assert len(app.segmented_control(key="scores:format").options) == 7
    assert not app.exception


def test_a_lost_state_is_a_sentence_and_the_sweep_stays(info: ModelInfo, home: Path) -> None:
    job(
        home,
        request(info, NEW),
        "failed",
        "The score state of this sweep is not stored here.",
        "Score again.",
    )
    app = open_page("sensitivity", more=NEW)
    assert any("not stored here" in error.value and "Score again" in error.value for error in app.error)
    assert app.get("plotly_chart")


def test_a_measured_sweep_says_what_leaves_a_state(info: ModelInfo) -> None:
    app = open_page("sensitivity")
    app.selectbox(key="sweep:shown").select_index(1).run()
    assert "A measured sweep left no score state" in page_texts(app)
    assert not any(button.key == "added:add" for button in app.button)


def test_the_recipe_may_use_an_added_format_and_lets_go_of_it(info: ModelInfo, home: Path) -> None:
    """One press brings all formats of a llama.cpp mix; without them again the recipe is solved anew."""
    app = open_page("recipe", budget="3.4bits")
    app.session_state["edit:tab"] = "llama.cpp mixes"
    app.run()
    press = next(button for button in app.button if button.key == "edit:mix-add")
    assert press.label.startswith("Score the layers in the ")
    mix = ("q4_k", "q6_k", "q5_0", "q8_0", NEW)
    for name in mix:
        keep(home, request(info, name), made_results.rescored(info, (name,)))
    press.click().run()
    assert not app.exception
    assert set(app.session_state["url:more"]) <= set(mix)
    app.session_state["url:more"] = (NEW,)
    app.run()
    assert f"{'INT3 g32 asym'}" in page_texts(app)
    draft = app.session_state["draft:now"]
    app.session_state["draft:now"] = replace(draft, assignment=dict.fromkeys(draft.assignment, NEW))
    app.run()
    assert set(app.session_state["draft:now"].assignment.values()) == {NEW}
    app.session_state["url:more"] = ()
    app.run()
    assert not app.exception
    assert NEW not in app.session_state["draft:now"].assignment.values()


def test_the_what_if_view_varies_one_choice_at_a_time(info: ModelInfo, home: Path) -> None:
    """Group sizes and roundings come from the state in one request each; texts from the stored sweeps."""
    spec = workspace().parse_format("int3/g64/asym")
    have = made_results.table(info).formats
    for labels in (what_if.group_sizes(spec), what_if.roundings(spec)):
        forms = tuple(name for name in labels if name not in have)
        assert len(forms) > 2
        keep(home, request(info, *forms, unit=UNIT), made_results.rescored(info, forms, (UNIT,)))
    app = open_page("sensitivity", view="what-if", unit=UNIT, format="int3/g64/asym")
    assert titles(app)[:3] == [
        "Predicted KL by group size", "Predicted KL by rounding", "Predicted KL by calibration text",
    ]  # fmt: skip


@pytest.fixture
def swept(info: ModelInfo) -> ScoreTable:
    return made_results.table(info)


def test_alternatives_by_hand(info: ModelInfo, swept: ScoreTable) -> None:
    """The sweep's own score counts before the state's; what nobody scored is left out; order is the caller's."""
    more = made_results.rescored(info, ("int3/g64/asym", NEW), (UNIT,))
    labels = {NEW: "32", "int3/g64/asym": "64", "int3/g128/asym": "128"}
    data = alternatives("group size", [swept, more], UNIT, 512 * 256, labels, "int3/g64/asym")
    row = swept.units.index(UNIT)
    assert [point.label for point in data.points] == ["32", "64"]
    assert data.current == 1
    assert data.points[1].value == swept.fisher[row][1]
    assert data.points[0].value == pytest.approx(swept.fisher[row][1] * 0.45)
    assert data.points[1].bits == pytest.approx(3.296875)
    assert data.points[0].origin.startswith("from the score state, 8,192 tokens of bundled calibration text")
    assert data.points[1].origin.startswith("by the pass itself")
    assert alternatives("x", [], UNIT, 1, labels, NEW).points == ()


def test_texts_are_sorted_and_the_shown_one_is_marked(swept: ScoreTable) -> None:
    longer = replace(swept, tokens=16384)
    other = replace(swept, text_label="another text", text_hash="1" * 24)
    data = texts([longer, swept, other], UNIT, 512 * 256, "int3/g64/asym", swept, "fisher")
    assert [point.label for point in data.points] == [
        "another text<br>8,192 tokens, seed 0",
        "bundled calibration text<br>8,192 tokens, seed 0",
        "bundled calibration text<br>16,384 tokens, seed 0",
    ]  # fmt: skip
    assert data.current == 1
    figure: Any = draw_what_if(data, LIGHT)
    assert len(figure.data[0].x) == 3
    assert "seed 0" in figure.data[0].text[0]
    assert not draw_what_if(data._replace(points=()), LIGHT).data
