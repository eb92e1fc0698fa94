"""A run in a runtime on the pages: the five states on Compare, in Runs, in the report, and handed on as a file."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from quant_core.__main__ import main
from quant_core.errors import QuantError
from quant_core.report import compose, to_markdown
from quant_core.runtimes import RUNTIMES, Found
from quant_core.schema import ModelInfo, Recipe, RuntimeSpeedRequest, Setup, replace
from quant_core.store.keys import request_key
from quant_core.workspace import Workspace, browser_roots
from tests import made_results
from tests.exported import mixed
from tests.served_pages import job, keep, open_page, seed, texts
from ui import compare_runtime
from ui.compare_runtime import verdict

HERE, GONE = Found("xllamacpp 1.0", python="python"), Found(why="llama.cpp is not here.", remedy="make it")


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RUNTIMES["llama.cpp"], "found", lambda: HERE)


@pytest.fixture
def recipe(info: ModelInfo) -> Recipe:
    return mixed(info, ["q8_0"])


@pytest.fixture
def asked(workspace: Workspace, info: ModelInfo, recipe: Recipe) -> RuntimeSpeedRequest:
    return workspace.runtime_speed_request(info, recipe, "llama.cpp")


@pytest.fixture
def query(workspace: Workspace, recipe: Recipe) -> dict[str, str]:
    return {"tab": "speed", "recipe": workspace.save_recipe(recipe)}


@pytest.fixture
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Another home folder."""
    made = Workspace(tmp_path_factory.mktemp("other"), roots=browser_roots())
    yield made
    made.close()


# --- Compare's five states ------------------------------------------------------------------------------------------


def test_without_a_recipe_it_says_what_to_do(home: Path) -> None:
    seed(home, tables=False)
    assert "There is no recipe yet to run" in texts(open_page("compare", tab="speed"))


def test_before_a_run_it_says_what_is_done_and_what_is_written(
    asked: RuntimeSpeedRequest, query: dict[str, str]
) -> None:
    app = open_page("compare", **query)
    assert app.button(key=f"start:{request_key(asked)}").label == "Run it in llama.cpp"
    assert "read 128 tokens and write 32, in turns, 5 times" in texts(app)
    assert (
        "First the recipe's file (about 1.00 MB) and the original's (about 2.00 MB) are written to"
        in texts(app)
    )


def test_a_run_under_way_failed_and_cancelled_is_told(
    home: Path, workspace: Workspace, asked: RuntimeSpeedRequest, query: dict[str, str]
) -> None:
    running = job(home, asked, "running", "llama.cpp: round 2 of 5")
    app = open_page("compare", **query)
    assert any(button.key == f"cancel:here:{running.id}" for button in app.button)
    workspace.cancel(running.id)
    job(home, asked, "failed", "llama.cpp ran out of memory and was ended.", "Close other programs.")
    app.run()
    assert app.error[0].value.startswith("llama.cpp ran out of memory")
    job(home, asked, "cancelled")
    app.run()
    assert "cancelled before it finished" in texts(app)


def test_a_run_is_shown_beside_the_original(
    home: Path, asked: RuntimeSpeedRequest, query: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(home, asked, made_results.runtime_speeds())
    app = open_page("compare", **query)
    frame = app.table[0].value
    assert list(frame.index) == ["Original", "Recipe at 4.00 bits"]
    assert list(frame.iloc[0]) == [
        "1,000 tokens/s (900 to 1,100)",
        "100 tokens/s (90.0 to 110)",
        "100 MB",
        "40.00 MB",
    ]
    assert list(frame.iloc[1]) == [
        "1,050 tokens/s (1,000 to 1,200)",
        "200 tokens/s (180 to 220)",
        "50.00 MB",
        "10.00 MB",
    ]
    assert (
        "Measured in llama.cpp 1.0 on A made CPU (cpu, 1 thread at low priority): medians of 5 rounds"
        in texts(app)
    )
    assert "The simulation has no speed of its own" in texts(app)
    assert len(app.get("plotly_chart")) == 1
    again: list[RuntimeSpeedRequest] = []
    monkeypatch.setattr(compare_runtime, "submit", again.append)
    app.button(key="runtime:again").click().run()
    assert [one.take for one in again] == [2]
    assert "Run it in llama.cpp" in [button.label for button in app.button], (
        "another measurement is asked for"
    )


def test_a_runtime_that_is_missing_and_one_that_cannot_hold_it(
    query: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RUNTIMES["llama.cpp"], "found", lambda: GONE)
    app = open_page("compare", **query)
    assert app.segmented_control(key="widget:engine").value == "llama.cpp", (
        "where none can, the one of most files"
    )
    assert app.warning[0].value.startswith("llama.cpp is not here.")
    assert app.code[0].value == "make it"
    app = open_page("compare", **query, engine="bitsandbytes")
    assert "bitsandbytes cannot hold this recipe" in texts(app)


def test_the_verdict_by_hand() -> None:
    found = made_results.runtime_speeds()
    assert verdict(found) == (
        "In llama.cpp the recipe reads the prompt 1.05 times as fast (rounds overlap) and writes 2.00 times as fast, "
        "in 50.0 % of the original's memory and 25.0 % of its size."
    )
    assert verdict(replace(found, original=None)) == "In llama.cpp the recipe writes 200 tokens/s."


# --- Runs, the report, a file ---------------------------------------------------------------------------------------


def test_runs_and_report_tell_it(
    home: Path, workspace: Workspace, info: ModelInfo, asked: RuntimeSpeedRequest, recipe: Recipe
) -> None:
    keep(home, asked, made_results.runtime_speeds())
    (line,) = [line for line in workspace.runs() if line.kind == "runtime_speed"]
    assert (line.title, line.finding.label, line.finding.value) == (
        "Speed in a runtime",
        "written in llama.cpp",
        200,
    )
    app = open_page("runs", run=request_key(asked))
    facts = "".join(str(each.value.to_dict()) for each in app.table)
    assert "Ran in" in facts
    assert "llama\\.cpp 1\\.0" in facts.replace("\\\\", "\\")
    page = to_markdown(compose(workspace.report(info, recipe)))
    assert "The exported file in llama.cpp 1.0" in page
    assert "1,050 (1,000 to 1,200)" in page


def test_the_command_line_tells_it(
    home: Path,
    asked: RuntimeSpeedRequest,
    info: ModelInfo,
    recipe: Recipe,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = Workspace(home)
    keep(home, here.inspect_request(info.ref), info)
    keep(home, asked, made_results.runtime_speeds())
    fits, other = home / "fits.json", home / "other.json"
    for file, form in ((fits, "q8_0"), (other, "int4/g64/asym")):
        made = here.measured_recipe(info, dict.fromkeys(recipe.assignment(), form), None, Setup())
        file.write_text(here.recipe_text(made, "json"))
    here.close()
    common = ["speed", "bundled", "--home", str(home), "--recipe"]
    assert main([*common, str(fits)]) == 0
    said = capsys.readouterr().out
    assert "A made model in llama.cpp 1.0 on A made CPU, 1 threads: medians of 5 rounds" in said
    assert "200 (180 to 220)" in said
    assert main([*common, str(fits), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["decode"] == [200, 180, 220]
    assert main([*common, str(other)]) == 1
    assert "llama.cpp cannot run this recipe: GGUF does not hold int4" in capsys.readouterr().err


def test_it_is_handed_on_without_this_machine_s_folders(
    home: Path, workspace: Workspace, asked: RuntimeSpeedRequest, other: Workspace
) -> None:
    keep(home, asked, made_results.runtime_speeds())
    file = io.BytesIO()
    workspace.export_runs([request_key(asked)], file)
    file.seek(0)
    other.import_runs(file)
    run = other.stored_run(request_key(asked))
    assert run.result == made_results.runtime_speeds()
    assert isinstance(run.request, RuntimeSpeedRequest)
    assert str(home) not in str(run.request)
    with pytest.raises(QuantError):
        workspace.stored_run("0" * 24)
