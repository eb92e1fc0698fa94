"""Compare's other sections on a seeded store: the blind vote, multiple choice, the spread of KL, speed and energy."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from quant_core.ballots import tally, verdict
from quant_core.schema import (
    Budget,
    ChoicesRequest,
    ModelInfo,
    PromptsRequest,
    Request,
    ScoreTable,
    SpeedRequest,
    TailsRequest,
    VariantSpec,
)
from quant_core.store.keys import request_key
from quant_core.store.votes import Vote
from quant_core.workspace import Workspace
from tests.made_results import ASKED, PROMPTS, SCORED, SPREAD, TIMED, WROTE
from tests.served_pages import job, keep, open_page, seed, texts
from ui.compare_ballot import is_swapped


@pytest.fixture
def assignment(workspace: Workspace, info: ModelInfo, table: ScoreTable) -> dict[str, str]:
    """The recipe when nothing was changed."""
    solved = workspace.solve(info, table, Budget("bits", 4.5)).assignment
    return {unit: name for unit, name in solved.items() if name != "original"}


@pytest.fixture
def asked(info: ModelInfo, assignment: dict[str, str]) -> PromptsRequest:
    """A set that original and recipe wrote from."""
    variants = (VariantSpec(label="Original"), VariantSpec(assignment, label="Recipe at 4.50 bits"))
    return PromptsRequest(info.ref, info.fingerprint, PROMPTS, variants)


def _pages(app: AppTest) -> list[str]:
    return [element.proto.body for element in app.get("html") if "continuation" in element.proto.body]


# --- five states ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tab", "sentence"),
    [("vote", "no recipe yet to vote on"), ("text", "no recipe yet to measure"),
     ("choices", "no recipe yet to compare"), ("speed", "Each variant reads a prompt")],
)  # fmt: skip
def test_without_a_recipe_each_section_says_what_to_do(home: Path, tab: str, sentence: str) -> None:
    seed(home, tables=False)
    assert sentence in texts(open_page("compare", tab=tab))


def _section(
    info: ModelInfo, assignment: dict[str, str], asked: PromptsRequest, tab: str
) -> tuple[Request, dict[str, str]]:
    """A section's request and the address that shows it."""
    roots = Workspace().inspect_request(info.ref).roots
    choices = ChoicesRequest(info.ref, info.fingerprint, ASKED, assignment)
    variants = (VariantSpec(), VariantSpec(assignment))
    found: dict[str, tuple[Request, dict[str, str]]] = {
        "vote": (asked, {"vote": request_key(asked)}),
        "choices": (choices, {"scored": request_key(choices)}),
        "text": (TailsRequest(info.ref, info.fingerprint, assignment, roots=roots), {}),
        "speed": (SpeedRequest(info.ref, info.fingerprint, variants, roots=roots), {}),
    }
    request, query = found[tab]
    return request, {"tab": tab, **query}


@pytest.mark.parametrize("tab", ["vote", "choices", "text", "speed"])
def test_work_under_way_failed_and_cancelled_is_told(
    home: Path, info: ModelInfo, assignment: dict[str, str], asked: PromptsRequest, tab: str
) -> None:
    request, query = _section(info, assignment, asked, tab)
    running = job(home, request, "running", "a third")
    app = open_page("compare", **query)
    assert any(button.key == f"cancel:here:{running.id}" for button in app.button)
    Workspace(home).cancel(running.id)
    job(home, request, "failed", "It is too long.", "Shorten it.")
    app.run()
    assert app.error[0].value == "It is too long.\n\nShorten it."
    job(home, request, "cancelled")
    app.run()
    assert "cancelled before it finished" in texts(app)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [({"tab": "vote", "vote": "0" * 24}, "no run"), ({"tab": "choices", "scored": "0" * 24}, "no run")],
)
def test_a_link_to_nothing_says_so_and_leads_back(
    info: ModelInfo, query: dict[str, str], sentence: str
) -> None:
    app = open_page("compare", **query)
    assert sentence in app.error[0].value
    next(button for button in app.button if (button.key or "").startswith("leave:")).click().run()
    assert not app.error


# --- the blind vote -------------------------------------------------------------------------------------------------


def test_a_vote_shows_two_texts_and_not_who_wrote_them(home: Path, asked: PromptsRequest) -> None:
    keep(home, asked, WROTE)
    app = open_page("compare", tab="vote", vote=request_key(asked))
    shown = texts(app) + "".join(_pages(app))
    assert "Recipe at" not in shown
    assert "Original" not in shown
    assert [button.label for button in app.button if (button.key or "").startswith("vote:")][:3] == [
        "A is better", "B is better", "No difference",
    ]  # fmt: skip
    assert len(_pages(app)) == 2
    assert "both variants wrote the same: 1 of 3" in shown, "both sank"


def test_votes_are_turned_back_to_who_wrote_and_revealed(
    home: Path, workspace: Workspace, asked: PromptsRequest
) -> None:
    """The voter always prefers the recipe's text, wherever it stands."""
    keep(home, asked, WROTE)
    key = request_key(asked)
    app = open_page("compare", tab="vote", vote=key)
    for wanted in (" was", " goose"):
        letter = "a" if f"{wanted}</" in _pages(app)[0] else "b"
        app.button(key=f"vote:{letter}").click().run()
    assert [(vote.prompt, vote.choice) for vote in workspace.votes(key)] == [(0, 1), (2, 1)]
    shown = texts(app)
    assert "“Recipe at 4.50 bits” is preferred in 2 of the 2 prompts" in shown
    assert "It could be chance" in shown
    frame = app.dataframe[0].value
    assert list(frame["Votes for Recipe at 4.50 bits"]) == [1, 0, 1]
    app.button(key="vote:next").click().run()
    assert len(_pages(app)) == 2, "another voter begins"


def test_a_vote_can_be_taken_back(home: Path, workspace: Workspace, asked: PromptsRequest) -> None:
    keep(home, asked, WROTE)
    key = request_key(asked)
    app = open_page("compare", tab="vote", vote=key)
    app.button(key="vote:n").click().run()
    app.button(key="vote:back").click().run()
    app.button(key="vote:a").click().run()
    votes = workspace.votes(key)
    assert len(votes) == 1
    assert votes[0].choice == is_swapped(key, votes[0].voter, 0)


def test_a_class_without_a_recipe_votes_on_what_the_page_compares(home: Path) -> None:
    """It asked for a recipe although another format was chosen already."""
    seed(home, tables=False)
    app = open_page("compare", tab="vote")
    app.button(key="compare:few").click().run()
    assert any(button.label == "Write them and vote" for button in app.button)
    assert app.session_state["url:pair"] == "original-other"
    assert "4 evenly spaced values" in texts(open_page("compare", other="int2/g64/asym"))


def test_whoever_ended_a_vote_finds_its_result_again(
    home: Path, workspace: Workspace, asked: PromptsRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was kept for the session only: a reload went on asking somebody who had seen who wrote which."""
    monkeypatch.setattr("ui.compare_ballot.voter_id", lambda: "ann")
    keep(home, asked, WROTE)
    open_page("compare", tab="vote", vote=request_key(asked)).button(key="vote:end").click().run()
    assert "Who wrote which" in texts(open_page("compare", tab="vote", vote=request_key(asked)))
    monkeypatch.setattr("ui.compare_ballot.voter_id", lambda: "bob")
    assert len(_pages(open_page("compare", tab="vote", vote=request_key(asked)))) == 2
    workspace.delete_run(request_key(asked))
    assert not workspace.has_ended_vote(request_key(asked), "ann")


def test_orders_are_drawn_for_each_voter_and_prompt() -> None:
    drawn = [is_swapped("key", voter, place) for voter in ("ann", "bob") for place in range(200)]
    assert drawn[:200] != drawn[200:]
    assert 140 < sum(drawn) < 260


def test_the_outcome_by_hand() -> None:
    """Two voters; prompt 0 goes to the second, 1 is a draw, 2 to the second, 3 to nobody."""
    votes = [
        Vote("ann", 0, 1),
        Vote("bob", 0, 1),
        Vote("ann", 1, 0),
        Vote("bob", 1, 1),
        Vote("ann", 2, 1),
        Vote("bob", 3, -1),
    ]
    found = tally(votes)
    assert found == (1, 4, 1, 2, 0, 2, 0.5)
    assert "“B” is preferred in 2 of the 2 prompts" in verdict(found, ("A", "B"))
    clear = tally([Vote("ann", place, 0) for place in range(10)])
    assert "Hardly chance" in verdict(clear, ("A", "B"))
    assert "about once in 512" in verdict(clear, ("A", "B"))
    assert "no difference" in verdict(tally(votes[-1:]), ("A", "B"))


def test_the_form_begins_a_vote_from_own_prompts(home: Path, info: ModelInfo, table: ScoreTable) -> None:
    app = open_page("compare", tab="vote")
    assert "16 prompts, 60 tokens each" in texts(app)
    app.segmented_control(key="vote:source").set_value("paste").run()
    assert not [button for button in app.button if button.key == "vote:start"]
    app.text_area(key="vote:paste").set_value("one\n\ntwo").run()
    assert "2 prompts, 60 tokens each" in texts(app)
    app.segmented_control(key="widget:pair").set_value("original-other").run()
    assert "Choose what else writes" in texts(app)


# --- multiple choice ------------------------------------------------------------------------------------------------


def test_answers_are_counted_and_compared(home: Path, info: ModelInfo, assignment: dict[str, str]) -> None:
    request = ChoicesRequest(info.ref, info.fingerprint, ASKED, assignment)
    keep(home, request, SCORED)
    app = open_page("compare", tab="choices", scored=request_key(request))
    frame = app.table[0].value
    assert str(frame.iloc[0, 0]).startswith("100.0 % (")
    assert str(frame.iloc[0, 1]).startswith("66.7 % (")
    assert frame.iloc[0, 2] == "-33.3 points"
    assert "that the recipe loses: 1; that it gains: 0. It could be chance" in texts(app)
    assert list(app.dataframe[0].value["Recipe"]) == ["piano."]


def test_pasted_questions_name_the_lines_that_are_left_out(info: ModelInfo, table: ScoreTable) -> None:
    app = open_page("compare", tab="choices")
    app.text_area(key="choices:paste").set_value(
        '{"question": "A", "choices": ["x", "y"], "answer": 0}\nno'
    ).run()
    assert app.warning[0].value == "Left out: line 2 (no JSON)."
    assert app.button(key="choices:start").label == "Score 1 question"


# --- the spread, speed and energy -----------------------------------------------------------------------------------


def test_the_spread_and_the_worst_tokens_are_shown(
    home: Path, info: ModelInfo, assignment: dict[str, str], asked: PromptsRequest
) -> None:
    request, query = _section(info, assignment, asked, "text")
    keep(home, request, SPREAD)
    app = open_page("compare", **query)
    assert [metric.value for metric in app.metric][-2:] == ["2.50 nats", "10.0 %"]
    row = app.table[0].value.iloc[0]
    assert list(row) == [
        "… the cat sat on the **mat**", "mat 80.0 %  \nthe text's: 80.0 %", "log 60.0 %  \nthe text's: 5.0 %",
    ]  # fmt: skip


def test_speed_is_measured_and_what_kernels_would_do_is_estimated(
    home: Path, info: ModelInfo, assignment: dict[str, str], asked: PromptsRequest
) -> None:
    request, query = _section(info, assignment, asked, "speed")
    keep(home, request, TIMED)
    app = open_page("compare", **query, hardware="h100")
    measured, estimated = (table.value for table in app.table)
    assert list(measured["Writing"]) == ["90.0 tokens/s (80.0 to 95.0)", "85.0 tokens/s (80.0 to 95.0)"]
    assert list(measured["Energy a token"]) == ["–", "–"]
    assert "no variant is faster than the original" in texts(app)
    assert "A made CPU (cpu, 1 thread at low priority)" in texts(app)
    bytes_read = [float(size.split()[0]) for size in estimated["Read for a token"]]
    assert bytes_read[1] < bytes_read[0]
    rates = [float(rate.split()[0].replace(",", "")) for rate in estimated.iloc[:, 1]]
    assert rates[1] > rates[0]
