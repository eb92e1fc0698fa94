"""The runs page: its five states, the list, one run, two side by side, and what can be done with them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_plus

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from quant_core.reproduction import compare
from quant_core.schema import (
    EvaluateRequest,
    ModelInfo,
    Reproduction,
    ScoreTable,
    SensitivityRequest,
    Setup,
    Training,
    replace,
)
from quant_core.store import Store
from quant_core.store.keys import request_key
from quant_core.workspace import Workspace, browser_roots
from tests import made_results, made_runs
from tests.served_pages import MEASURED, job, keep, open_page, texts
from ui import runs_open, runs_page, runs_words, scores


@pytest.fixture
def info(home: Path) -> ModelInfo:
    """The made model, opened and nothing more."""
    made = made_results.model()
    workspace = Workspace(home, roots=browser_roots())
    keep(home, workspace.inspect_request(made.ref), made)
    workspace.close()
    return made


@pytest.fixture
def keys(home: Path, info: ModelInfo) -> dict[str, str]:
    """A home folder with a run of every kind."""
    return made_runs.fill(home, info)


@pytest.fixture
def here(home: Path, keys: dict[str, str]) -> Iterator[Workspace]:
    made = Workspace(home, roots=browser_roots())
    yield made
    made.close()


def tables(app: AppTest) -> str:
    """All that stands in tables, in one string."""
    frames = [pd.DataFrame(each.value).reset_index() for each in (*app.table, *app.dataframe)]
    return "\n".join(frame.to_csv(index=False) for frame in frames)


# --- the five states


def test_empty_it_leads_to_the_first_score(info: ModelInfo) -> None:
    app = open_page("runs")
    assert "Nothing has been scored" in texts(app)
    assert app.get("page_link")[0].proto.label == "Score the layers"
    assert app.get("file_uploader"), "a file can be imported at once"


def test_partly_recorded_it_says_what_is_not_known(home: Path, keys: dict[str, str]) -> None:
    store = Store(home)
    with store.database.transaction() as connection:
        connection.execute("UPDATE runs SET origin = '' WHERE key = ?", (keys["low"],))
        connection.execute("DELETE FROM runs WHERE key = ?", (keys["high"],))
    store.close()
    app = open_page("runs", run=keys["low"])
    assert "Versions and hardware were not recorded" in texts(app)
    assert runs_words.UNRECORDED in tables(app)
    app = open_page("runs", run=keys["high"])
    assert "What was asked was not recorded" in texts(app)
    assert {button.proto.label: button.proto.disabled for button in app.get("download_button")} == {
        f"Export all {len(keys)} shown": False,
        "Export": True,
    }


def test_failed_it_says_why_and_offers_to_try_again(
    home: Path, keys: dict[str, str], info: ModelInfo
) -> None:
    request = replace(made_runs.requests(info)["scores"], seed=9)
    failed = job(home, request, "failed", "The text is too short.", "Paste more.")
    app = open_page("runs")
    assert "The text is too short" in texts(app).replace("\\", "")
    assert any(button.key == f"runs:retry:{failed.id}" for button in app.button)


def test_finished_it_lists_every_run_with_its_number_and_unit(keys: dict[str, str]) -> None:
    app = open_page("runs")
    listed = tables(app)
    for part in (
        "Measured sweep", "Recipe evaluation", "Proof", "Generation", "Training", "measured KL 0.0344 nats/token",
        "least measured KL 0.150 nats/token", "same from the start 1 token", "the bundled model", "14 s",
    ):  # fmt: skip
        assert part in listed
    assert "Choose a run, here or in the table" in texts(app)


# --- one run


@pytest.mark.parametrize("name", [
    "scores", "measured", "low", "proof", "text", "training", "vote", "choices", "tails", "speed",
])  # fmt: skip
def test_a_run_is_reopened_by_its_link_with_answer_and_provenance(
    keys: dict[str, str], info: ModelInfo, name: str
) -> None:
    app = open_page("runs", run=keys[name])
    shown = tables(app).replace("\\", "")
    for part in (
        keys[name],
        info.fingerprint,
        "A made CPU",
        "PyTorch 2.9.0",
        {"text": "Seed", "vote": "Seed", "choices": "Questions", "speed": "Rounds"}.get(name, "Text"),
    ):
        assert part in shown
    assert [link.proto.label for link in app.get("page_link")] == [
        {"scores": "Open its map", "measured": "Open its map", "low": "Open the recipe it measured",
         "proof": "Open the measured best", "text": "Open the texts", "training": "Open its curve",
         "vote": "Open the blind vote", "choices": "Open the answers", "tails": "Open the spread",
         "speed": "Open the speeds"}[name]
    ]  # fmt: skip


def test_the_command_that_works_a_run_out_anew_stands_there_with_its_verdict(
    here: Workspace, keys: dict[str, str]
) -> None:
    app = open_page("runs", run=keys["low"])
    assert f"python -m quant_core reproduce {keys['low'][:8]}" in [block.value for block in app.code]
    pairs = compare(MEASURED, replace(MEASURED, kl_mean=MEASURED.kl_mean * 1.5))
    found = Reproduction(
        keys["low"],
        "Recipe evaluation",
        "different",
        0.01,
        pairs,
        ("torch: 2 then, 3 now",),
        made_runs.ORIGIN,
        1e9,
    )
    here._client.store.runs.put_reproduction(found)
    said = texts(open_page("runs", run=keys["low"]))
    assert f"1 of {len(pairs)} figures differ by more than 1.0 % (kl\\_mean)" in said
    assert "torch\\: 2 then\\, 3 now" in said


def test_open_leads_to_the_page_that_shows_it(here: Workspace, keys: dict[str, str]) -> None:
    def opened(name: str) -> tuple[str, AppTest]:
        app = open_page("runs", run=keys[name])
        target = app.get("page_link")[0].proto
        query = dict(part.split("=", 1) for part in target.query_string.split("&"))
        found = open_page(target.page, **{key: unquote_plus(text) for key, text in query.items() if text})
        return target.page, found

    stem, app = opened("again")
    assert stem == "sensitivity"
    sweep = here.stored_run(keys["again"]).result
    assert isinstance(sweep, ScoreTable)
    assert app.session_state["url:sweep"] == scores.table_id(sweep)
    assert "seed 1" in texts(app)
    stem, app = opened("low")
    assert stem == "compare"
    assert "44.10 ± 3.1" in tables(app)
    training = here.stored_run(keys["training"])
    assert isinstance(training.result, Training)
    for name, values in (
        ("measured", {"score": "measured", "method": "measured", "recipe": ""}),
        ("training", {"training": training.result.key, "model": "bundled"}),
        ("text", {"prompt": "Once <b>upon</b>", "seed": "0", "temperature": "0.8"}),
    ):
        place = runs_open.place(here.stored_run(keys[name]))
        assert place is not None
        assert values.items() <= place.values.items()


def test_a_link_may_set_a_sweep_and_the_rewrites_it_was_made_with(home: Path, info: ModelInfo) -> None:
    """The sensitivity page forgot the sweep, as it does when somebody changes the settings by hand."""
    setup = Setup(transforms=("awq",))
    request = SensitivityRequest(info.ref, info.fingerprint, made_results.FORMATS, setup=setup)
    table = replace(made_results.table(info), transforms=setup.transforms)
    keep(home, request, table)
    app = open_page("sensitivity")
    app.switch_page("pages/runs.py").run()
    app.query_params.update({"sweep": scores.table_id(table), "transforms": "awq"})
    app.switch_page("pages/sensitivity.py").run()
    assert app.session_state["url:sweep"] == scores.table_id(table)


def test_a_note_is_kept_as_it_is_typed(here: Workspace, keys: dict[str, str]) -> None:
    app = open_page("runs", run=keys["low"])
    app.text_area(key=f"runs:note:{keys['low']}").set_value("the *good* one").run()
    assert here.stored_run(keys["low"]).note == "the *good* one"
    assert "the *good* one" in tables(app)


def test_deleting_says_what_goes_and_what_is_gone_stays_gone(here: Workspace, keys: dict[str, str]) -> None:
    app = open_page("runs", run=keys["scores"])
    assert "1 file of arrays" in texts(app)
    assert "It cannot be undone" in texts(app)
    app.button(key="runs:delete").click().run()
    assert not app.exception
    assert keys["scores"] not in {line.key for line in here.runs()}
    app = open_page("runs", run=keys["scores"])
    assert "There is no run" in app.error[0].value


def test_words_of_others_are_shown_as_they_are(home: Path, info: ModelInfo) -> None:
    """A run may come from anybody: what it says must not load a picture or become a heading."""
    request = EvaluateRequest(info.ref, info.fingerprint, made_runs.LOW)
    keep(home, request, replace(MEASURED, text_label="![x](http://x.test/y)", notes=("# Big **bold**",)))
    key = next(line.key for line in Workspace(home).runs() if line.kind == "evaluate")
    app = open_page("runs", run=key)
    assert "![x](" not in texts(app)
    assert r"\# Big \*\*bold\*\*" in texts(app)


# --- two runs, the list


def test_two_evaluations_are_told_apart_by_figures_and_settings(keys: dict[str, str]) -> None:
    app = open_page("runs", **{"run": keys["low"], "with": keys["high"]})
    shown = tables(app).replace("\\", "")
    assert "0.03440 ± 0.0011 nats/token,0.001000 ± 0.0011 nats/token" in shown
    assert "88.5 %,99.0 %" in shown
    assert "**All weights**" in shown
    assert "1 layer changed: INT2 g64 asym × 1,1 layer changed: INT8 g64 asym × 1" in shown
    assert "Layers with another format" in shown


@pytest.mark.parametrize(
    ("name", "change", "rows"),
    [
        ("vote", {"seed": 7}, ("**Prompts**,3,3", "**Votes**,\"2, of 2 voters\",\"0, of 0 voters\"",
                               "**Votes for variant 2**,50.0 %,–", "**Seed**,0,7")),
        ("choices", {"assignment": made_runs.HIGH}, (
            "**Right, likeliest: recipe**\",66.7 % (20.8 % to 93.9 %),66.7 %", "1 and 0 (McNemar, p = 1)", "INT8 g64")),
        ("tails", {"tokens": 512}, ("**99.9 % below**,2.40 nats,2.40 nats", "“mat” after", "512 tokens of")),
        ("speed", {"take": 2}, ("**Writing, variant 2**\",85.0 tokens/s (80.0 to 95.0)", "measurement**,1,2")),
    ],
)  # fmt: skip
def test_two_runs_of_each_further_kind_are_compared_by_settings_and_figures(
    home: Path, keys: dict[str, str], info: ModelInfo, here: Workspace, name: str, change: dict[str, object],
    rows: tuple[str, ...],
) -> None:  # fmt: skip
    request = replace(made_runs.requests(info)[name], **change)
    keep(home, request, here.stored_run(keys[name]).result)
    here.vote(keys["vote"], "ann", 0, 1)
    here.vote(keys["vote"], "bob", 0, -1)
    app = open_page("runs", **{"run": keys[name], "with": request_key(request)})
    shown = tables(app).replace("\\", "")
    for row in rows:
        assert row in shown


def test_a_vote_that_goes_on_elsewhere_is_not_given_away(keys: dict[str, str]) -> None:
    """Whoever opens the run may still have to vote: whose a text is stays unsaid."""
    app = open_page("runs", run=keys["vote"])
    assert "goose" not in texts(app) + tables(app)


def test_two_sweeps_are_compared_by_rank_and_by_the_layers_that_moved(keys: dict[str, str]) -> None:
    app = open_page("runs", **{"run": keys["scores"], "with": keys["again"]})
    shown = tables(app)
    assert "Rank correlation" in shown
    assert "Layer,Format,Place,KL (nats/token)" in shown
    assert "**Seed**,0,1" in shown


def test_runs_of_two_kinds_are_not_compared(keys: dict[str, str]) -> None:
    app = open_page("runs", **{"run": keys["scores"], "with": keys["low"]})
    assert "of one kind" in texts(app)
    assert "Side by side" not in texts(app)


def test_filters_keep_what_is_asked_for_and_say_when_nothing_is(keys: dict[str, str]) -> None:
    app = open_page("runs", kind="Proof")
    assert list(app.dataframe[0].value["Kind"]) == ["Proof"]
    app.selectbox(key="widget:kind").set_value("Training").run()
    assert list(app.dataframe[0].value["Kind"]) == ["Training"]


@pytest.mark.parametrize(
    ("before", "ticked", "after"),
    [
        (("", ""), ["a"], ("a", "")),
        (("a", ""), ["a", "b"], ("a", "b")),
        (("b", ""), ["a", "b"], ("b", "a")),
        (("a", "b"), ["a", "b", "c"], ("a", "c")),
        (("a", "b"), ["b"], ("b", "")),
        (("a", "b"), [], ("", "")),
    ],
)
def test_ticks_keep_the_run_shown_and_change_the_one_beside_it(
    before: tuple[str, str], ticked: list[str], after: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = dict(zip(("run", "with"), before, strict=True))
    for param in (runs_page.RUN, runs_page.OTHER):
        monkeypatch.setattr(param, "get", lambda name=param.name: now[name])
        monkeypatch.setattr(param, "set", lambda value, name=param.name: now.update({name: value}))
    runs_page.choose(ticked)
    assert tuple(now.values()) == after


def test_an_exported_file_is_imported_and_a_bad_one_is_told(
    here: Workspace, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    here.export_runs([keys["low"]], file)
    here.delete_run(keys["low"])
    app = open_page("runs")
    app.file_uploader(key="runs:file").set_value(("runs.zip", file.getvalue(), "application/zip")).run()
    assert not app.error
    assert app.session_state["url:run"] == keys["low"]
    assert keys["low"] in {line.key for line in here.runs()}
    app.file_uploader(key="runs:file").set_value(("bad.zip", b"no zip", "application/zip")).run()
    assert "no zip file" in app.error[0].value


def test_a_run_of_a_model_that_is_not_here_is_shown_and_not_opened(
    here: Workspace, keys: dict[str, str], info: ModelInfo
) -> None:
    run = here.stored_run(keys["low"])
    away = replace(
        run, fingerprint="0" * 24, request=replace(run.request, model=replace(info.ref, source="theirs"))
    )
    assert runs_open.place(away) is None
