"""Exports: whole or absent, read back before they get their name, refused with a reason where they cannot be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from quant_core.checkpoints.tensors import unpack_rows
from quant_core.errors import ExportError
from quant_core.export import EXPORTERS
from quant_core.export._common import pack_rows
from quant_core.export.run import Sketches
from quant_core.export.staging import Shards, staged
from quant_core.models.loading import LoadedModel, load
from quant_core.schema import ModelRef, Setup
from quant_core.targets import EXPORTS, TARGETS, problems
from tests.exported import mixed, recipe_of, written
from tests.tiny import save


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(ModelRef(str(save("llama", tmp_path_factory.mktemp("llama")))))


def test_every_exporter_is_named_where_pages_look_and_has_a_target() -> None:
    assert set(EXPORTERS) == set(EXPORTS)
    assert len(EXPORTS) == len(set(EXPORTS))
    assert set(EXPORTS) <= set(TARGETS)


# --- folders -----------------------------------------------------------------------------------------------


def _write_half(target: Path, error: Exception) -> None:
    with staged(target, 10) as stage:
        (stage / "half").write_text("half")
        raise error


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        _write_half(target, ZeroDivisionError())
    assert list(tmp_path.iterdir()) == []
    with staged(target, 10) as stage:
        assert not target.exists()
        (stage / "whole").write_text("whole")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "whole"]


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ExportError, match="exists already"), staged(tmp_path, 10):
        raise AssertionError
    assert (tmp_path / "mine").read_text() == "mine"


def test_what_a_killed_writer_left_is_cleared_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    dead, living = tmp_path / f".out.partial-{2**22 + 1}", tmp_path / ".out.partial-1"
    dead.mkdir()
    living.mkdir()
    with staged(tmp_path / "out", 10):
        pass
    assert not dead.exists()
    assert living.exists()


def test_a_disk_without_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=60e6))
    with (
        pytest.raises(ExportError, match=r"needs about 20.00 MB, and 60.00 MB are free"),
        staged(tmp_path / "out", 20e6),
    ):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_runs_full_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="ran full"):
        _write_half(tmp_path / "out", OSError(28, "No space left on device"))
    assert list(tmp_path.iterdir()) == []


def test_shards_follow_each_other_with_an_index(tmp_path: Path) -> None:
    shards = Shards(tmp_path, limit=100)
    shards.add({"a": torch.zeros(20), "b": torch.ones(10)})
    shards.add({"c": torch.ones(5)})
    shards.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[:2] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index == {
        "metadata": {"total_size": 140},
        "weight_map": {"a": names[0], "b": names[1], "c": names[1]},
    }


# --- packing -----------------------------------------------------------------------------------------------


def test_codes_are_packed_lowest_bits_first() -> None:
    assert pack_rows(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]]), 4).tolist() == [[0x87654321 - 2**32]]
    assert pack_rows(torch.tensor([[5, 1]]), 3).tolist() == [[5 + (1 << 3)]]


@given(bits=st.integers(2, 8), columns=st.integers(1, 70), seed=st.integers(0, 99))
def test_packed_codes_come_back(bits: int, columns: int, seed: int) -> None:
    codes = torch.randint(0, 2**bits, (3, columns), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(unpack_rows(pack_rows(codes, bits), bits, columns), codes)


# --- the comparison ----------------------------------------------------------------------------------------


class Told:
    """An exporter whose files say what it is told."""

    def __init__(self, *found: tuple[str, Tensor]) -> None:
        self.found = found

    def read_back(self, folder: Path) -> Iterator[tuple[str, Tensor]]:
        yield from self.found


def compared(kept: Tensor, *found: tuple[str, Tensor]) -> tuple[int, float]:
    sketches = Sketches()
    sketches.keep("w", kept)
    return sketches.compare(Told(*found), Path())  # type: ignore[arg-type]  # reads nothing


def test_what_is_read_back_is_compared_to_the_last_bit() -> None:
    matrix = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    assert compared(matrix, ("w", matrix.clone())) == (1, 0.0)
    exact, error = compared(matrix, ("w", matrix * (1 + 2.0**-9)))
    assert exact == 0
    assert error == pytest.approx(2.0**-9, rel=1e-3)


@pytest.mark.parametrize("what", ["a row", "two rows", "the shape", "nothing", "another"])
def test_what_reads_back_otherwise_is_refused(what: str) -> None:
    matrix = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    wrong = matrix.clone()
    if what == "a row":
        wrong[3] *= -1
    swapped = matrix[[1, 0, 2, 3, 4, 5]]
    found = {"a row": wrong, "two rows": swapped, "the shape": matrix.T}.get(what)
    pairs = [] if found is None else [("w", found)]
    if what == "another":
        pairs = [("w", matrix), ("v", matrix)]
    with pytest.raises(ExportError, match="defect"):
        compared(matrix, *pairs)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ((), "leaves every weight as it is"),
        ((SimpleNamespace(expert=0),), "all experts of a block as one tensor"),
    ],
)
def test_what_has_no_layer_to_pack_is_refused(
    entries: tuple[object, ...], message: str, tmp_path: Path
) -> None:
    source: Any = SimpleNamespace(entries=entries)
    with pytest.raises(ExportError, match=message):
        EXPORTERS["gptq"].write(source, tmp_path, Sketches())
    assert list(tmp_path.iterdir()) == []


# --- what is in the way ------------------------------------------------------------------------------------


def test_problems_name_the_weights_and_what_would_fit(llama: LoadedModel) -> None:
    recipe = recipe_of(llama.info, lambda unit: "nf4" if unit.role == "q_proj" else "int4/g32/sym")
    found = problems(TARGETS["compressed-tensors"], llama.info, recipe)
    kinds = {problem.reason: problem.units for problem in found}
    unheld = next(units for reason, units in kinds.items() if "does not hold nf4; it holds int4" in reason)
    assert len(unheld) == 2
    assert all("q_proj" in name for name in unheld)
    split = next(units for reason, units in kinds.items() if "computes them as one" in reason)
    assert {name.split(".")[-2] for name in split} == {"q_proj", "k_proj", "v_proj"}
    assert any("embeddings" in reason for reason in kinds)


def test_a_recipe_that_fits_has_none_and_rounded_activations_are_one(llama: LoadedModel) -> None:
    target = TARGETS["compressed-tensors"]
    fits = mixed(llama.info, ["int4/g32/sym", "int8/channel/sym"])
    assert problems(target, llama.info, fits) == ()
    (only,) = problems(
        target, llama.info, mixed(llama.info, ["int4/g32/sym"], Setup(activations="int8/token"))
    )
    assert "activations" in only.reason
    assert only.units == ()


def test_an_export_that_does_not_fit_leaves_nothing(llama: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="does not hold nf4"):
        written(llama, mixed(llama.info, ["nf4"]), "compressed-tensors", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
