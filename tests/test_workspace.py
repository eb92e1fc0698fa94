"""The facade: models, decisions and recipes without an engine; jobs through a real worker with jobs that need none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from quant_core import workspace as module
from quant_core.errors import (
    BudgetError,
    Cancelled,
    FormatError,
    JobError,
    ModelError,
    QuantError,
    RecipeError,
)
from quant_core.schema import ORIGINAL, Budget, InspectRequest, Job, ModelRef, SensitivityRequest, replace
from quant_core.workspace import Workspace, browser_roots
from tests import fake_jobs, made_results
from tests.workers import end_worker, until

INFO = made_results.model()
TABLE = made_results.table(INFO)
LINEAR = [unit.name for unit in INFO.units if unit.decided]
SWEEP = SensitivityRequest(INFO.ref, INFO.fingerprint, TABLE.formats)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = Workspace(tmp_path / "home", jobs="tests.fake_jobs:JOBS")
    yield made
    (made.home / fake_jobs.HOLD).unlink(missing_ok=True)
    end_worker(made.home)
    made.close()


# --- formats and models


def test_formats_are_parsed_with_the_catalogs_families(workspace: Workspace) -> None:
    assert {"int4", "nf4"} <= {family.name for family in workspace.catalog.families}
    assert workspace.parse_format("int4").name == "int4/g64/asym"
    assert workspace.parse_format("int4", 128).name == "int4/g128/asym"
    with pytest.raises(FormatError):
        workspace.parse_format("int99")


def test_a_missing_catalog_names_its_remedy(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CATALOG", tmp_path / "none.json")
    with pytest.raises(QuantError, match="cannot be read") as caught:
        _ = workspace.catalog
    assert "python -m quant_core catalog" in caught.value.hint


def test_a_folder_is_asked_for_by_its_full_path(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    requests = {
        workspace.inspect_request(ModelRef(source)) for source in ("model", "./model/", "link", str(folder))
    }
    assert [request.model.source for request in requests] == [str(folder.resolve())]
    (folder / "config.json").write_text("{}")
    assert workspace.inspect_request(ModelRef("model")) not in requests, "its files have changed"


@pytest.mark.parametrize("source", ["org/name", "none/such", "x" * 5000, "~nobody-has-this-name/model"])
def test_other_sources_are_asked_for_as_they_are(workspace: Workspace, source: str) -> None:
    assert workspace.inspect_request(ModelRef(source)) == InspectRequest(ModelRef(source))


def test_no_source_at_all_is_refused(workspace: Workspace) -> None:
    with pytest.raises(ModelError, match="No model is named"):
        workspace.inspect_request(ModelRef(" "))


def test_the_browser_opens_models_from_some_folders_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = tmp_path / "models", tmp_path / "elsewhere"
    monkeypatch.setenv("QUANTLENS_MODEL_ROOTS", str(inside))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    assert browser_roots() == (tmp_path, tmp_path / "hub", inside)
    workspace = Workspace(tmp_path / "home", [inside])
    assert workspace.inspect_request(ModelRef("bundled")).roots == (str(inside.resolve()),)
    sources = ["bundled", "org/name", str(inside / "a"), str(outside / "b"), str(inside / "gone")]
    for source in sources[2:4]:
        Path(source).mkdir(parents=True)
    for source in sources:
        ref = ModelRef(source)
        workspace._client.store.results.put(InspectRequest(ref), replace(INFO, ref=ref))
    assert [info.ref.source for info in workspace.recent()] == [str(inside / "a"), "org/name", "bundled"]
    (tmp_path / "hub" / "models--org--name").mkdir(parents=True)
    assert workspace.downloaded() == ["org/name"]
    workspace.close()


# --- jobs


def test_a_request_is_run_and_its_answer_is_found_again(workspace: Workspace) -> None:
    seen: list[Job] = []
    info = workspace.run(workspace.inspect_request(ModelRef("bundled")), seen.append)
    assert info.fingerprint == INFO.fingerprint
    assert seen[-1].state == "done"
    assert len(seen) == len(set(seen)), "called only when something changed"
    table = workspace.run(SWEEP)
    assert workspace.result(SWEEP) == table
    assert workspace.result(replace(SWEEP, seed=1)) is None
    assert workspace.tables(INFO.fingerprint) == [table]
    assert workspace.tables("another") == []
    assert workspace.recent() == [info]
    assert [job.kind for job in workspace.jobs()] == ["sensitivity", "inspect"]


def test_a_failed_job_raises_its_sentence(workspace: Workspace) -> None:
    with pytest.raises(JobError, match="The text is too short") as caught:
        workspace.run(replace(SWEEP, seed=fake_jobs.PLAIN))
    assert caught.value.hint == "Paste more."


def test_waiting_for_a_cancelled_job_raises(workspace: Workspace) -> None:
    (workspace.home / fake_jobs.HOLD).touch()
    job = workspace.submit(SWEEP)
    until(lambda: workspace.job(job.id).state == "running")
    canceller = threading.Thread(target=workspace.cancel, args=(job.id,))
    canceller.start()
    with pytest.raises(Cancelled):
        workspace.wait(job)
    canceller.join()
    (workspace.home / fake_jobs.HOLD).unlink()
    assert workspace.wait(workspace.retry(job.id)) == workspace.result(SWEEP)


# --- decisions


def test_a_budget_is_met_and_more_bits_mean_less_error(workspace: Workspace) -> None:
    small = workspace.solve(INFO, TABLE, Budget("bits", 3.5))
    large = workspace.solve(INFO, TABLE, Budget("bits", 6.0))
    assert small.average_bits <= 3.5 < large.average_bits <= 6.0
    assert small.predicted_kl > large.predicted_kl > 0
    assert set(small.assignment) == set(LINEAR)
    assert 0 < small.predicted_stderr < small.predicted_kl


def test_bytes_count_the_whole_model(workspace: Workspace) -> None:
    solution = workspace.solve(INFO, TABLE, Budget("bytes", 9e6))
    undecided = INFO.other_bits + sum(unit.parameters * unit.bits for unit in INFO.units if not unit.decided)
    decided = sum(unit.parameters for unit in INFO.units if unit.decided)
    assert solution.total_bytes <= 9e6
    assert solution.total_bytes == pytest.approx((solution.average_bits * decided + undecided) / 8)


def test_an_infeasible_budget_names_floor_and_ceiling(workspace: Workspace) -> None:
    with pytest.raises(BudgetError) as caught:
        workspace.solve(INFO, TABLE, Budget("bits", 1.0))
    points = workspace.front(INFO, TABLE)
    assert f"{points[0].average_bits:.3f}" == "2.281"
    assert "2.29 bits" in caught.value.message, "rounded up, so that the named budget can be met"
    assert "MB" in caught.value.hint


def test_pins_are_kept(workspace: Workspace) -> None:
    pins = {"*.q_proj.weight": "int8/g64/asym", LINEAR[0]: ORIGINAL}
    solution = workspace.solve(INFO, TABLE, Budget("bits", 5.0), pins, formats=["int3/g64/asym", "nf4/g64"])
    for name, form in solution.assignment.items():
        expected = {ORIGINAL} if name == LINEAR[0] else {"int3/g64/asym", "nf4/g64", ORIGINAL}
        assert form in ({"int8/g64/asym"} if "q_proj" in name and name != LINEAR[0] else expected)


def test_the_front_and_the_price_agree_with_the_solution(workspace: Workspace) -> None:
    points = workspace.front(INFO, TABLE)
    assert [point.average_bits for point in points] == sorted({point.average_bits for point in points})
    for point in points[:: len(points) // 5]:
        solution = workspace.solve(INFO, TABLE, Budget("bits", point.average_bits))
        assert solution.predicted_kl == pytest.approx(point.predicted_kl, rel=1e-9, abs=1e-15)
        priced = workspace.price(INFO, TABLE, solution.assignment)
        assert priced == solution


def test_the_original_costs_nothing_and_one_unit_costs_its_score(workspace: Workspace) -> None:
    nothing = workspace.price(INFO, TABLE, {})
    assert (nothing.predicted_kl, nothing.average_bits) == (0.0, 16.0)
    assert nothing.total_bytes == INFO.original_bits / 8
    one = workspace.price(INFO, TABLE, {LINEAR[3]: TABLE.formats[1]})
    assert one.predicted_kl == pytest.approx(TABLE.fisher[3][1], rel=1e-12)


# --- recipes


def test_a_recipe_goes_through_its_files_and_the_store(workspace: Workspace) -> None:
    budget = Budget("bits", 4.5)
    solution = workspace.solve(INFO, TABLE, budget)
    recipe = workspace.make_recipe(INFO, TABLE, solution, budget)
    assert recipe.assignment() == {
        unit: form for unit, form in solution.assignment.items() if form != ORIGINAL
    }
    assert set(recipe.units) == {unit.name for unit in INFO.units}
    assert workspace.recipe(workspace.save_recipe(recipe)) == recipe
    assert workspace.read_recipe(workspace.recipe_text(recipe, "json"), INFO) == recipe
    assert workspace.read_recipe(workspace.recipe_text(recipe, "yaml"), INFO) == recipe
    json.loads(workspace.recipe_text(recipe, "json"))


def test_another_models_recipe_is_refused(workspace: Workspace) -> None:
    recipe = workspace.make_recipe(INFO, TABLE, workspace.price(INFO, TABLE, {}))
    with pytest.raises(RecipeError):
        workspace.read_recipe(workspace.recipe_text(recipe, "json"), replace(INFO, fingerprint="0" * 24))
