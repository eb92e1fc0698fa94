"""A run worked out anew: figures compared by hand, and the way through a home of its own, with made job functions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_core.__main__ import main
from quant_core.errors import JobError, QuantError
from quant_core.reproduction import changes, compare, verdict
from quant_core.schema import (
    EvaluateRequest,
    ModelInfo,
    Proof,
    SensitivityRequest,
    Setup,
    TrainRequest,
    replace,
)
from quant_core.workspace import Workspace
from tests import fake_jobs, made_results, made_runs
from tests.served_pages import MEASURED, WRITTEN

FAKES = "tests.fake_jobs:JOBS"


@pytest.fixture
def info() -> ModelInfo:
    return made_results.model()


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = Workspace(tmp_path / "home", jobs=FAKES)
    yield made
    made._client.dismiss()
    made.close()


# --- figures


def test_the_same_figures_are_identical() -> None:
    pairs = compare(MEASURED, replace(MEASURED, seconds=99.0, notes=("other",)))
    assert verdict(pairs) == "identical"
    assert "seconds" not in [pair.name for pair in pairs]


def test_a_small_difference_is_close_and_a_large_one_is_not() -> None:
    close = compare(replace(MEASURED, kl_mean=0.1), replace(MEASURED, kl_mean=0.1005))
    (moved,) = [pair for pair in close if pair.agreement != "identical"]
    assert (moved.name, moved.stored, moved.now, moved.agreement) == ("kl_mean", "0.1", "0.1005", "close")
    assert moved.share == pytest.approx(0.0005 / 0.1005)
    assert verdict(compare(replace(MEASURED, kl_mean=0.1), replace(MEASURED, kl_mean=0.102))) == "different"
    assert verdict(compare(replace(MEASURED, kl_mean=0.1), replace(MEASURED, kl_mean=0.102), 0.05)) == "close"
    assert (
        verdict(compare(replace(MEASURED, kl_mean=0.1), replace(MEASURED, kl_mean=math.nan))) == "different"
    )
    other = compare(replace(MEASURED, kl_mean=math.nan), replace(MEASURED, kl_mean=math.nan))
    assert verdict(other) == "identical"


def test_entries_near_zero_count_as_a_thousandth_of_the_largest() -> None:
    def proof(small: float) -> Proof:
        return Proof("f", ((1.0, small),), 8, "0", "text", 1.0)

    (pair,) = [pair for pair in compare(proof(1e-6), proof(4e-6)) if pair.name == "kl"]
    assert pair.share == pytest.approx(3e-6 / 1e-3)
    assert pair.agreement == "close"
    assert pair.stored == "2 numbers, sum 1"


def test_words_have_to_be_the_same() -> None:
    (pair,) = [
        each for each in compare(WRITTEN, replace(WRITTEN, recipe=("x",))) if each.agreement == "different"
    ]
    assert (pair.name, pair.share) == ("recipe", None)


@given(st.floats(), st.floats())
def test_it_does_not_matter_which_is_stored(one: float, other: float) -> None:
    pairs = [
        compare(replace(MEASURED, kl_mean=a), replace(MEASURED, kl_mean=b))
        for a, b in ((one, other), (other, one))
    ]
    assert verdict(pairs[0]) == verdict(pairs[1])
    assert (verdict(pairs[0]) == "identical") == (one == other or (math.isnan(one) and math.isnan(other)))


def test_what_changed_is_said_line_by_line() -> None:
    now = replace(made_runs.ORIGIN, libraries={"python": "3.11", "torch": "3.0"}, threads=8)
    assert changes(made_runs.ORIGIN, now) == (
        "quantlens: 0.1.0 then, none now",
        "torch: 2.9.0 then, 3.0 now",
        "threads: 2 then, 8 now",
    )
    assert changes(made_runs.ORIGIN, made_runs.ORIGIN) == ()
    assert "not recorded" in changes(None, now)[0]


# --- the way


def test_a_run_is_worked_out_anew_and_the_verdict_kept(workspace: Workspace, info: ModelInfo) -> None:
    request = SensitivityRequest(info.ref, info.fingerprint, made_results.FORMATS)
    job = workspace.submit(request)
    workspace.wait(job)
    before = workspace.stored_run(job.key)
    (workspace.home / "loads").unlink()
    found = workspace.reproduce(job.key)
    assert found.agreement == "identical"
    assert found.changes == ()
    assert not (workspace.home / "loads").exists(), (
        "it was not answered here, nor worked out by this home's worker"
    )
    assert workspace.reproduction(job.key) == found
    assert workspace.stored_run(job.key) == before
    workspace.delete_run(job.key)
    assert workspace.reproduction(job.key) is None


def test_a_stored_figure_that_nobody_gets_again_fails(
    workspace: Workspace, info: ModelInfo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = EvaluateRequest(info.ref, info.fingerprint, made_runs.LOW, tokens=64)
    key = workspace.submit(request).key
    workspace._client.store.results.put(request, MEASURED, origin=made_runs.ORIGIN)
    file = tmp_path / "runs.zip"
    with file.open("wb") as target:
        workspace.export_runs([key], target)
    for run in (key[:8], str(file)):
        code = main(["reproduce", run, "--home", str(workspace.home), "--jobs", FAKES])
        said = capsys.readouterr().out
        assert code == 1
        assert f"Recipe evaluation {key[:8]}: different by more than 0.01" in said
        assert "Changed: hardware: A made CPU then" in said
    stored = workspace.reproduction(key)
    assert stored is not None
    assert stored.agreement == "different"


def test_what_cannot_be_worked_out_anew_is_said(workspace: Workspace, info: ModelInfo) -> None:
    results = workspace._client.store.results

    def stored(request: EvaluateRequest | TrainRequest) -> str:
        results.put(request, MEASURED)
        return next(
            line.key for line in workspace.runs() if workspace.stored_run(line.key).request == request
        )

    gone = replace(info.ref, source="/no/such/model")
    with pytest.raises(QuantError, match=r"The model of this run, model .* is not here any more"):
        workspace.reproduce(stored(EvaluateRequest(gone, info.fingerprint, made_runs.LOW)))
    trained = EvaluateRequest(info.ref, info.fingerprint, made_runs.LOW, setup=Setup(trained="a" * 24))
    with pytest.raises(QuantError, match="trained weights aaaaaaaa are not here any more"):
        workspace.reproduce(stored(trained))
    wrong = SensitivityRequest(info.ref, info.fingerprint, made_results.FORMATS, seed=fake_jobs.PLAIN)
    results.put(wrong, made_results.table(info))
    with pytest.raises(JobError, match="The text is too short"):
        workspace.reproduce(next(line.key for line in workspace.runs() if line.kind == "sensitivity"))
