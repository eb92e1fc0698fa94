"""The store: what is kept, under which key, and what happens when its file is not what it should be."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quant_core import schema
from quant_core.errors import JobError, QuantError, RecipeError, TextError
from quant_core.schema import (
    CALIBRATION,
    Calibration,
    CatalogRequest,
    EvaluateRequest,
    GenerateRequest,
    Generation,
    InspectRequest,
    LayerRequest,
    ModelRef,
    Recipe,
    RecipeEntry,
    Request,
    SensitivityRequest,
    Setup,
    TextSource,
    TokenEvent,
    replace,
)
from quant_core.store import Store, database, default_home, keys
from quant_core.store.jobs import JobTable
from quant_core.store.keys import ASSETS, folder_signature, request_key
from quant_core.store.kinds import KINDS, kind_of, load_request, load_result, title_of
from tests import made_results

MODEL = ModelRef("bundled")
SWEEP = SensitivityRequest(MODEL, "f" * 24, ("int4/g64/asym",))
INLINE = TextSource("inline", "Some words.", "words.txt")
KEYS_OF_TWO = ["8f54d9f5e715563a3ada346e", "5cea527f5286c657f2adfa25"]
"""Written down before a request could have a further recipe."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "home")
    yield made
    made.close()


# --- keys


@pytest.mark.parametrize(
    "change",
    [
        {"formats": ("int8/g64/asym",)},
        {"fingerprint": "0" * 24},
        {"tokens": 64},
        {"sequence": 64},
        {"score": "measured"},
        {"embeddings": True},
        {"seed": 1},
        {"text": INLINE},
        {"model": replace(MODEL, dtype="bfloat16")},
    ],
)
def test_what_changes_the_answer_changes_the_key(change: dict[str, object]) -> None:
    assert request_key(replace(SWEEP, **change)) != request_key(SWEEP)


@pytest.mark.parametrize(
    "change",
    [
        {"model": replace(MODEL, device="cuda")},
        {"model": ModelRef("/a/copy/of/it", revision="main")},
        {"roots": ("/somewhere",)},
        {"text": replace(CALIBRATION, label="by another name")},
    ],
)
def test_how_and_where_it_runs_does_not_change_the_key(change: dict[str, object]) -> None:
    assert request_key(replace(SWEEP, **change)) == request_key(SWEEP)


def test_two_variants_keep_the_key_of_before_there_were_three() -> None:
    """What was stored before a comparison could have three sides is found again."""
    alone = GenerateRequest(MODEL, "f" * 24, "The cat", seed=3, setup=Setup(calibration=Calibration(INLINE)))
    pair = replace(alone, assignment={"a": "int4/g64/asym"})
    assert keys.METRIC_VERSION == 2, "a new version has new keys to write down"
    assert [request_key(alone), request_key(pair)] == KEYS_OF_TWO
    third = replace(pair, other={"a": "int2/g64/asym"})
    further = replace(third, other_setup=Setup(kv_cache="int8"))
    assert len({request_key(request) for request in (pair, third, further)}) == 3


def test_a_text_of_two_variants_is_still_read() -> None:
    stored = {"original": ["a"], "recipe": ["b"], "divergence": 0, "seed": 1, "seconds": 0.5}
    assert load_result("generate", stored) == Generation(("a",), ("b",), 0, 1, 0.5)
    asked = schema.dump(GenerateRequest(MODEL, "f" * 24, "The cat"))
    del asked["other"], asked["other_setup"]
    assert load_request("generate", asked) == GenerateRequest(MODEL, "f" * 24, "The cat")


def test_opening_a_model_is_keyed_by_all_there_is() -> None:
    request = InspectRequest(MODEL)
    changes: list[dict[str, object]] = [
        {"model": replace(MODEL, device="cuda")},
        {"model": ModelRef("other")},
        {"signature": "new"},
        {"roots": ("/somewhere",)},
    ]
    assert len({request_key(replace(request, **change)) for change in changes} | {request_key(request)}) == 5


def test_a_bundled_text_counts_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "TEXTS", tmp_path)
    with pytest.raises(TextError, match=r"calibration\.txt is missing"):
        request_key(SWEEP)
    (tmp_path / "calibration.txt").write_text("one")
    first = request_key(SWEEP)
    (tmp_path / "calibration.txt").write_text("another")
    assert request_key(SWEEP) != first
    inline = replace(SWEEP, text=INLINE)
    assert request_key(inline) == request_key(inline)


def test_the_version_of_the_metrics_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    first = request_key(SWEEP)
    monkeypatch.setattr(keys, "METRIC_VERSION", keys.METRIC_VERSION + 1)
    assert request_key(SWEEP) != first


def test_the_catalog_is_asked_for_again_after_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    first = request_key(CatalogRequest())
    assert request_key(CatalogRequest()) == first
    monkeypatch.setattr(keys, "code_version", lambda: "newer")
    assert request_key(CatalogRequest()) != first


def test_a_folders_signature_follows_its_files(tmp_path: Path) -> None:
    assert folder_signature("org/name") == folder_signature(str(tmp_path / "none")) == ""
    assert folder_signature("bundled") == folder_signature(str(ASSETS / "demo-model")) != ""
    (tmp_path / "config.json").write_text("{}")
    first = folder_signature(str(tmp_path))
    assert first == folder_signature(str(tmp_path))
    (tmp_path / "config.json").write_text("{ }")
    assert folder_signature(str(tmp_path)) != first


# --- kinds

_TEXTS = st.text(max_size=20)
_REFS = st.builds(ModelRef, _TEXTS, _TEXTS, st.sampled_from(["auto", "float32"]), st.just("cpu"))
_ASSIGNMENTS = st.dictionaries(_TEXTS, st.sampled_from(["int4/g64/asym", "nf4/g64"]), max_size=3)
_COUNTS = st.integers(0, 10**6)
REQUESTS: st.SearchStrategy[Request] = st.one_of(
    st.builds(InspectRequest, _REFS, st.tuples(_TEXTS), _TEXTS),
    st.builds(SensitivityRequest, _REFS, _TEXTS, st.tuples(_TEXTS), st.just(INLINE), _COUNTS),
    st.builds(LayerRequest, _REFS, _TEXTS, st.tuples(_TEXTS), st.tuples(_TEXTS, _TEXTS), _COUNTS),
    st.builds(EvaluateRequest, _REFS, _TEXTS, _ASSIGNMENTS, st.just(INLINE), _COUNTS),
    st.builds(
        GenerateRequest, _REFS, _TEXTS, _TEXTS, st.none() | _ASSIGNMENTS, _COUNTS, _COUNTS, st.floats(0, 2)
    ),
    st.just(CatalogRequest()),
)


@given(REQUESTS)
def test_a_request_survives_its_way_through_the_store(request: Request) -> None:
    kind = kind_of(request).name
    assert load_request(kind, schema.dump(request)) == request
    assert request_key(load_request(kind, schema.dump(request))) == request_key(request)
    assert title_of(request)


def test_every_kind_of_request_and_result_is_known() -> None:
    assert {kind.request for kind in KINDS.values()} == set(Request.__args__)
    assert {kind.result for kind in KINDS.values()} == set(schema.Result.__args__)


# --- jobs


def test_a_job_goes_from_queued_to_done(store: Store) -> None:
    job = store.jobs.add(SWEEP)
    assert (job.state, job.kind, job.title) == ("queued", "sensitivity", "Sensitivity of the bundled model")
    assert store.jobs.active() == [job]
    taken = store.jobs.take()
    assert taken is not None
    assert load_request(taken.job.kind, taken.request) == SWEEP
    store.jobs.report(job.id, 0.5, "half")
    assert (store.jobs.get(job.id).progress, store.jobs.get(job.id).message) == (0.5, "half")
    store.finish(job, SWEEP, made_results.table(made_results.model()))
    assert store.jobs.get(job.id).state == "done"
    assert store.jobs.active() == []
    assert store.jobs.take() is None


def test_a_result_and_the_end_of_its_job_are_stored_together(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = store.jobs.add(SWEEP)
    store.jobs.take()

    def fail(self: JobTable, job_id: str) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(JobTable, "finish", fail)
    with pytest.raises(RuntimeError, match="power cut"):
        store.finish(job, SWEEP, made_results.table(made_results.model()))
    assert store.results.get(job.key) is None
    assert store.jobs.get(job.id).state == "running"


def test_a_second_active_job_with_the_same_key_is_refused_by_the_file_itself(store: Store) -> None:
    store.jobs.add(SWEEP)
    with pytest.raises(sqlite3.IntegrityError):
        store.jobs.add(SWEEP)
    assert len(store.jobs.recent(10)) == 1


def test_an_ended_job_keeps_its_end(store: Store) -> None:
    job = store.jobs.add(SWEEP)
    store.jobs.fail(job.id, "It broke.", "Mend it.")
    store.jobs.cancel(job.id)
    store.jobs.finish(job.id)
    store.jobs.report(job.id, 0.9, "late")
    found = store.jobs.get(job.id)
    assert (found.state, found.error, found.hint, found.progress) == ("failed", "It broke.", "Mend it.", 0.0)


def test_old_jobs_and_their_events_are_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quant_core.store.jobs.KEPT_JOBS", 2)
    first = store.jobs.add(SWEEP)
    store.jobs.emit(first.id, 0, TokenEvent("original", 0, "a"))
    store.jobs.fail(first.id, "", "")
    for seed in range(1, 4):
        store.jobs.fail(store.jobs.add(replace(SWEEP, seed=seed)).id, "", "")
    assert len(store.jobs.recent(10)) == 2
    assert store.database.query("SELECT * FROM events") == []
    with pytest.raises(JobError, match="no job"):
        store.jobs.get(first.id)


# --- results and recipes


def test_a_result_comes_back_as_it_was(store: Store) -> None:
    table = made_results.table(made_results.model())
    assert store.results.get(request_key(SWEEP)) is None
    store.results.put(SWEEP, table)
    again = Store(store.home)
    found = again.results.get(request_key(SWEEP))
    assert found == table
    assert again.results.get(request_key(SWEEP)) is found, (
        "a page that is drawn again does not parse it again"
    )
    again.close()


def test_results_of_a_model_are_found_the_last_used_first(store: Store) -> None:
    info = made_results.model()
    tables = [replace(made_results.table(info), seed=seed) for seed in range(3)]
    for table in tables:
        store.results.put(replace(SWEEP, seed=table.seed), table)
    store.results.put(replace(SWEEP, fingerprint="0" * 24), tables[0])
    store.results.put(InspectRequest(MODEL), info)
    store.results.touch(request_key(replace(SWEEP, seed=1)))
    found = store.results.of_kind("sensitivity", "f" * 24)
    assert found == [tables[1], tables[2], tables[0]]
    assert store.results.of_kind("inspect") == [info]


def test_a_result_in_an_unknown_shape_counts_as_none(store: Store) -> None:
    store.results.put(SWEEP, made_results.table(made_results.model()))
    with store.database.transaction() as connection:
        connection.execute("""UPDATE results SET data = '{"from": "long ago"}'""")
    assert store.results.get(request_key(SWEEP)) is None
    assert store.results.of_kind("sensitivity") == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(
    st.dictionaries(
        _TEXTS, st.builds(RecipeEntry, _TEXTS, st.just({"bits": 4, "sym": True}), st.floats(2, 16))
    )
)
def test_a_saved_recipe_comes_back_by_its_content(store: Store, units: dict[str, RecipeEntry]) -> None:
    recipe = Recipe(
        1, "bundled", "", "f" * 24, units, 4.5, 9e6, 40e6, 0.01, None, "text", "0" * 24, 0, None, {}, None, {}
    )  # fmt: skip
    recipe_id = store.recipes.save(recipe)
    assert store.recipes.save(recipe) == recipe_id
    assert store.recipes.get(recipe_id) == recipe


def test_the_newest_recipes_of_a_model_come_first(store: Store) -> None:
    units = {"a.weight": RecipeEntry("int4/g64/asym", {"bits": 4}, 4.5)}
    mine = Recipe(
        1, "bundled", "", "f" * 24, units, 4.5, 9e6, 40e6, 0.01, None, "text", "0" * 24, 0, None, {}, None, {}
    )  # fmt: skip
    others = replace(mine, fingerprint="e" * 24)
    saved = [
        store.recipes.save(replace(mine, average_bits=bits, predicted_kl=None)) for bits in (3.0, 4.0, 5.0)
    ]
    store.recipes.save(others)
    newest = store.recipes.newest("f" * 24, 2)
    assert [(one.id, one.average_bits, one.predicted_kl) for one in newest] == [
        (saved[2], 5.0, None),
        (saved[1], 4.0, None),
    ]


def test_an_unknown_recipe_is_said_to_be_unknown(store: Store) -> None:
    with pytest.raises(RecipeError, match="no saved recipe 'abc'"):
        store.recipes.get("abc")


# --- the file


def test_the_file_is_in_write_ahead_mode_and_private(store: Store) -> None:
    assert store.database.query("PRAGMA journal_mode")[0][0] == "wal"
    assert store.database.query("PRAGMA synchronous")[0][0] == 1
    assert store.home.stat().st_mode & 0o077 == 0


def test_a_newer_file_is_refused_with_a_remedy(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.results.put(InspectRequest(MODEL), made_results.model())
    with store.database.transaction() as connection:
        connection.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(QuantError, match="newer QuantLens") as caught:
        Store(tmp_path)
    assert "QUANTLENS_HOME" in caught.value.hint


def test_an_older_file_is_upgraded_and_keeps_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    job = store.jobs.add(SWEEP)
    store.close()
    monkeypatch.setattr(database, "MIGRATIONS", (*database.MIGRATIONS, ("CREATE TABLE notes (text TEXT)",)))
    store = Store(tmp_path)
    assert store.jobs.get(job.id) == job
    assert store.database.query("SELECT * FROM notes") == []
    store.close()


@pytest.mark.parametrize(
    "content", [b"this is no database at all, " * 40, b"SQLite format 3\x00" + b"\xff" * 4096]
)
def test_a_damaged_file_is_told_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / database.FILE_NAME).write_bytes(content)
    with pytest.raises(QuantError, match="is damaged") as caught:
        Store(tmp_path)
    assert "Move the file away" in caught.value.hint
    assert (tmp_path / database.FILE_NAME).read_bytes() == content


def test_a_home_that_cannot_be_made_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(QuantError, match="cannot be used") as caught:
        Store(tmp_path / "file" / "home")
    assert "QUANTLENS_HOME" in caught.value.hint


def test_many_threads_open_and_write_one_new_file(tmp_path: Path) -> None:
    def write(seed: int) -> None:
        store = Store(tmp_path)
        for step in range(10):
            store.jobs.add(replace(SWEEP, seed=100 * seed + step))
        store.close()

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = Store(tmp_path)
    assert len(store.jobs.recent(100)) == 60
    store.close()


def test_home_is_chosen_by_the_environment_or_the_platform(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QUANTLENS_HOME", str(tmp_path))
    assert default_home() == tmp_path
    monkeypatch.delenv("QUANTLENS_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert default_home() == tmp_path / "quantlens"
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_home().parts[-3:] == ("Library", "Caches", "quantlens")


def test_a_process_is_known_by_number_and_start_time(store: Store) -> None:
    assert store.place.claim(os.getpid())
    occupant = store.place.occupant()
    assert occupant is not None
    assert occupant.alive
    assert not replace(occupant, born=occupant.born - 1000).alive, "the number was given to another process"
    assert not replace(occupant, pid=2**22 + 1).alive
    assert time.time() - occupant.born > 0
