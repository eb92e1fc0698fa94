"""The queue, the worker process and the client, with real processes and jobs that need no engine."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from quant_core.evaluation.recommend import SCORED
from quant_core.jobs import client as client_module
from quant_core.jobs.client import Client
from quant_core.jobs.process import LOG_NAME, start_worker
from quant_core.schema import (
    Budget,
    CatalogRequest,
    EvaluateRequest,
    GenerateRequest,
    InspectRequest,
    Job,
    LayerRequest,
    ModelRef,
    Recommendation,
    RecommendRequest,
    SensitivityRequest,
    Terms,
    replace,
)
from tests import fake_jobs
from tests.workers import end_worker, until, worker_pid

ROOT = Path(__file__).resolve().parents[1]
FAKES = "tests.fake_jobs:JOBS"
MODEL = ModelRef("bundled")
MARK = "f" * 24


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    made = Client(tmp_path, FAKES)
    yield made
    (tmp_path / fake_jobs.HOLD).unlink(missing_ok=True)
    end_worker(tmp_path)
    made.close()


def sweep(seed: int = 0) -> SensitivityRequest:
    return SensitivityRequest(MODEL, MARK, ("int4/g64/asym",), seed=seed)


def hold(client: Client, going: bool = True) -> None:
    file = client.home / fake_jobs.HOLD
    if going:
        file.touch()
    else:
        file.unlink(missing_ok=True)


def ended(client: Client, job: Job) -> Job:
    until(lambda: not client.job(job.id).active, f"the end of {job.title!r}")
    return client.job(job.id)


def running(client: Client, job: Job) -> Job:
    until(lambda: client.job(job.id).progress >= 0.25, f"the start of {job.title!r}")
    assert client.job(job.id).state == "running"
    return client.job(job.id)


def test_a_job_runs_in_another_process_and_its_result_is_stored(client: Client) -> None:
    job = client.submit(sweep())
    assert job.state == "queued"
    assert client.result(sweep()) is None
    job = ended(client, job)
    assert (job.state, job.progress, job.error) == ("done", 1.0, "")
    assert job.created <= job.started <= job.finished
    assert client.result(sweep()) is not None
    run = client.store.runs.get(job.key)
    assert run.request == sweep()
    assert run.origin is not None
    assert "torch" in run.origin.libraries
    assert run.origin.device == "cpu"


def test_a_known_result_is_a_done_job_at_once(client: Client) -> None:
    job = ended(client, client.submit(sweep()))
    assert client.submit(sweep()).id == job.id
    assert client.submit(sweep()).state == "done"
    assert client.submit(sweep(seed=1)).id != job.id


def test_the_same_request_is_one_job_while_it_is_active(client: Client) -> None:
    hold(client)
    job = running(client, client.submit(sweep()))
    assert client.submit(sweep()).id == job.id
    assert len(client.jobs()) == 1


def test_a_queued_job_is_cancelled_at_once_and_never_starts(client: Client) -> None:
    hold(client)
    first = running(client, client.submit(sweep()))
    second = client.submit(sweep(seed=1))
    client.cancel(second.id)
    assert client.job(second.id).state == "cancelled"
    hold(client, False)
    assert ended(client, first).state == "done"
    assert client.job(second.id).started == 0
    assert client.result(sweep(seed=1)) is None


def test_a_running_job_is_cancelled_and_can_be_asked_for_again(client: Client) -> None:
    hold(client)
    first = running(client, client.submit(sweep()))
    client.cancel(first.id)
    again = client.submit(sweep())
    assert again.id != first.id, "a job that is about to stop must not stand for a new request"
    assert ended(client, first).state == "cancelled"
    hold(client, False)
    assert ended(client, again).state == "done"
    client.cancel(again.id)
    assert client.job(again.id).state == "done"


@pytest.mark.parametrize(
    ("seed", "error", "hint"),
    [
        (fake_jobs.PLAIN, "The text is too short.", "Paste more."),
        (fake_jobs.DEFECT, "Unexpected error: ZeroDivisionError: oh dear", LOG_NAME),
        (fake_jobs.NO_MEMORY, "There was not enough memory for this job.", "press Retry"),
    ],
)
def test_a_failure_is_told_in_a_sentence_and_the_worker_goes_on(
    client: Client, seed: int, error: str, hint: str
) -> None:
    job = ended(client, client.submit(sweep(seed)))
    assert (job.state, job.error) == ("failed", error)
    assert hint in job.hint
    assert ("Traceback" in (client.home / LOG_NAME).read_text()) == (seed != fake_jobs.PLAIN)
    pid = worker_pid(client.home)
    assert ended(client, client.submit(sweep(0))).state == "done"
    assert worker_pid(client.home) == pid


def test_interactive_jobs_are_served_in_the_middle_of_a_sweep(client: Client) -> None:
    hold(client)
    long = running(client, client.submit(sweep()))
    waits = client.submit(EvaluateRequest(MODEL, MARK, {}))
    quick = ended(client, client.submit(GenerateRequest(MODEL, MARK, "Once ")))
    assert quick.state == "done"
    assert [event.text for event in client.events(quick.id)] == ["Once 0 ", "Once 1 ", "Once 2 "]
    assert [event.index for event in client.events(quick.id, after=1)] == [2]
    failing = ended(client, client.submit(LayerRequest(MODEL, MARK, ("none",), ("int4/g64/asym",))))
    assert (failing.state, failing.error) == ("failed", "There is no weight 'none'.")
    assert ended(client, client.submit(CatalogRequest())).state == "done"
    assert client.job(long.id).state == "running"
    assert client.job(waits.id).state == "queued"
    hold(client, False)
    assert ended(client, long).state == "done"
    assert ended(client, waits).state == "done"
    assert (client.home / "loads").read_text().splitlines() == ["bundled"], "the model stays in memory"


def test_an_interactive_job_for_another_model_waits_and_says_so(client: Client) -> None:
    hold(client)
    long = running(client, client.submit(sweep()))
    other = client.submit(InspectRequest(ModelRef("org/other")))
    until(lambda: client.job(other.id).message != "", "a message")
    assert client.job(other.id).message == "Waiting: a long job on another model is running."
    assert client.job(other.id).state == "queued"
    hold(client, False)
    assert ended(client, other).state == "done"
    assert client.job(long.id).finished <= client.job(other.id).started
    assert client.job(other.id).message == ""


def test_interactive_jobs_go_first_then_the_oldest(client: Client) -> None:
    hold(client)
    running(client, client.submit(sweep()))
    second, third = client.submit(sweep(1)), client.submit(sweep(2))
    other = client.submit(InspectRequest(ModelRef("org/other")))
    hold(client, False)
    starts = [ended(client, job).started for job in (other, second, third)]
    assert starts == sorted(starts)


def test_the_parts_of_a_chain_are_stored_and_it_goes_on_behind_them(client: Client) -> None:
    """Stopped between two tasks of its first part it begins anew; stored parts are answers for all who ask."""
    forms = ("int4/g64/asym",)
    request = RecommendRequest(MODEL, MARK, Budget("bits", 4.0), forms, Terms())
    hold(client)
    job = client.submit(request)
    until(lambda: client.job(job.id).message == "half is done")
    assert client.job(job.id).progress == pytest.approx(SCORED / 2), "its share of the whole"
    client.cancel(job.id)
    assert ended(client, job).state == "cancelled"
    assert client.result(request.sweep) is None
    hold(client, False)
    assert ended(client, client.submit(request)).state == "done"
    found = client.result(request)
    assert isinstance(found, Recommendation)
    assert client.submit(request.sweep).state == "done"
    again = replace(request, budget=Budget("bits", 5.0))
    hold(client)
    assert ended(client, client.submit(again)).state == "done", "a sweep would have been held"


def test_a_model_whose_content_changed_is_refused(client: Client) -> None:
    job = ended(client, client.submit(EvaluateRequest(MODEL, "0" * 24, {})))
    assert (job.state, job.error) == ("failed", "A made model has changed since it was opened.")


def test_a_killed_worker_leaves_a_failed_job_that_can_be_retried(client: Client) -> None:
    hold(client)
    job = running(client, client.submit(sweep()))
    waiting = client.submit(sweep(1))
    killed = end_worker(client.home, signal.SIGKILL)
    job = client.job(job.id)
    assert (job.state, job.error) == ("failed", "The worker process ended while this job ran.")
    assert job.hint == "Start it again."
    hold(client, False)
    assert ended(client, waiting).state == "done", "a queued job gets a new worker"
    assert ended(client, client.retry(job.id)).state == "done"
    assert worker_pid(client.home) not in (0, killed)


def test_a_job_that_ends_its_own_process_can_be_retried(client: Client) -> None:
    job = ended(client, client.submit(sweep(fake_jobs.DEATH)))
    assert (job.state, job.error) == ("failed", "The worker process ended while this job ran.")
    again = client.retry(job.id)
    assert again.id != job.id
    assert ended(client, again).state == "done"


def test_a_terminated_worker_ends_its_job_cleanly(client: Client) -> None:
    hold(client)
    job = running(client, client.submit(sweep()))
    end_worker(client.home)
    job = client.job(job.id)
    assert (job.state, job.error) == ("failed", "The worker was stopped while this job ran.")


def test_a_job_outlives_the_process_that_asked_for_it(client: Client) -> None:
    hold(client)
    asks = (
        "from pathlib import Path\n"
        "from quant_core.jobs.client import Client\n"
        "from tests.test_jobs import FAKES, sweep\n"
        f"print(Client(Path({str(client.home)!r}), FAKES).submit(sweep()).id)\n"
    )
    asked = subprocess.run([sys.executable, "-c", asks], cwd=ROOT, capture_output=True, text=True, check=True)
    job = running(client, client.job(asked.stdout.strip()))
    assert client.jobs() == [client.job(job.id)]
    hold(client, False)
    assert ended(client, job).state == "done"


def test_two_clients_that_race_start_one_worker(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def start(home: Path, jobs: str) -> int:
        started.append(start_worker(home, jobs))
        return started[-1]

    monkeypatch.setattr(client_module, "start_worker", start)
    barrier = threading.Barrier(4)
    jobs: list[Job] = []

    def ask(seed: int) -> None:
        other = Client(client.home, FAKES)
        barrier.wait()
        jobs.append(other.submit(sweep(seed)))
        other.close()

    threads = [threading.Thread(target=ask, args=(seed // 2,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {ended(client, job).state for job in jobs} == {"done"}
    assert len({job.id for job in jobs}) == 2, "two requests, each asked twice"
    assert len(started) == 1


def test_a_second_worker_leaves_the_place_to_the_first(client: Client) -> None:
    ended(client, client.submit(sweep()))
    pid = worker_pid(client.home)
    command = [sys.executable, "-m", "quant_core.jobs.worker", "--home", str(client.home), "--jobs", FAKES]
    assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == 0
    assert worker_pid(client.home) == pid


def test_an_idle_worker_ends_and_the_next_request_starts_another(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANTLENS_WORKER_IDLE", "0.1")
    ended(client, client.submit(sweep()))
    until(lambda: client.store.place.occupant() is None, "the end of the idle worker")
    assert ended(client, client.submit(sweep(1))).state == "done"


def test_a_worker_of_an_older_program_makes_room(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    hold(client)
    job = running(client, client.submit(sweep()))
    old = worker_pid(client.home)
    monkeypatch.setattr(client_module, "code_version", lambda: "newer")
    after = client.submit(sweep(1))
    monkeypatch.undo()
    hold(client, False)
    assert ended(client, job).state == "done"
    assert ended(client, after).state == "done"
    assert worker_pid(client.home) != old


def test_a_worker_that_cannot_start_fails_its_jobs_and_names_the_log(tmp_path: Path) -> None:
    client = Client(tmp_path, "no_such_module:JOBS")
    job = ended(client, client.submit(sweep()))
    assert (job.state, job.error) == ("failed", "The worker process could not start.")
    assert LOG_NAME in job.hint
    assert "no_such_module" in (tmp_path / LOG_NAME).read_text()
    client.close()
