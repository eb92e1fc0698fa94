"""Compare's section on served models, on a seeded store: its states, the verdict, the history, texts side by side."""

from __future__ import annotations

from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import pytest

from quant_core.errors import QuantError
from quant_core.schema import (
    Budget,
    Check,
    CheckRequest,
    Divergence,
    Endpoint,
    ModelInfo,
    ScoreTable,
    ServedRequest,
    ServedText,
    replace,
)
from quant_core.store.keys import request_key
from quant_core.workspace import Workspace
from tests.served_pages import job, keep, open_page, seed, texts

ADDRESS = "http://127.0.0.1:8080/v1"
FOUND = Check(
    Divergence(0.02, 0.005, 0.01, 0.03), Divergence(0.4, 0.02, 0.36, 0.44), 0.97, 20, 0.9, "/srv/x/m*odel.gguf",
    1016, 8, 1017, "e" * 24, "bundled evaluation text", 16.0,
)  # fmt: skip
WROTE = ServedText(
    (" had", " a", " house"),
    (" had", " no", " home"),
    (" ha", "d no", " home"),
    0.015,
    211.0,
    3,
    True,
    "m",
    2.0,
)


@pytest.fixture
def asked(info: ModelInfo, workspace: Workspace, table: ScoreTable) -> CheckRequest:
    """A check against the recipe when nothing was changed."""
    solved = workspace.solve(info, table, Budget("bits", 4.5)).assignment
    assignment = {unit: name for unit, name in solved.items() if name != "original"}
    return CheckRequest(
        info.ref, info.fingerprint, Endpoint(ADDRESS), assignment, 0.05, "2026-11-25T08:00:00"
    )


def test_without_a_server_it_says_how_to_start_one(home: Path) -> None:
    seed(home, tables=False)
    app = open_page("compare", tab="served")
    assert "No server is named yet" in texts(app)
    assert "llama-server" in app.code[0].value


def test_a_bad_address_or_key_is_one_sentence_and_nothing_is_asked(home: Path, info: ModelInfo) -> None:
    app = open_page("compare", tab="served", endpoint="ftp://x")
    assert "is no address of a server" in app.error[0].value
    app = open_page("compare", tab="served", endpoint=ADDRESS)
    app.text_input(key="served:key").set_value("AWS_SECRET_ACCESS_KEY").run()
    assert "must end in _API_KEY" in app.error[0].value
    app.text_input(key="served:key").set_value("OPENAI_API_KEY").run()
    assert not app.error
    assert f"The key in OPENAI_API_KEY is sent to `{ADDRESS}` alone." in texts(app)
    assert "OPENAI" not in str(app.query_params)
    assert not Workspace(home).jobs()


def test_a_server_that_was_not_checked_yet(home: Path) -> None:
    seed(home, tables=False)
    app = open_page("compare", tab="served", endpoint=ADDRESS)
    assert "what is served is compared with the original" in texts(app)
    assert "about a thousand short requests" in texts(app)
    assert not app.get("plotly_chart")


def test_a_check_under_way_failed_and_cancelled_is_told(home: Path, asked: CheckRequest) -> None:
    running = job(home, asked, "running", "a third")
    app = open_page("compare", tab="served", endpoint=ADDRESS, checked=request_key(asked))
    assert any(button.key == f"cancel:here:{running.id}" for button in app.button)
    Workspace(home).cancel(running.id)
    job(home, asked, "failed", "Nothing answers.", "Start it.")
    app.run()
    assert app.error[0].value == "Nothing answers.\n\nStart it."
    job(home, asked, "cancelled")
    app.run()
    assert "cancelled before it finished" in texts(app)


def test_a_finished_check_has_a_verdict_a_history_and_a_line_for_cron(
    home: Path, asked: CheckRequest
) -> None:
    keep(home, asked, FOUND)
    app = open_page("compare", tab="served", endpoint=ADDRESS, allowed="0.015")
    assert app.success[0].value.startswith("**Yes, within the limit.** The server is 0.0200 nats/token from")
    assert [metric.value for metric in app.metric] == ["0.0200 nats", "0.400 nats", "97.0 %", "90.0 %"]
    assert "model m·odel.gguf" in texts(app)
    later = replace(asked, asked="2026-11-25T09:00:00", limit=0.015)
    keep(home, later, FOUND)
    keep(home, replace(asked, endpoint=Endpoint("http://other/v1")), FOUND)
    app.run()
    assert "Probably not" in app.warning[0].value
    assert "2 checks over time, 1 above" in app.get("plotly_chart")[0].proto.alt
    frame = app.dataframe[0].value
    assert list(frame["Limit"]) == ["0.015", "0.05"], "the newest first; the other server's is not among them"
    (line,) = [block.value for block in app.code]
    assert line == (
        f"python -m quant_core check {ADDRESS} --model bundled --recipe recipe.json --limit 0.015"
    )


def test_a_linked_check_of_another_server_leads_back(home: Path, asked: CheckRequest) -> None:
    other = replace(asked, endpoint=Endpoint("http://other/v1"), limit=0.001)
    keep(home, other, FOUND)
    app = open_page("compare", tab="served", endpoint=ADDRESS, checked=request_key(other))
    assert app.error[0].value.startswith("**No, above the limit.**")
    assert "`http://other/v1`" in texts(app)
    app.button(key="leave:checked").click().run()
    assert not app.error


def test_texts_stand_side_by_side_with_what_was_timed(
    home: Path, info: ModelInfo, asked: CheckRequest
) -> None:
    request = ServedRequest(info.ref, info.fingerprint, Endpoint(ADDRESS), "Once", asked.assignment)
    running = job(home, request, "running", "the server writes")
    query = {"tab": "served", "endpoint": ADDRESS, "wrote": request_key(request)}
    app = open_page("compare", **query)
    assert any(button.key == f"stop:{running.id}" for button in app.button)
    later = replace(request, asked="later")
    keep(home, later, WROTE)
    app = open_page("compare", **query | {"wrote": request_key(later)})
    shown = [element.proto.body for element in app.get("html") if "continuation" in element.proto.body]
    assert len(shown) == 3
    assert ">no</mark>" in shown[2], "its pieces are cut where the original's tokens are"
    assert [metric.value for metric in app.metric][-3:] == ["15 ms", "211 tokens/s", "3 tokens"]
    assert "All take the likeliest token" in "".join(element.proto.body for element in app.get("html"))


def test_the_line_for_cron_quotes_what_a_shell_would_take_apart(info: ModelInfo, asked: CheckRequest) -> None:
    app = open_page("compare", tab="served", endpoint=ADDRESS, served="a model; rm")
    assert "--served 'a model; rm'" in app.code[0].value


def test_runs_tell_checks_in_words_and_figures(home: Path, asked: CheckRequest) -> None:
    keep(home, asked, FOUND)
    app = open_page("runs", run=request_key(asked))
    assert "served, KL to the approved 0.0200 nats/token" in texts(app)
    values = dict(app.table[0].value["Value"])
    assert values["**Still what was approved?**"] == r"Yes\, within the limit\."
    assert (
        values["**KL to the original**"]
        == r"0\.400 nats\/token\, top\-20 \(95 \% interval 0\.360 to 0\.440\)"
    )
    assert "8080" in dict(app.table[1].value["Value"])["**Server**"]


def test_a_check_can_be_handed_on_but_not_with_an_address_that_no_page_takes(
    home: Path, tmp_path_factory: pytest.TempPathFactory, info: ModelInfo, asked: CheckRequest
) -> None:
    here, there = Workspace(home), Workspace(tmp_path_factory.mktemp("there"))
    for address in (ADDRESS, "http://u:secret@a/v1", "http://a/`v1"):
        request = replace(asked, endpoint=Endpoint(address))
        keep(home, request, FOUND)
        file = BytesIO()
        here.export_runs([request_key(request)], file)
        file.seek(0)
        with (
            nullcontext() if address == ADDRESS else pytest.raises(QuantError, match="does not fit what was")
        ):
            assert there.import_runs(file).keys == (request_key(request),)
    assert [run.result for run in there.checks(info.fingerprint)] == [FOUND]
    here.close()
    there.close()
