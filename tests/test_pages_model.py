"""The model page on a seeded store: what is open, memory, and every way a link can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from quant_core.schema import EvaluateRequest, ModelInfo, ModelRef, replace
from quant_core.workspace import Workspace, browser_roots
from tests import made_results
from tests.served_pages import job, keep, open_page, texts
from ui.words import count, duration, significant, size


def other(home: Path, info: ModelInfo, source: str, **changes: str) -> ModelInfo:
    """A second model in the store, by the name of a hub repository."""
    ref = ModelRef(source)
    found = replace(info, ref=ref, title=source.rsplit("/", maxsplit=1)[-1], fingerprint="a" * 24, **changes)
    workspace = Workspace(home, roots=browser_roots())
    keep(home, workspace.inspect_request(ref), found)
    workspace.close()
    return found


def test_the_bundled_model_is_open_without_a_click(info: ModelInfo) -> None:
    app = open_page("model")
    assert [metric.label for metric in app.metric][:3] == ["Parameters", "Weights on disk", "To be quantized"]
    assert app.metric[2].value == "56 layers"
    assert "A made model" in texts(app)
    assert len(app.get("plotly_chart")) == 2
    assert len(app.dataframe[0].value) == len(info.units)
    assert not app.error


def test_the_filter_narrows_the_layers(info: ModelInfo) -> None:
    app = open_page("model")
    app.text_input(key="layers:filter").input("down_proj").run()
    assert len(app.dataframe[0].value) == info.blocks


def test_weights_are_read_on_request_and_the_worst_layers_picked(home: Path, info: ModelInfo) -> None:
    app = open_page("model")
    assert "Kurtosis" not in app.dataframe[0].value
    assert any(button.label == "Read the weights" for button in app.button)
    workspace = Workspace(home, roots=browser_roots())
    keep(home, workspace.weights_request(info.ref), made_results.weight_statistics(info))
    workspace.close()
    app = open_page("model")
    whole = app.dataframe[0].value
    assert len(whole) == len(info.units)
    assert whole["Kurtosis"].isna().tolist() == [False] * (len(info.units) - 1) + [True]
    assert "holds 3 infinite or undefined values" in texts(app)
    assert f"{info.units[-1].name} is stored in another form" in texts(app)
    for by, column in (("kurtosis", "Kurtosis"), ("outliers", "Outliers (%)"), ("largest", "Largest")):
        app.segmented_control(key="layers:worst").set_value(by).run()
        values = app.dataframe[0].value[column].tolist()
        assert values == sorted(whole[column].dropna(), reverse=True)[:10]


def test_memory_follows_the_context(info: ModelInfo) -> None:
    app = open_page("model", context="100")
    alt = app.get("plotly_chart")[0].proto.alt
    app.slider(key="widget:context").set_value(1000).run()
    assert app.get("plotly_chart")[0].proto.alt != alt
    assert "1,000 tokens" in app.get("plotly_chart")[0].proto.alt
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
