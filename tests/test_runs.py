"""Runs in the store: what is recorded beside an answer, notes, deletion, and files that may be hostile."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quant_core import schema
from quant_core.__main__ import main
from quant_core.errors import QuantError
from quant_core.jobs.origin import origin_now
from quant_core.schema import ModelInfo, RescoreRequest, ScoreTable, SensitivityRequest, replace
from quant_core.store import Store, database, exchange
from quant_core.store.keys import request_key
from quant_core.store.votes import Vote
from quant_core.workspace import Workspace
from tests import made_results, made_runs
from tests.served_pages import MEASURED


@pytest.fixture
def model() -> ModelInfo:
    return made_results.model(2)


@pytest.fixture
def keys(tmp_path: Path, model: ModelInfo) -> dict[str, str]:
    return made_runs.fill(tmp_path / "home", model)


@pytest.fixture
def full(tmp_path: Path, keys: dict[str, str]) -> Iterator[Workspace]:
    made = Workspace(tmp_path / "home")
    yield made
    made.close()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Workspace]:
    made = Workspace(tmp_path / "other")
    yield made
    made.close()


def exported(workspace: Workspace, *keys: str) -> bytes:
    file = io.BytesIO()
    workspace.export_runs(keys, file)
    return file.getvalue()


def arrays(workspace: Workspace) -> set[str]:
    return {path.name for path in (workspace.home / "arrays").glob("*")}


# --- looking


def test_a_run_is_found_with_all_that_it_comes_from(
    full: Workspace, keys: dict[str, str], model: ModelInfo
) -> None:
    run = full.stored_run(keys["low"])
    assert run.request == made_runs.requests(model)["low"]
    assert run.origin == made_runs.ORIGIN
    assert run.result == MEASURED
    with pytest.raises(QuantError, match="no run 'ff'"):
        full.stored_run("ff")


def test_the_list_tells_each_run_in_one_number_with_its_unit(full: Workspace, keys: dict[str, str]) -> None:
    lines = {line.key: line for line in full.runs()}
    shown = {name: (lines[key].title, lines[key].finding) for name, key in keys.items()}
    largest = max(map(max, made_results.table(made_results.model(2)).fisher))
    assert shown["scores"] == ("Scores", schema.Finding("largest KL of a layer", largest, "nats/token"))
    assert shown["measured"][0] == "Measured sweep"
    assert shown["low"] == ("Recipe evaluation", schema.Finding("measured KL", 0.0344, "nats/token"))
    assert shown["proof"] == ("Proof", schema.Finding("least measured KL", (0.1 + 0.2) / 2, "nats/token"))
    assert shown["text"] == ("Generation", schema.Finding("same from the start", 1, "tokens"))
    assert shown["training"] == ("Training", schema.Finding("held-out KL after", 0.04, "nats/token"))
    assert [line.key for line in full.runs()] == list(reversed(keys.values())), "the newest first"
    assert lines[keys["low"]].seconds == 14.0
    assert lines[keys["low"]].model == "the bundled model"


def test_what_is_looked_at_in_passing_is_no_run(empty: Workspace, model: ModelInfo) -> None:
    store = Store(empty.home)
    store.results.put(schema.InspectRequest(model.ref), model)
    layer = schema.LayerRequest(model.ref, model.fingerprint, (made_runs.UNIT,), ("int4/g64/asym",))
    store.results.put(layer, made_results.layer_view())
    store.close()
    assert empty.runs() == []


def test_an_older_file_keeps_its_results_and_takes_what_was_asked_from_its_jobs(
    tmp_path: Path, model: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests were kept with jobs alone, and jobs are forgotten."""
    known, forgotten = (made_runs.requests(model)[name] for name in ("low", "high"))
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", database.MIGRATIONS[:1])
        old = Store(tmp_path)
        for request in (known, forgotten):
            with old.database.transaction() as connection:
                connection.execute(
                    "INSERT INTO results VALUES (?, 'evaluate', ?, ?, 1, 1)",
                    (request_key(request), model.fingerprint, json.dumps(schema.dump(MEASURED))),
                )
        old.jobs.add(known, "done")
        old.close()
    store = Store(tmp_path)
    assert store.runs.get(request_key(known)).request == known
    assert store.runs.get(request_key(forgotten)).request is None
    assert store.runs.get(request_key(known)).origin is None
    assert {line.model for line in store.runs.lines()} == {"the bundled model", "model ffffffff"}
    store.runs.set_note(request_key(forgotten), "old")
    assert store.runs.get(request_key(forgotten)).note == "old"
    store.close()
    workspace = Workspace(tmp_path)
    with pytest.raises(QuantError, match="did not record what it was asked"):
        exported(workspace, request_key(forgotten))
    workspace.close()


def test_the_running_process_tells_what_it_is() -> None:
    origin = origin_now("cpu")
    assert {"python", "quantlens", "torch", "transformers"} <= set(origin.libraries)
    assert origin.device == "cpu"
    assert origin.threads >= 1
    assert origin.system


# --- notes


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(st.text(max_size=2000))
def test_a_note_comes_back_as_it_was_written(full: Workspace, keys: dict[str, str], note: str) -> None:
    note = note.encode("utf-8", "replace").decode()
    full.set_note(keys["low"], note)
    assert full.stored_run(keys["low"]).note == note
    assert [line.note for line in full.runs() if line.key == keys["low"]] == [note]


def test_a_note_outlives_a_new_answer_and_has_an_end(
    full: Workspace, keys: dict[str, str], model: ModelInfo
) -> None:
    full.set_note(keys["low"], "mine")
    store = Store(full.home)
    store.results.put(made_runs.requests(model)["low"], MEASURED)
    store.close()
    assert full.stored_run(keys["low"]).note == "mine"
    with pytest.raises(QuantError, match="2,001 characters"):
        full.set_note(keys["low"], "x" * 2001)


# --- deletion


def test_a_run_goes_with_what_is_its_alone(full: Workspace, keys: dict[str, str], model: ModelInfo) -> None:
    request = made_runs.requests(model)["scores"]
    sweep = full.stored_run(keys["scores"]).result
    assert isinstance(request, SensitivityRequest)
    assert isinstance(sweep, ScoreTable)
    store = Store(full.home)
    more = RescoreRequest(model.ref, model.fingerprint, sweep.state, ("int5/g64/asym",))
    store.results.put(more, replace(sweep, formats=("int5/g64/asym",)))
    job = store.jobs.add(request, "done")
    half = full.home / "arrays" / f"fisher-{keys['scores']}.safetensors"
    half.write_bytes(b"half")
    before = arrays(full)
    going = full.belongings(keys["scores"])
    assert going.files == (f"state-{sweep.state}.safetensors", half.name)
    assert going.bytes == sum((full.home / "arrays" / name).stat().st_size for name in going.files)
    assert going.added == 1
    full.delete_run(keys["scores"])
    assert arrays(full) == before - set(going.files)
    assert store.results.get(request_key(more)) is None
    assert job.id not in {each.id for each in store.jobs.recent(9)}
    assert keys["scores"] not in {line.key for line in full.runs()}
    assert len(full.runs()) == len(keys) - 1
    store.close()


def test_a_state_that_two_sweeps_share_stays_with_the_other(
    full: Workspace, keys: dict[str, str], model: ModelInfo
) -> None:
    sweep = full.stored_run(keys["scores"]).result
    assert isinstance(sweep, ScoreTable)
    request = made_runs.requests(model)["scores"]
    store = Store(full.home)
    store.results.put(replace(request, tokens=1), sweep)
    store.close()
    assert full.belongings(keys["scores"]).files == ()
    full.delete_run(keys["scores"])
    assert f"state-{sweep.state}.safetensors" in arrays(full)


# --- out and in


def test_runs_come_back_as_they_were_with_models_and_arrays(
    full: Workspace, empty: Workspace, keys: dict[str, str], model: ModelInfo
) -> None:
    store = Store(full.home)
    where = replace(model.ref, source="/srv/someone/secret/model")
    store.results.put(schema.InspectRequest(where), replace(model, ref=where))
    store.close()
    full.set_note(keys["low"], "*mine*")
    full.vote(keys["vote"], "ann", 0, 1)
    full.vote(keys["vote"], "ann", 0, -1)
    full.vote(keys["vote"], "bob", 2, 0)
    file = exported(full, *keys.values())
    assert b"someone" not in b"".join(
        zipfile.ZipFile(io.BytesIO(file)).read(name) for name in zipfile.ZipFile(io.BytesIO(file)).namelist()
    )
    found = empty.import_runs(io.BytesIO(file))
    assert sorted(found.keys) == sorted(keys.values())
    assert len(found.added) == len(keys)
    assert found.votes == 2
    assert empty.votes(keys["vote"]) == full.votes(keys["vote"]) == [Vote("ann", 0, -1), Vote("bob", 2, 0)]
    assert arrays(empty) == arrays(full)
    assert empty.runs() == full.runs()
    for key in keys.values():
        there, here = full.stored_run(key), empty.stored_run(key)
        assert replace(here, request=None) == replace(there, request=None)
    described = empty.known_model(model.fingerprint)
    assert described is not None
    assert described.units == model.units
    assert described.ref.source == "model"
    assert empty.recent() == [], "a description opens no model"


def test_importing_what_is_here_changes_nothing(full: Workspace, keys: dict[str, str]) -> None:
    file = exported(full, *keys.values())
    full.set_note(keys["low"], "newer than the file")
    before = [full.stored_run(key) for key in keys.values()]
    found = full.import_runs(io.BytesIO(file))
    assert found.added == ()
    assert [full.stored_run(key) for key in keys.values()] == before


def test_votes_of_two_classes_come_together_and_none_counts_twice(
    full: Workspace, empty: Workspace, keys: dict[str, str]
) -> None:
    full.vote(keys["vote"], "ann", 0, 1)
    full.vote(keys["vote"], "ann", 1, 1)
    file = exported(full, keys["vote"])
    empty.import_runs(io.BytesIO(file))
    empty.vote(keys["vote"], "ann", 1, 0)
    empty.vote(keys["vote"], "bob", 0, 0)
    assert empty.import_runs(io.BytesIO(file)).votes == 0
    assert empty.votes(keys["vote"]) == [Vote("ann", 0, 1), Vote("ann", 1, 0), Vote("bob", 0, 0)]
    assert full.import_runs(io.BytesIO(exported(empty, keys["vote"]))).votes == 1
    assert full.votes(keys["vote"]) == [Vote("ann", 0, 1), Vote("ann", 1, 1), Vote("bob", 0, 0)]


@pytest.mark.parametrize(
    "votes",
    [[("ann", 3, 1)], [("ann", -1, 1)], [("ann", 0, 2)], [("ann", 0, 1), ("ann", 0, 0)], [("<b>", 0, 1)]],
)  # fmt: skip
def test_votes_that_nobody_can_give_are_refused(
    full: Workspace, empty: Workspace, keys: dict[str, str], votes: list[tuple[str, int, int]]
) -> None:
    given = [dict(zip(("voter", "prompt", "choice"), vote, strict=True)) for vote in votes]
    file = repacked(exported(full, keys["vote"]), _run_entry(lambda data: data.update(votes=given)))
    with pytest.raises(QuantError, match=r"votes on run|did not write"):
        empty.import_runs(io.BytesIO(file))
    assert empty.runs() == []


def test_a_file_from_before_there_were_votes_is_read(
    full: Workspace, empty: Workspace, keys: dict[str, str]
) -> None:
    file = repacked(exported(full, keys["vote"]), _run_entry(lambda data: data.pop("votes")), version=1)
    assert len(empty.import_runs(io.BytesIO(file)).added) == 1


def repacked(file: bytes, change: Callable[[dict[str, bytes]], None], **names: Any) -> bytes:
    """The file with changed entries and a list that fits them again."""
    archive = zipfile.ZipFile(io.BytesIO(file))
    entries = {name: archive.read(name) for name in archive.namelist()}
    listed = json.loads(entries.pop("quantlens.json"))
    change(entries)
    listed["entries"] = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in entries.items()
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as target:
        for name, data in {**entries, "quantlens.json": json.dumps(listed | names).encode()}.items():
            target.writestr(name, data)
    return made.getvalue()


def _run_entry(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], None]:
    def changed(entries: dict[str, bytes]) -> None:
        name = next(name for name in entries if name.startswith("runs/"))
        data = json.loads(entries[name])
        change(data)
        entries[name] = json.dumps(data).encode()

    return changed


def _array(change: Callable[[bytes], bytes]) -> Callable[[dict[str, bytes]], None]:
    def changed(entries: dict[str, bytes]) -> None:
        name = next(name for name in entries if name.startswith("arrays/"))
        entries[name] = change(entries[name])

    return changed


HOSTILE: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "absolute path": (lambda entries: entries.update({"/etc/passwd": b"x"}), "which no export has"),
    "path upwards": (lambda entries: entries.update({"arrays/../../x.safetensors": b"x"}), "which no export has"),
    "foreign file": (lambda entries: entries.update({"runs/x.pkl": b"x"}), "which no export has"),
    "array of no run": (
        lambda entries: entries.update({f"arrays/state-{'0' * 24}.safetensors": b"x"}), "belongs to no run"),
    "no run": (lambda entries: entries.clear(), "holds no run"),
    "no JSON": (lambda entries: entries.update({f"models/{'0' * 24}.json": b"{"}), "did not write"),
    "deep JSON": (lambda entries: entries.update({f"models/{'0' * 24}.json": b"[" * 200_000}), "did not write"),
    "model of another name": (
        lambda entries: entries.update(
            {f"models/{'0' * 24}.json": json.dumps(schema.dump(made_results.model(1))).encode()}
        ), "is of another model"),
    "unknown field": (_run_entry(lambda data: data.update(more=1)), "did not write"),
    "result in another shape": (_run_entry(lambda data: data["result"].pop("seconds")), "did not write"),
    "unknown kind": (_run_entry(lambda data: data.update(kind="inspect")), "unknown kind"),
    "endless note": (_run_entry(lambda data: data.update(note="x" * 2001)), "a note or a date"),
    "another's answer": (_run_entry(lambda data: data["request"].update(seed=9)), "does not answer the request"),
    "a row too few": (_run_entry(lambda data: data["result"]["fisher"].pop()), "does not fit what was asked"),
    "another model's": (_run_entry(lambda data: data["result"].update(fingerprint="0" * 24)), "does not fit"),
    "a picture from elsewhere": (
        _run_entry(lambda data: data["result"].update(notes=["![x](http://x.test)"])),
        "a link in its words",
    ),
    "array of other content": (_array(lambda data: data[:-1] + b"\x01"), "was changed after"),
    "array without a head": (_array(lambda _: b"\xff" * 64), "did not write"),
    "array that is cut": (_array(lambda data: data[:-4]), "did not write"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_a_sentence_and_leaves_nothing(
    full: Workspace, empty: Workspace, keys: dict[str, str], name: str
) -> None:
    change, complaint = HOSTILE[name]
    with pytest.raises(QuantError, match=complaint) as caught:
        empty.import_runs(io.BytesIO(repacked(exported(full, keys["scores"]), change)))
    assert caught.value.hint
    assert empty.runs() == []
    assert arrays(empty) == set()
    assert sorted(path.name for path in empty.home.parent.iterdir()) == ["home", "other"]


def test_a_file_that_is_damaged_or_of_another_kind_is_refused(
    full: Workspace, empty: Workspace, keys: dict[str, str]
) -> None:
    file = exported(full, keys["low"])
    none = io.BytesIO()
    with zipfile.ZipFile(none, "w"):
        pass
    flipped = bytearray(file)
    flipped[file.index(b"runs/") + 60] ^= 0xFF
    for bad, complaint in (
        (b"", "no zip file"), (b"PK no zip", "no zip file"), (file[: len(file) // 2], "no zip file"),
        (bytes(flipped), "no zip file"), (none.getvalue(), "no quantlens.json"),
        (repacked(file, lambda entries: None, version="2"), "another version"),
        (repacked(file, lambda entries: None, entries={}), "does not match what it holds"),
    ):  # fmt: skip
        with pytest.raises(QuantError, match=complaint):
            empty.import_runs(io.BytesIO(bad))
    assert empty.runs() == []


def test_a_format_that_nobody_knows_is_refused(full: Workspace, empty: Workspace, model: ModelInfo) -> None:
    request = schema.EvaluateRequest(model.ref, model.fingerprint, {made_runs.UNIT: "int99/g64/asym"})
    store = Store(full.home)
    store.results.put(request, MEASURED)
    store.close()
    with pytest.raises(QuantError, match="'int99/g64/asym', which is no number format here"):
        empty.import_runs(io.BytesIO(exported(full, request_key(request))))


def test_sizes_and_digests_are_checked_against_the_list(
    full: Workspace, empty: Workspace, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = exported(full, keys["low"])
    archive = zipfile.ZipFile(io.BytesIO(file))
    name = f"runs/{keys['low']}.json"
    size = archive.getinfo(name).file_size
    for entry, complaint in (
        ({"bytes": size, "sha256": "0" * 64}, "its digest is another"),
        ({"bytes": size + 1, "sha256": "0" * 64}, "another size"),
    ):
        listed = json.loads(archive.read("quantlens.json"))["entries"] | {name: entry}
        with pytest.raises(QuantError, match=complaint):
            empty.import_runs(io.BytesIO(repacked(file, lambda entries: None, entries=listed)))
    monkeypatch.setattr(exchange, "MOST_JSON", size - 1)
    with pytest.raises(QuantError, match="larger than any run"):
        empty.import_runs(io.BytesIO(file))


def test_a_failure_while_storing_stores_nothing(
    full: Workspace, empty: Workspace, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = exported(full, keys["scores"], keys["low"])

    def fail(*_: object) -> None:
        raise QuantError("The disk is full.", "")

    monkeypatch.setattr("quant_core.store.runs.RunTable.put_model", fail)
    monkeypatch.setattr("quant_core.store.runs.RunTable.set_note", fail)
    with pytest.raises(QuantError, match="disk is full"):
        empty.import_runs(io.BytesIO(file))
    assert empty.runs() == []
    assert arrays(empty) == set()


# --- on the command line


def test_runs_are_listed_handed_on_and_brought_in_from_the_command_line(
    full: Workspace,
    empty: Workspace,
    keys: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    full.set_note(keys["low"], "mine")
    file = tmp_path / "runs.zip"

    def call(*arguments: object, home: Path = full.home) -> tuple[int, str, str]:
        code = main([*map(str, arguments), "--home", str(home)])
        return code, *capsys.readouterr()

    code, out, _ = call("runs")
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith(keys["low"][:8]))
    assert "Recipe evaluation  the bundled model" in line
    assert "measured KL 0.0344 nats/token  mine" in line
    assert len(json.loads(call("runs", "--json")[1])["runs"]) == len(keys)
    assert call("runs", "export", keys["low"][:9], keys["scores"], "--out", file)[0] == 0
    assert json.loads(call("runs", "import", file, "--json", home=empty.home)[1])["added"] == 2
    assert call("runs", "import", file, home=empty.home)[1] == "0 runs added, 2 were here already.\n"
    assert {line.key for line in empty.runs()} == {keys["low"], keys["scores"]}
    for arguments, complaint in (
        (("runs", "export", "zz", "--out", file), "No run begins with 'zz'."),
        (("runs", "export", keys["low"], "--out", tmp_path), "cannot be written"),
        (("runs", "import", tmp_path / "none.zip"), "cannot be read"),
        (("runs", "import", __file__), "no zip file"),
    ):
        code, _, complained = call(*arguments)
        assert code == 1
        assert complaint in complained
    assert not list(tmp_path.glob("*.part"))
