"""The train page on a seeded store: what is asked for, how it goes, what came of it, and what links can get wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from quant_core.schema import (
    Budget,
    Job,
    LossEvent,
    ModelInfo,
    ScoreTable,
    Setup,
    TextSource,
    TrainRequest,
    replace,
)
from quant_core.store import Store
from quant_core.store.kinds import load_request
from quant_core.workspace import Workspace, browser_roots
from tests import fake_jobs, made_results
from tests.served_pages import job, keep, open_page, seed, texts
from tests.workers import end_worker
from ui import jobs

KEY = "a" * 24


@pytest.fixture
def request_now(workspace: Workspace, info: ModelInfo, table: ScoreTable) -> TrainRequest:
    """What the page asks for when nothing was changed."""
    assignment = workspace.solve(info, table, Budget("bits", 4.5)).assignment
    changed = {unit: name for unit, name in assignment.items() if name != "original"}
    text = TextSource("self", label="text the model wrote itself (seed 0)")
    return TrainRequest(info.ref, info.fingerprint, changed, text=text)


@pytest.fixture
def working(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """Pages whose jobs really run, in a worker with the made job functions."""
    seed(home)
    made = Workspace(home, roots=browser_roots(), jobs="tests.fake_jobs:JOBS")
    monkeypatch.setattr(jobs, "Workspace", lambda **_: made)
    yield made
    (home / fake_jobs.HOLD).unlink(missing_ok=True)
    st.cache_resource.clear()
    end_worker(home)
    made.close()


def emit(home: Path, found: Job, *losses: float, first: int = 1) -> None:
    store = Store(home)
    for index, loss in enumerate(losses):
        step = first + index
        store.jobs.emit(found.id, index, LossEvent(step, loss, 512 * step, 2.0 * step))
    store.close()


def labels(app: AppTest) -> list[str]:
    return [button.label for button in app.button]


def test_the_recipe_is_what_would_be_trained(info: ModelInfo, request_now: TrainRequest) -> None:
    app = open_page("train")
    assert app.segmented_control(key="widget:train").value == "recipe"
    assert "Start" in labels(app)
    assert f"{len(request_now.assignment)} layers" in texts(app)
    assert "5 min of training on 65,536 tokens" in texts(app)
    assert "arxiv.org/abs/1902.08153" in texts(app)


def test_without_a_recipe_one_format_can_be_trained(home: Path) -> None:
    info = seed(home, tables=False)
    app = open_page("train")
    assert "There is no recipe yet." in texts(app)
    assert f"{sum(unit.decided for unit in info.units)} layers" in texts(app)
    assert "INT4 g64 asym" in texts(app)
    assert "Start" in labels(app)


def test_a_recipe_that_quantizes_nothing_is_no_training(info: ModelInfo) -> None:
    app = open_page("train", budget="16bits")
    assert "there is nothing to train" in texts(app)
    assert "Start" not in labels(app)


def test_start_asks_for_what_the_settings_say(
    workspace: Workspace, home: Path, request_now: TrainRequest
) -> None:
    """An active job keeps a worker from being started: this very process counts as one."""
    store = Store(home)
    busy = job(home, replace(request_now, seed=99), "running")
    app = open_page(
        "train", minutes="2", trainmode="lora", rank="8", rate="0.01", trainseed="3", traintokens="8192"
    )
    next(button for button in app.button if button.label == "Start").click().run()
    (asked,) = [found for found in workspace.jobs() if found.state == "queued"]
    expected = replace(
        request_now, seconds=120.0, mode="lora", rank=8, learning_rate=0.01, seed=3, tokens=8192,
        roots=tuple(map(str, (root.resolve() for root in browser_roots()))),
    )  # fmt: skip
    assert load_request("train", store.jobs.ticket(asked.id).request) == expected
    assert workspace.job(busy.id).active
    store.close()


@pytest.mark.parametrize("query", [{}, {"minutes": "1"}])
def test_a_running_training_is_found_again(
    home: Path, request_now: TrainRequest, query: dict[str, str]
) -> None:
    """After a reload, even with other settings in the link."""
    found = job(home, request_now, "running", "step 2, loss 0.400, 20 s left")
    emit(home, found, 0.5, 0.4)
    app = open_page("train", **query)
    assert any(button.key == f"stop:{found.id}" for button in app.button)
    assert [metric.value for metric in app.metric] == ["2", "1,024", "0.400", "5.5 s"]
    assert len(app.get("plotly_chart")) == 1
    assert ("with other settings" in texts(app)) == bool(query)
    assert ("Start" in labels(app)) == bool(query)


def test_stop_is_told_to_the_job(home: Path, request_now: TrainRequest) -> None:
    found = job(home, request_now, "running", "step 2")
    app = open_page("train")
    app.button(key=f"stop:{found.id}").click().run()
    store = Store(home)
    assert store.jobs.told_to_stop(found.id)
    store.close()


def test_a_stopped_training_goes_on(home: Path, request_now: TrainRequest) -> None:
    first = job(home, request_now, "cancelled")
    emit(home, first, 0.5, 0.4, 0.3)
    app = open_page("train")
    assert "3 steps. What was learned so far is kept, and the training goes on from there." in texts(app)
    assert "Go on" in labels(app)
    second = job(home, request_now, "running", "step 5")
    emit(home, second, 0.25, 0.2, first=4)
    (chart,) = open_page("train").get("plotly_chart")
    assert chart.proto.alt == "Loss over 5 steps so far.", "of both runs, joined"


def test_a_training_stopped_before_its_first_step_has_nothing_to_go_on_from(
    home: Path, request_now: TrainRequest
) -> None:
    job(home, request_now, "cancelled")
    app = open_page("train")
    assert "stopped before its end" in texts(app)
    assert "Start" in labels(app)
    assert "is kept" not in texts(app)


def test_a_refusal_is_one_sentence_with_a_remedy(home: Path, request_now: TrainRequest) -> None:
    job(home, request_now, "failed", "The training diverged.", "Choose a smaller learning rate.")
    app = open_page("train")
    assert app.error[0].value == "The training diverged.\n\nChoose a smaller learning rate."
    assert "Retry" in labels(app)


def test_what_was_learned_can_be_used_and_dropped(home: Path, request_now: TrainRequest) -> None:
    keep(home, request_now, made_results.training(request_now))
    app = open_page("train")
    assert [metric.value for metric in app.metric][:3] == ["0.0800", "0.0400", "30"]
    assert app.metric[1].delta == "-50 %"
    assert "no evaluation" in texts(app)
    assert "One layer is odd." in texts(app)
    app.button(key="train:use").click().run()
    assert app.session_state["url:trained"] == KEY
    assert "**In use**" in texts(app)
    assert "Beyond weights: trained weights" in [expander.label for expander in app.expander]
    for stem in ("recipe", "compare"):
        app.switch_page(f"pages/{stem}.py").run()
        assert not app.exception
        assert "Trained weights are in use" in texts(app)
        assert f"{len(request_now.assignment)} layers, 30 steps" in texts(app)
    app.button(key="setup:drop").click().run()
    assert app.session_state["url:trained"] == ""
    assert "Trained weights are in use" not in texts(app)


def test_the_saved_recipe_names_its_training(
    home: Path, workspace: Workspace, request_now: TrainRequest
) -> None:
    keep(home, request_now, made_results.training(request_now))
    app = open_page("train")
    app.button(key="train:use").click().run()
    app.switch_page("pages/compare.py").run()
    assert workspace.recipe(app.session_state["url:recipe"]).setup == Setup(trained=KEY)


def test_weights_in_use_do_not_make_it_another_training(home: Path, request_now: TrainRequest) -> None:
    keep(home, request_now, made_results.training(request_now))
    app = open_page("train", trained=KEY)
    assert "**In use**" in texts(app)
    assert "Start" not in labels(app)


def test_training_goes_on_from_a_stored_one_when_asked(home: Path, request_now: TrainRequest) -> None:
    keep(home, request_now, made_results.training(request_now))
    after = replace(request_now, setup=Setup(trained=KEY))
    keep(home, after, replace(made_results.training(after, "c" * 24), kl_after=0.02))
    app = open_page("train", trainfrom=KEY)
    assert app.metric[1].value == "0.0200"
    app.selectbox(key="training:shown").set_value(KEY).run()
    assert app.metric[1].value == "0.0400"
    assert app.session_state["url:training"] == KEY


def test_a_training_of_other_formats_says_what_it_covers(home: Path, request_now: TrainRequest) -> None:
    other = replace(request_now, assignment=dict.fromkeys(request_now.assignment, "int2/g32/sym"))
    keep(home, other, made_results.training(other))
    app = open_page("train")
    assert f"stand in for 0 of the recipe's {len(request_now.assignment)}" in texts(app)


@pytest.mark.parametrize(
    "query",
    [{"minutes": "7"}, {"rate": "9"}, {"trainformat": "int99"}, {"training": "abc"}, {"trainmode": "x"}],
)
def test_nonsense_in_a_link_falls_back(home: Path, request_now: TrainRequest, query: dict[str, str]) -> None:
    keep(home, request_now, made_results.training(request_now))
    app = open_page("train", train="uniform", **query)
    assert app.warning or query.get("minutes") == "7"
    assert "Start" in labels(app)


def test_another_model_is_opened_without_the_trained_weights(info: ModelInfo) -> None:
    """Every job of a model refuses the weights of another's training."""
    app = open_page("model", model="/nowhere", trained=KEY)
    assert app.session_state["url:trained"] == KEY
    next(button for button in app.button if button.label == "Open the bundled model").click().run()
    assert app.session_state["url:trained"] == ""


def test_from_start_to_use_with_a_working_job(home: Path, working: Workspace) -> None:
    (home / fake_jobs.HOLD).touch()
    app = open_page("train")
    next(button for button in app.button if button.label == "Start").click().run()
    assert not app.exception
    (found,) = [job for job in working.jobs() if job.kind == "train"]
    while len(working.losses(found.id)) < 3:
        assert working.job(found.id).active
    app.run()
    assert app.metric[0].value == "3"
    (home / fake_jobs.HOLD).unlink()
    working.wait(found)
    app.run()
    assert app.metric[1].label == "KL after (held out)"
    assert "Use it in the recipe" in labels(app)
