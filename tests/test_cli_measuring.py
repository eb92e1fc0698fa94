"""The command line's proof and calibration, with scores and measurements that are made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quant_core.__main__ import main
from quant_core.allocation.proof import ranking
from quant_core.schema import CheckRequest
from quant_core.workspace import Workspace
from tests import made_results
from tests.workers import end_worker

INFO = made_results.model()
TABLE = made_results.table(INFO)

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("home")
    yield made
    end_worker(made)


@pytest.fixture
def call(home: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            asked = [*map(str, arguments), "--formats", "int2,int3,int4,int8,nf4,fp8_e4m3"]
            code = main([*asked, "--home", str(home), "--jobs", "tests.fake_jobs:JOBS"])
        except SystemExit as leave:
            code = int(leave.code or 0)
        return code, *capsys.readouterr()

    return run


def answer(found: tuple[int, str, str]) -> Any:
    assert found[0] == 0, found[2]
    return json.loads(found[1])


def test_the_measured_best_is_the_answer(call: Call, home: Path, tmp_path: Path) -> None:
    """The worker measures each recipe a little worse than the one before it, so that the first finalist wins."""
    file = tmp_path / "recipe.json"
    found = answer(call("recipe", "bundled", "--bits", 4.5, "--prove", "--out", file, "--json"))
    recipes = found["proof"]["recipes"]
    names = [one["name"] for one in recipes]
    assert names[:4] == ["predicted best", *(f"predicted number {place}" for place in (2, 3, 4))]
    assert "nf4/g64 everywhere" in names, "the best uniform recipe of at most 4.5 bits stands beside them"
    assert recipes[0]["assignment"] == {
        unit: entry["format"] for unit, entry in found["units"].items() if unit in TABLE.units
    }
    assert recipes[0]["predicted"]["kl"] == found["predicted_kl"]
    assert {unit: entry["format"] for unit, entry in json.loads(file.read_text())["units"].items()} == {
        unit: entry["format"] for unit, entry in found["units"].items()
    }
    rows = [(0.1 + 0.01 * place, 0.2 + 0.02 * place) for place in range(len(recipes))]
    for one, place in zip(recipes, ranking(rows), strict=True):
        assert one["measured_kl"] == pytest.approx(place.kl)
        assert one["measured_stderr"] == pytest.approx(place.stderr)
        assert one["behind"] == pytest.approx(place.behind)
        assert one["tied"] == place.tied
        assert one["average_bits"] <= 4.5
        assert one["within_limits"]
    assert found["proof"]["verdict"]


def test_another_finalist_than_the_predicted_best_can_win(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recipes by rule that break a limit are measured, but a limit is a limit: they take no place."""
    monkeypatch.setattr(Workspace, "keeping", lambda self, info, table, some, *_, **__: [False] * len(some))
    finalists = Workspace.finalists
    monkeypatch.setattr(
        Workspace, "finalists", lambda self, *args, **kept: finalists(self, *args, **kept)[::-1]
    )
    found = answer(call("recipe", "bundled", "--bits", 4.4, "--prove", 3, "--json"))
    recipes = found["proof"]["recipes"]
    assert [one["place"] for one in recipes] == [1, 2, 3, *[None] * (len(recipes) - 3)]
    assert len(recipes) > 3
    assert found["predicted_kl"] > recipes[2]["predicted"]["kl"], "the winner is not the predicted best"
    assert found["predicted_kl"] == recipes[0]["predicted"]["kl"]
    assert found["unused"] == ""
    assert [one["tied"] for one in recipes[3:]] == [None] * (len(recipes) - 3)


def test_a_proof_can_be_read_without_json(call: Call) -> None:
    code, out, err = call("recipe", "bundled", "--bits", 4.5, "--prove", 2)
    assert code == 0, err
    assert "measured on 4,096 tokens of text; KL in nats a token, ± 95 %" in out
    assert "1. predicted best" in out
    assert "measured best: predicted best. " in out
    assert "sampling error of the scores alone" in out
    assert "This is the text the scores were made on" in err, "both are made up, with one hash"


def test_a_calibration_is_kept_and_used_for_every_recipe(call: Call) -> None:
    more = ["--held-out-tokens", 512]
    before = answer(call("recipe", "bundled", "--bits", 4, *more, "--json"))["predicted"]
    assert before["calibrated"] is False
    assert before["low"] < before["kl"] < before["high"]
    found = answer(call("calibrate", "bundled", *more, "--json"))
    assert len(found["recipes"]) == 10
    assert found["tokens"] == 512
    for place, one in enumerate(found["recipes"]):
        assert one["measured_kl"] == pytest.approx(0.15 + 0.015 * place)
        assert one["calibrated"]["low"] < one["calibrated"]["kl"] < one["calibrated"]["high"]
    after = answer(call("recipe", "bundled", "--bits", 4, *more, "--json"))["predicted"]
    assert after["calibrated"] is True
    other = answer(call("recipe", "bundled", "--bits", 4, "--held-out-tokens", 256, "--json"))["predicted"]
    assert other["calibrated"] is False, "an interval speaks of the text that was measured"
    _, out, _ = call("calibrate", "bundled", *more)
    assert "common factor" in out
    assert "calibrated" in call("recipe", "bundled", "--bits", 4, *more)[1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("calibrate bundled --score weight", "predicts no KL"),
        ("recipe bundled --bits 4 --prove 0", "positive whole number"),
        ("recipe bundled --bits 4 --held-out-tokens few", "positive whole number"),
    ],
)
def test_wrong_usage_is_told(call: Call, arguments: str, complaint: str) -> None:
    code, out, err = call(*arguments.split())
    assert (code, out) == (2, "")
    assert complaint in err


def test_a_held_out_text_that_is_none_is_told_before_the_work(call: Call, tmp_path: Path) -> None:
    for command in (["calibrate", "nothing-there"], ["recipe", "nothing-there", "--bits", 4]):
        code, out, err = call(*command, "--held-out", tmp_path / "missing.txt")
        assert (code, out) == (1, "")
        assert "missing.txt' cannot be read" in err


# --- is what is served what was approved?

ASK = ("check", "http://127.0.0.1:8080", "--model", "bundled")


@pytest.fixture
def ask(home: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([*ASK, *map(str, arguments), "--home", str(home), "--jobs", "tests.fake_jobs:JOBS"])
        except SystemExit as leave:
            code = int(leave.code or 0)
        return code, *capsys.readouterr()

    return run


def test_the_exit_code_says_whether_it_is_what_was_approved(ask: Call, home: Path) -> None:
    code, out, _ = ask("--limit", 0.05)
    assert code == 0
    assert "Yes, within the limit." in out
    assert "KL to the approved: 0.02 nats/token, top-20 (95 % interval 0.01 to 0.03; limit 0.05)" in out
    code, out, _ = ask("--limit", 0.015)
    assert code == 3
    assert "Probably not: the mean is above the limit, its interval reaches below." in out
    code, _, err = ask("--served", "down")
    assert code == 1
    assert "Nothing answers." in err
    workspace = Workspace(home)
    kept = workspace.checks(INFO.fingerprint)
    limits = [run.request.limit for run in kept if isinstance(run.request, CheckRequest)]
    assert limits == [0.05, 0.015], "every check is kept, the oldest first"
    assert workspace.stored_run(kept[0].key).origin is not None
    workspace.close()


def test_a_check_as_json(ask: Call) -> None:
    code, out, _ = ask("--limit", 0.015, "--json")
    found = json.loads(out)
    assert code == 3
    assert (found["verdict"], found["endpoint"]) == ("likely changed", "http://127.0.0.1:8080/v1")
    assert found["approved"] == {"mean": 0.02, "stderr": 0.005, "low": 0.01, "high": 0.03}


def test_it_asks_again_and_again_though_the_server_is_down_once(
    ask: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is interrupted; here in its third pause."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        if seconds >= 60:
            pauses.append(seconds)
            if len(pauses) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr("quant_core.cli.checking.time.sleep", pause)
    code, _, err = ask("--every", "30m", "--served", "down")
    assert (code, pauses) == (130, [1800.0] * 3)
    assert err.count("Error: Nothing answers.") == 3


@pytest.mark.parametrize("wrong", [("--every", "soon"), ("--limit", "0"), ("--every", "0h")])
def test_wrong_times_and_limits_are_usage(ask: Call, wrong: tuple[str, str]) -> None:
    assert ask(*wrong)[0] == 2
