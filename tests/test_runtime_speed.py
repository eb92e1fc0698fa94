"""Exported files in their runtime: the arithmetic, the turns that are taken, and runtimes that are missing or fail."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_core.errors import Cancelled, ExportError, JobError, TextError
from quant_core.evaluation.runtime_speed import figures, runtime_speed
from quant_core.models.loading import LoadedModel
from quant_core.runtimes import RUNTIMES, Engine, Found, Round, Runtime, Task, base, llamacpp
from quant_core.schema import (
    Exported,
    ExportRequest,
    ModelInfo,
    ModelRef,
    Recipe,
    RuntimeSpeedRequest,
    replace,
)
from quant_core.store.keys import request_key
from quant_core.workspace import Workspace
from tests.exported import mixed, recipe_of
from tests.served_pages import keep
from tests.tiny import FakeContext

TASK = Task("nowhere", (5, 6, 7, 8), 3, 1, "cpu")


class Fake(Runtime):
    """A runtime that does what it is told."""

    title = "Fake"
    target = "torchao"
    reads_checkpoints = True

    def __init__(self, does: str = "works") -> None:
        self.name, self._does = "fake", does

    def found(self) -> Found:
        return Found("fake 1.0", python=sys.executable)

    def module(self) -> Sequence[str]:
        return "tests.fake_engine", self._does


class Writing(FakeContext):
    """Writes a file for every export that is asked for, as big as it is told."""

    def __init__(self, loaded: LoadedModel, size: int = 1000) -> None:
        super().__init__(loaded)
        self.size, self.said = size, list[str]()

    def progress(self, fraction: float, message: str = "") -> None:
        super().progress(fraction, message)
        self.said.append(message)

    def answer(self, request: Any, start: float, end: float) -> Any:
        folder = Path(request.folder)
        if self.size:
            folder.mkdir(exist_ok=True)
            (folder / "model.safetensors").write_bytes(bytes(self.size))
        return Exported(request.runtime, request.folder, (), 1, 1, 0.0, 0.0)


def _asked(loaded: LoadedModel, folder: Path, **changes: Any) -> RuntimeSpeedRequest:
    info = loaded.info
    export = ExportRequest(info.ref, info.fingerprint, mixed(info, ["int8"]), "torchao", str(folder / "out"))
    made = RuntimeSpeedRequest(info.ref, info.fingerprint, "fake", export, prompt=8, tokens=5, repeats=3)
    return replace(made, **changes)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES._items, "fake", Fake())


# --- arithmetic -----------------------------------------------------------------------------------------------------


def test_rates_by_hand() -> None:
    """128 tokens in 0.5, 0.25 and 1 s; 31 in 0.25, 0.5 and 0.125 s behind the first."""
    rounds = [Round(128, 0.5, 31, 0.25, 7), Round(128, 0.25, 31, 0.5, 9), Round(128, 1.0, 31, 0.125, 8)]
    found = figures(rounds, 1000, 20, 30)
    assert found.prompt == (256.0, 128.0, 512.0)
    assert found.decode == (124.0, 62.0, 248.0)
    assert (found.size, found.libraries, found.resident, found.gpu) == (1000, 20, 30, 9)


@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)), min_size=1, max_size=9))
def test_the_median_lies_between_and_half_the_time_is_twice_the_rate(
    seconds: list[tuple[float, float]],
) -> None:
    slow = figures([Round(64, a, 15, b, 0) for a, b in seconds], 1, 1, 1)
    fast = figures([Round(64, a / 2, 15, b / 2, 0) for a, b in seconds], 1, 1, 1)
    for rates, doubled in ((slow.prompt, fast.prompt), (slow.decode, fast.decode)):
        middle, low, high = rates
        assert low <= middle <= high
        assert doubled == pytest.approx([2 * rate for rate in rates])


# --- the job --------------------------------------------------------------------------------------------------------


def test_both_take_turns_behind_a_round_that_does_not_count(
    fake: None, llama: LoadedModel, tmp_path: Path
) -> None:
    """Round n takes 1/n of the time: of rounds 1 to 4 the last three count."""
    context = Writing(llama)
    found = runtime_speed(context, _asked(llama, tmp_path))
    assert found.recipe.prompt == pytest.approx((300.0, 200.0, 400.0))
    assert found.recipe.decode == pytest.approx((6.0, 4.0, 8.0))
    assert found.original is not None
    assert found.original.prompt == found.recipe.prompt
    weights = Path(llama.info.ref.source) / "model.safetensors"
    assert (found.recipe.size, found.original.size) == (1000, weights.stat().st_size)
    assert 0 < found.recipe.libraries <= found.recipe.resident
    assert (found.runtime, found.version, found.prompt, found.tokens) == ("fake", "fake 1.0", 8, 5)
    assert (found.dtype, found.device, found.notes) == ("float32", "cpu", ())
    rounds = [said for said in context.said if "round" in said]
    assert rounds == [f"Fake: round {number} of 3" for number in (1, 1, 2, 2, 3, 3)]
    assert context.fractions == sorted(context.fractions)


def test_the_original_stays_out_where_both_do_not_fit(
    fake: None, llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2000))
    found = runtime_speed(Writing(llama), _asked(llama, tmp_path, repeats=1))
    assert found.original is None
    assert "original was not run beside it" in found.notes[0]


def test_what_cannot_be_run_is_told(fake: None, llama: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"is gone\. Export the recipe again"):
        runtime_speed(Writing(llama, size=0), _asked(llama, tmp_path))
    with pytest.raises(TextError, match="exceed the model's 256"):
        runtime_speed(Writing(llama), _asked(llama, tmp_path, prompt=255))


def _once(does: str, check: Callable[[], None]) -> None:
    """A round of the runtime that does what it is told; its process has ended, whatever happened."""
    engine = Engine(Fake(does), TASK, check)
    try:
        with engine:
            engine.load()
            engine.round()
    finally:
        assert engine._process.poll() is not None


# --- runtimes that fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("does", "sentence"),
    [
        ("fails", "Fake failed: ValueError: the file is damaged Export again"),
        ("memory", "Fake ran out of memory and was ended. Close other programs"),
        ("killed", "Fake ran out of memory and was ended."),
        ("crashes", r"Fake crashed \(SIGTERM\). Nothing here was harmed"),
        ("short", "Fake read 4 tokens and wrote 2, not 4 and 3"),
    ],
)
def test_a_runtime_that_fails_is_one_sentence(does: str, sentence: str) -> None:
    with pytest.raises(JobError, match=sentence):
        _once(does, lambda: None)


def test_a_runtime_that_hangs_ends_with_the_job() -> None:
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked > 4:
            raise Cancelled("The job was cancelled.")

    begun = time.monotonic()
    with pytest.raises(Cancelled):
        _once("hangs", check)
    assert time.monotonic() - begun < 30


def test_a_missing_runtime_says_how_to_get_it(
    llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llamacpp, "PROJECT", tmp_path)
    monkeypatch.setattr(llamacpp, "installed", lambda package: "")
    assert "pip install xllamacpp" in RUNTIMES["llama.cpp"].found().remedy
    (tmp_path / "Makefile").touch()
    found = RUNTIMES["llama.cpp"].found()
    assert (found.version, found.remedy) == ("", "make .venv-llamacpp/.quantlens")
    with pytest.raises(JobError, match=r"not installed here. Install it: make .venv-llamacpp/.quantlens"):
        Engine(RUNTIMES["llama.cpp"], TASK, lambda: None)
    with pytest.raises(JobError, match="not installed here"):
        runtime_speed(Writing(llama), _asked(llama, tmp_path, runtime="llama.cpp"))


def test_the_environment_beside_the_project_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llamacpp, "PROJECT", tmp_path)
    monkeypatch.setattr(llamacpp, "installed", lambda package: "")
    (tmp_path / ".venv-llamacpp/lib/python3.12/site-packages/xllamacpp-2026.1.2.dist-info").mkdir(
        parents=True
    )
    assert not RUNTIMES["llama.cpp"].found().version, "it has no python"
    (tmp_path / ".venv-llamacpp/bin").mkdir()
    (tmp_path / ".venv-llamacpp/bin/python").touch()
    found = RUNTIMES["llama.cpp"].found()
    assert (found.version, found.python) == (
        "xllamacpp 2026.1.2",
        str(tmp_path / ".venv-llamacpp/bin/python"),
    )


def test_what_is_installed_is_told_by_its_version() -> None:
    assert base.installed("psutil").startswith("psutil ")
    assert base.installed("no_such_package") == ""


# --- what is asked --------------------------------------------------------------------------------------------------


def test_the_key_is_what_is_run_and_where(llama: LoadedModel, tmp_path: Path) -> None:
    asked = _asked(llama, tmp_path)
    elsewhere = replace(
        asked.export, folder="elsewhere", recipe=replace(asked.export.recipe, average_bits=1.0)
    )
    assert request_key(replace(asked, export=elsewhere, original=asked.export)) == request_key(asked)
    other = replace(asked.export, recipe=recipe_of(llama.info, lambda unit: "original"))
    changed = [
        replace(asked, runtime="other"),
        replace(asked, take=2),
        replace(asked, export=other),
        replace(asked, model=ModelRef(asked.model.source, device="cuda")),
    ]
    assert len({request_key(one) for one in (asked, *changed)}) == 5


def test_an_export_that_is_there_is_run(home: Path, workspace: Workspace, info: ModelInfo) -> None:
    recipe = mixed(info, ["q8_0"])
    fresh = workspace.runtime_speed_request(info, recipe, "llama.cpp")
    assert Path(fresh.export.folder).parent == workspace.exports
    assert fresh.original is not None
    assert fresh.original.recipe.assignment() == {}
    assert workspace.runtime_speed_request(info, recipe, "bitsandbytes").original is None
    mine = ExportRequest(info.ref, info.fingerprint, recipe, "gguf", str(home / "mine"))
    keep(home, mine, Exported("gguf", mine.folder, (), 1, 1, 0.0, 0.0))
    assert workspace.runtime_speed_request(info, recipe, "llama.cpp") == fresh, "its folder is gone"
    (home / "mine").mkdir()
    again: Recipe = replace(recipe, average_bits=4.2)
    assert workspace.runtime_speed_request(info, again, "llama.cpp").export == mine
    Path(fresh.export.folder).mkdir(parents=True)
    taken = workspace.runtime_speed_request(info, mixed(info, ["q4_0"]), "llama.cpp")
    assert taken.export.folder == f"{fresh.export.folder}-2"
