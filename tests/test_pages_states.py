"""The states of pages that no other file looks at: a model on its way or out of reach, work under way or failed.

Every page has five states (empty, loading, partial, failed, finished); each page's own file has the others.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from quant_core.schema import Budget, ModelInfo, ModelRef, ScoreTable, SensitivityRequest
from quant_core.workspace import DEFAULT_FORMATS, Workspace, browser_roots
from tests.served_pages import job, open_page, seed, texts
from ui.recipe_draft import measure_request

STEMS = ("weights", "recipe", "compare")
"""Pages that need a model, whose own tests have one: all of them have it from the same header."""


@pytest.mark.parametrize("stem", STEMS)
def test_loading_a_model_on_its_way_shows_how_far_it_is(home: Path, workspace: Workspace, stem: str) -> None:
    job(home, workspace.inspect_request(ModelRef("lab/large")), "running", "Loading the model")
    app = open_page(stem, model="lab/large")
    assert any(button.label == "Cancel" for button in app.button)
    assert not app.error
    assert not app.get("plotly_chart")


@pytest.mark.parametrize("stem", STEMS)
def test_failed_a_model_that_is_gone_leaves_a_way_out(home: Path, workspace: Workspace, stem: str) -> None:
    request = workspace.inspect_request(ModelRef("/gone/model"))
    job(home, request, "failed", "There is no folder /gone/model.", "Check the path.")
    app = open_page(stem, model="/gone/model")
    assert app.error[0].value == "There is no folder /gone/model.\n\nCheck the path."
    assert {"Retry", "Open the bundled model"} <= {button.label for button in app.button}


@pytest.mark.parametrize("stem", ["sensitivity", "recipe"])
@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_sweep_under_way_or_failed_is_told_where_scores_are_wanted(
    home: Path, stem: str, state: str
) -> None:
    info = seed(home, tables=False, views=1)
    workspace = Workspace(home, roots=browser_roots())
    names = tuple(workspace.parse_format(family).name for family in DEFAULT_FORMATS)
    sweep = SensitivityRequest(info.ref, info.fingerprint, names)
    job(home, sweep, state, "The text is too short.", "Paste more.")
    app = open_page(stem)
    assert not app.get("plotly_chart")
    if state == "failed":
        assert app.error[0].value == "The text is too short.\n\nPaste more."
        assert any(button.label == "Retry" for button in app.button)
    else:
        assert any(button.label == "Cancel" for button in app.button)


def test_partial_a_recipe_is_there_while_it_is_measured(
    home: Path, workspace: Workspace, info: ModelInfo, table: ScoreTable
) -> None:
    assignment = workspace.solve(info, table, Budget("bits", 4.5)).assignment
    job(home, measure_request(info, assignment), "running", "sequence 3 of 16")
    app = open_page("recipe")
    assert app.get("plotly_chart")
    assert [metric.label for metric in app.metric][2] == "Predicted KL"
    assert "Measure it" not in {button.label for button in app.button}
    assert any(button.label == "Cancel" for button in app.button)


def test_failed_a_recipe_that_is_not_there_leads_export_to_another(info: ModelInfo) -> None:
    app = open_page("export", recipe="0123456789ab")
    assert "no saved recipe" in "".join(error.value for error in app.error) + texts(app)
    assert app.get("page_link"), "the way to another recipe"
    assert not app.get("download_button")
