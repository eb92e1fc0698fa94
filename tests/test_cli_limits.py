"""The command line's budgets, targets and rules, with scores that are made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quant_core.__main__ import main
from quant_core.schema import Rule
from quant_core.workspace import Workspace
from tests import fake_jobs, made_results
from tests.workers import end_worker

FAKES = "tests.fake_jobs:JOBS"
INFO = made_results.model()
ASK = ["--formats", "int2,int3,int4,int8,nf4,fp8_e4m3"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("home")
    yield made
    (made / fake_jobs.HOLD).unlink(missing_ok=True)
    end_worker(made)


@pytest.fixture
def recipe(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["recipe", "bundled", *ASK, *map(str, arguments), "--home", str(home), "--jobs", FAKES])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def answer(found: tuple[int, str, str]) -> Any:
    assert found[0] == 0, found[2]
    return json.loads(found[1])


def test_several_budgets_hold_at_once(recipe: Any) -> None:
    one = answer(recipe("--bits", 5, "--json"))
    both = answer(recipe("--bits", 5, "--megabytes", 6.5, "--json"))
    assert both["bytes"] <= 6.5e6 < one["bytes"]
    assert both["budget"] == {"kind": "bits", "value": 5.0}
    assert both["terms"]["limits"]["bytes"] == 6.5e6
    assert both["predicted_kl"] > one["predicted_kl"]


def test_memory_and_time_alone_are_budgets_too(recipe: Any) -> None:
    asked = ["--memory", 12, "--context", 512, "--batch", 2, "--json"]
    found = answer(recipe(*asked))
    assert 0.97 * 12e6 < found["usage"]["memory_bytes"] <= 12e6
    assert found["budget"] is None
    cached = answer(recipe(*asked, "--kv-cache", "none"))
    assert cached["usage"] == found["usage"]
    time = answer(recipe("--milliseconds", 0.25, "--hardware", "ddr4", "--json"))
    assert 0.24 < time["usage"]["milliseconds"] <= 0.25
    code, _, err = recipe("--milliseconds", 0.001, "--hardware", "ddr4")
    assert code == 1
    assert "No recipe keeps the time a token to 0.001 ms: the least is" in err


def test_a_target_rules_out_what_it_cannot_hold_and_says_so(recipe: Any) -> None:
    code, out, err = recipe("--bits", 9, "--target", "gptq")
    assert code == 0, err
    assert "GPTQ: 4 of 6 formats can be held" in out
    assert "nf4" not in out
    found = answer(recipe("--bits", 9, "--target", "gptq", "--json"))
    assert {unit["format"].partition("/")[0] for unit in found["units"].values()} <= {
        "int2", "int3", "int4", "int8", "original"
    }  # fmt: skip
    assert found["terms"]["target"] == "gptq"


def test_rules_hold_and_are_kept_in_the_file(recipe: Any, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    rules = ["--never-below", "*.down_proj*=4", "--only", "*.q_proj*=nf4,int8"]
    found = answer(recipe("--bits", 3.4, *rules, "--out", file, "--json"))
    for name, unit in found["units"].items():
        if ".down_proj" in name:
            assert unit["bits"] >= 4
        if ".q_proj" in name:
            assert unit["format"].startswith(("nf4", "int8"))
    workspace = Workspace(home)
    read = workspace.read_recipe(file.read_text(), INFO)
    workspace.close()
    assert read.terms.rules == (
        Rule("*.down_proj*", 4.0),
        Rule("*.q_proj*", families=("nf4", "int8")),
    )


def test_files_of_before_there_were_terms_are_read(recipe: Any, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    answer(recipe("--bits", 4.5, "--out", file, "--json"))
    data = json.loads(file.read_text())
    del data["terms"]
    workspace = Workspace(home)
    assert workspace.read_recipe(json.dumps(data), INFO).terms.target == "any"
    workspace.close()


def test_what_is_not_used_of_a_budget_is_said(recipe: Any) -> None:
    code, out, _ = recipe("--bits", 20)
    assert code == 0
    assert "16.00 bits of 20.00 bits are used: no layer has a better format to take." in out
