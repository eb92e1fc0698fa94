"""Several recipes measured from the recipe page: finalists proved, the winner taken, the prediction calibrated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from quant_core.allocation.contenders import COUNT, Contender
from quant_core.schema import Budget, ModelInfo, Proof, ProveRequest, ScoreTable
from quant_core.store import Store
from quant_core.store.kinds import load_request
from quant_core.workspace import Workspace
from tests.served_pages import MEASURED, job, keep, open_page, texts
from tests.test_pages_recipe import draft
from ui import calibrate
from ui import proof as panel
from ui.recipe_draft import measure_request


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ProveRequest]:
    """What the page asks for."""
    found: list[ProveRequest] = []
    whole = panel._request

    def keeping(info: ModelInfo, finalists: tuple[panel.Finalist, ...]) -> ProveRequest:
        found.append(whole(info, finalists))
        return found[-1]

    monkeypatch.setattr(panel, "_request", keeping)
    return found


def _opened(**query: str) -> AppTest:
    """The recipe page with the panel opened."""
    app = open_page("recipe", **query)
    app.session_state["proof:panel"] = True
    return app.run()


def _prove(home: Path, request: ProveRequest, best: int) -> None:
    rows = [[0.10 + 0.01 * place, 0.12 + 0.01 * place] for place in range(len(request.assignments))]
    rows[best] = [0.05, 0.07]
    rows[(best + 1) % len(rows)] = [0.08, 0.05]
    keep(
        home,
        request,
        Proof(request.fingerprint, tuple(map(tuple, rows)), 4080, "e" * 24, "bundled evaluation text", 9.0),
    )


def test_finalists_fit_the_budget_and_are_all_different(
    workspace: Workspace, info: ModelInfo, table: ScoreTable, asked: list[ProveRequest]
) -> None:
    app = _opened()
    assert any(button.label == "Prove it" for button in app.button)
    recipes = asked[-1].assignments
    assert len(recipes) == COUNT + 1
    assert len({tuple(sorted(recipe.items())) for recipe in recipes}) == len(recipes)
    assert dict(draft(app).assignment) in [dict(recipe) for recipe in recipes]
    assert dict.fromkeys(table.units, "nf4/g64") in recipes, "the best uniform format of at most 4.5 bits"
    assert all(workspace.price(info, table, recipe).average_bits <= 4.5 for recipe in recipes)


def test_the_winner_is_shown_and_can_be_taken(home: Path, info: ModelInfo, asked: list[ProveRequest]) -> None:
    app = _opened()
    request = asked[-1]
    own = [dict(recipe) for recipe in request.assignments].index(dict(draft(app).assignment))
    best = (own + 1) % len(request.assignments)
    _prove(home, request, best)
    app.run()
    assert "Measured best: " in texts(app)
    assert "Place 2 is tied with the winner" in texts(app)
    frame = app.dataframe[0].value
    assert frame["Place"].tolist()[:3] == ["1", "2 (tied)", "3"]
    assert frame["Measured KL"][0] == "0.0600 ± 0.020"
    app.button(key="proof:take").click().run()
    assert dict(draft(app).assignment) == dict(request.assignments[best])
    assert asked[-1] == request, "the same finalists, so that the result stays in view"
    assert "Measured best: " in texts(app)
    app.button(key="undo").click().run()
    assert dict(draft(app).assignment) == dict(request.assignments[own])


def test_nothing_is_worked_out_while_the_panel_is_closed(
    info: ModelInfo, asked: list[ProveRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once it is open only for a budget, pins and terms that are new."""
    counted: list[Budget] = []
    whole = Workspace.contenders

    def counting(self: Workspace, *args: Any, **kept: Any) -> dict[str, Contender]:
        counted.append(args[2])
        return whole(self, *args, **kept)

    monkeypatch.setattr(Workspace, "contenders", counting)
    app = open_page("recipe")
    app.number_input(key="budget:exact").set_value(3.2).run()
    assert not counted
    assert not asked
    app.session_state["proof:panel"] = True
    app.run()
    app.multiselect(key="edit:chosen").set_value(["model.layers.3.mlp.gate_proj.weight"]).run()
    assert counted == [Budget("bits", 3.2)]
    assert asked[0] == asked[-1]


def test_one_that_was_edited_by_hand_is_a_finalist(info: ModelInfo, asked: list[ProveRequest]) -> None:
    app = _opened()
    app.multiselect(key="edit:chosen").set_value(["model.layers.3.mlp.gate_proj.weight"]).run()
    app.segmented_control(key="edit:format").set_value("int8/g64/asym").run()
    assert dict(draft(app).assignment) in [dict(recipe) for recipe in asked[-1].assignments]


def test_a_failure_is_told_where_it_was_asked_for(
    home: Path, info: ModelInfo, asked: list[ProveRequest]
) -> None:
    _opened()
    job(home, asked[-1], "failed", "The worker process ended.", "Start it again.")
    app: AppTest = open_page("recipe")
    assert app.error[0].value == "The worker process ended.\n\nStart it again."


def test_the_job_is_kept_as_it_was_asked(home: Path, info: ModelInfo, asked: list[ProveRequest]) -> None:
    _opened(budget="3.5bits")
    made = job(home, asked[-1], "running")
    store = Store(home)
    ticket = store.jobs.ticket(made.id)
    store.close()
    assert load_request(ticket.job.kind, ticket.request) == asked[-1]


@pytest.fixture
def calibrating(monkeypatch: pytest.MonkeyPatch) -> list[ProveRequest]:
    """What the page starts to calibrate."""
    found: list[ProveRequest] = []
    monkeypatch.setattr(calibrate, "submit", found.append)
    return found


def test_a_calibration_corrects_every_prediction(
    home: Path, workspace: Workspace, info: ModelInfo, table: ScoreTable, calibrating: list[ProveRequest]
) -> None:
    """All that was measured is 1.3 times the prediction, so that is what every recipe is said to cost from then on."""
    app = open_page("recipe")
    app.button(key="calibrate").click().run()
    (request,) = calibrating
    sums = [workspace.price(info, table, recipe).predicted_kl for recipe in request.assignments]
    rows = tuple((1.2 * kl, 1.4 * kl) for kl in sums)
    keep(home, request, Proof(request.fingerprint, rows, 4080, "e" * 24, "bundled evaluation text", 40.0))
    app.run()
    assert not any(button.label == "Calibrate the prediction" for button in app.button)
    for budget in (4.5, 3.2):
        app.number_input(key="budget:exact").set_value(budget).run()
        shown = app.metric[2]
        plain = workspace.solve(info, table, draft(app).budget).predicted_kl
        assert float(shown.value.split()[0]) == pytest.approx(1.3 * plain, rel=0.02)
        assert "calibrated on 10 measured recipes" in texts(app)
        low, high = shown.delta.split(" (")[0].split(" to ")
        assert float(low) <= 1.3 * plain <= float(high)


def test_the_calibration_is_the_same_for_every_recipe_and_waits_to_be_asked_for(
    home: Path, info: ModelInfo, calibrating: list[ProveRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For tens of thousands of layers the ten recipes take seconds: a page that shows none of them must not wait."""
    designed: list[str] = []
    whole = Workspace.calibration_recipes

    def counted(*given: Any) -> Any:
        designed.append("")
        return whole(*given)

    monkeypatch.setattr(Workspace, "calibration_recipes", counted)
    app = open_page("recipe")
    app.number_input(key="budget:exact").set_value(3.2).run()
    assert not designed
    app.button(key="calibrate").click().run()
    app.number_input(key="budget:exact").set_value(4.2).run()
    app.button(key="calibrate").click().run()
    assert len(designed) == 1
    assert len(calibrating) == 2
    assert calibrating[0] == calibrating[1]
    assert len(calibrating[0].assignments) == 10
    job(home, calibrating[0], "running", "recipe 3 of 10")
    app.run()
    assert not any(button.label == "Calibrate the prediction" for button in app.button)


def test_the_caption_says_whether_costs_add_up(
    home: Path, workspace: Workspace, info: ModelInfo, table: ScoreTable
) -> None:
    assignment = dict(workspace.solve(info, table, Budget("bits", 4.5)).assignment)
    predicted = workspace.price(info, table, assignment)
    keep(home, measure_request(info, assignment), MEASURED)
    ratio = MEASURED.kl_mean / predicted.predicted_kl
    assert f"the whole recipe costs {ratio:.2f} ± " in texts(open_page("recipe"))
