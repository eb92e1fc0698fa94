"""Statistics of a checkpoint's weights, streamed from its files: exact, whatever the pieces, and no model loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import Tensor

from quant_core.__main__ import main
from quant_core.errors import Cancelled, ModelError
from quant_core.evaluation.statistics import Statistics, statistics
from quant_core.evaluation.weights import BINS, weights
from quant_core.models.layout import layout
from quant_core.models.loading import LoadedModel
from quant_core.models.pieces import Piece, cut
from quant_core.models.sources import check
from quant_core.models.stored import StoredTensors
from quant_core.schema import (
    Histogram,
    ModelRef,
    Unit,
    UnitStatistics,
    WeightsRequest,
    WeightStatistics,
    load,
)
from quant_core.store.keys import request_key
from quant_core.workspace import Workspace
from tests.tiny import FakeContext, save

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def _whole(matrix: Tensor, size: int = 50, bins: int = 7) -> Statistics:
    rows, columns = matrix.shape
    return statistics(lambda: cut(matrix, size=size), rows, columns, bins)


def _matrix(rows: int, columns: int, seed: int, dtype: torch.dtype, turned: bool = False) -> Tensor:
    """Heavy tails, a mean far from 0, some zeros; ``turned`` as GPT-2 stores its weights."""
    noise = torch.Generator().manual_seed(seed)
    shape = (columns, rows) if turned else (rows, columns)
    values = 3.0 + torch.randn(shape, generator=noise, dtype=torch.float64).pow(3)
    values[torch.rand(shape, generator=noise) < 0.1] = 0.0
    return values.to(dtype).T if turned else values.to(dtype)


class Unloaded(FakeContext):
    """Fails a job that loads the model; cancels it once it has asked ``patience`` times whether to go on."""

    def __init__(self, patience: int = 10**9) -> None:
        super().__init__()
        self.patience = patience

    def check_cancelled(self) -> None:
        self.patience -= 1
        if self.patience < 0:
            raise Cancelled("The job was cancelled.")

    def loaded(self, ref: ModelRef, roots: tuple[str, ...], fingerprint: str = "") -> LoadedModel:
        raise AssertionError("the model was loaded")


# --- the figures of one matrix --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 999), st.sampled_from(DTYPES), st.booleans(),
    st.integers(1, 300),
)  # fmt: skip
def test_figures_are_those_of_the_whole_matrix(
    rows: int, columns: int, seed: int, dtype: torch.dtype, turned: bool, size: int
) -> None:
    matrix = _matrix(rows, columns, seed, dtype, turned)
    found, values = _whole(matrix, size), matrix.double().numpy()
    assert found.count == values.size
    assert found.not_finite == 0
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    assert found.mean == pytest.approx(values.mean(), rel=1e-12, abs=1e-13)
    assert found.deviation == pytest.approx(values.std(), rel=1e-10, abs=1e-12)
    assert found.zero_share == np.mean(values == 0)
    if values.std() > 1e-9:
        assert found.kurtosis == pytest.approx(stats.kurtosis(values, axis=None), rel=1e-9, abs=1e-9)
        assert found.outlier_share == np.mean(np.abs(values - values.mean()) > 4 * values.std())
    np.testing.assert_array_equal(found.row_maxima, np.abs(values).max(1).astype(np.float32))
    np.testing.assert_array_equal(found.column_maxima, np.abs(values).max(0).astype(np.float32))
    assert found.histogram.counts == tuple(np.histogram(values, np.array(found.histogram.edges))[0])
    assert sum(found.histogram.counts) == values.size
    if values.min() < values.max():
        assert found.histogram.edges == tuple(np.linspace(values.min(), values.max(), 8))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.sampled_from(DTYPES), st.integers(1, 900), st.integers(1, 900))
def test_pieces_make_no_difference(seed: int, dtype: torch.dtype, one: int, other: int) -> None:
    """To the bit in 16 bits, where values are counted; to rounding in float64 sums elsewhere."""
    matrix = _matrix(24, 36, seed, dtype)
    a, b = _whole(matrix, one), _whole(matrix, other)
    exact = dtype.itemsize == 2
    for name in ("mean", "deviation", "kurtosis"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=0 if exact else 1e-11)
    assert (a.histogram, a.outlier_share, a.zero_share) == (b.histogram, b.outlier_share, b.zero_share)


@pytest.mark.parametrize("dtype", DTYPES)
def test_figures_worked_out_by_hand(dtype: torch.dtype) -> None:
    """Nineteen values of 0 and one of 20: mean 1, variance 19, and the 20 lies 19 / 19^0.5 = 4.36 deviations off."""
    matrix = torch.zeros(4, 5, dtype=dtype)
    matrix[2, 3] = 20
    found = _whole(matrix, bins=4)
    assert (found.mean, found.zero_share, found.outlier_share) == (1.0, 0.95, 0.05)
    assert found.deviation == pytest.approx(19**0.5)
    assert found.kurtosis == pytest.approx((19 + 19**4) / 20 / 19**2 - 3)
    assert found.histogram == Histogram((0, 5, 10, 15, 20), (19, 0, 0, 1))
    assert found.row_maxima.tolist() == [0, 0, 20, 0]
    assert found.column_maxima.tolist() == [0, 0, 0, 20, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_that_are_not_finite_are_counted_and_left_out(dtype: torch.dtype) -> None:
    spoilt = _matrix(6, 8, 1, dtype)
    spoilt[1, 2], spoilt[3, 4] = torch.nan, -torch.inf
    found, expected = _whole(spoilt), _whole(spoilt[spoilt.isfinite()][None])
    assert (found.not_finite, found.count) == (2, 46)
    for name in ("mean", "deviation", "kurtosis", "outlier_share", "minimum", "maximum"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12)
    assert found.histogram == expected.histogram
    nothing = _whole(torch.full((2, 3), torch.nan, dtype=dtype))
    assert (nothing.count, nothing.not_finite, nothing.mean, nothing.deviation) == (0, 6, 0.0, 0.0)


def test_pieces_cover_a_matrix_once() -> None:
    for matrix in (torch.arange(35.0).reshape(5, 7), torch.arange(35.0).reshape(7, 5).T):
        again = torch.zeros(8, 7)
        for piece in cut(matrix, row=3, size=12):
            height, width = piece.values.shape
            again[piece.row : piece.row + height, piece.column : piece.column + width] += piece.values
            assert piece.values.untyped_storage().data_ptr() == matrix.untyped_storage().data_ptr()
        assert torch.equal(again[3:], matrix)
        assert not again[:3].any()


# --- where a checkpoint holds its units -----------------------------------------------------------------------------


def _assembled(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """The units, and the matrices of those that are held."""
    tensors = StoredTensors(folder, "it")
    units, places = layout(check(folder, "it"), tensors)
    return units, {
        name: torch.cat([part.matrix(tensors) for part in parts]) for name, parts in places.items()
    }


def test_units_and_values_are_those_of_the_loaded_model(tiny: LoadedModel) -> None:
    """Tied, transposed (GPT-2) and stacked (Mixtral) ones included."""
    units, matrices = _assembled(Path(tiny.info.ref.source))
    assert units == tiny.info.units
    assert list(matrices) == [unit.name for unit in units]
    for name, matrix in matrices.items():
        assert torch.equal(matrix, tiny.graph.slots[name].matrix())


def _rewritten(folder: Path, to: Path, change: Any) -> Path:
    """A copy of a checkpoint with its tensors changed."""
    shutil.copytree(folder, to)
    save_file(change(load_file(folder / "model.safetensors")), to / "model.safetensors")
    return to


def test_names_are_mapped_as_transformers_maps_them(tiny: LoadedModel, tmp_path: Path) -> None:
    """Checkpoints of GPT-2 and OPT on the hub are of the base model: its prefix is missing."""
    prefix = {"GPT2LMHeadModel": "transformer.", "OPTForCausalLM": "model."}.get(tiny.info.architecture)
    if prefix is None:
        return
    folder = _rewritten(
        Path(tiny.info.ref.source),
        tmp_path / "base",
        lambda old: {name.removeprefix(prefix): old[name] for name in old},
    )
    _, matrices = _assembled(folder)
    assert list(matrices) == [unit.name for unit in tiny.info.units]


def test_experts_may_be_stored_as_they_are_used(tmp_path: Path) -> None:
    """One 3-D tensor a role; and an expert that is missing leaves its own weight unread, no other."""
    folder = save("mixtral", tmp_path / "single")
    units, single = _assembled(folder)

    def stacked(old: dict[str, Tensor]) -> dict[str, Tensor]:
        kept = {name: values for name, values in old.items() if ".experts." not in name}
        for block in range(2):
            for role in ("gate_up_proj", "down_proj"):
                name = f"model.layers.{block}.mlp.experts.{role}"
                kept[name] = torch.stack([single[f"{name}[{expert}]"] for expert in range(4)])
        return kept

    _, matrices = _assembled(_rewritten(folder, tmp_path / "stacked", stacked))
    assert list(matrices) == [unit.name for unit in units]
    assert all(torch.equal(matrices[name], single[name]) for name in single)
    missing = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
    without = _rewritten(
        folder, tmp_path / "less", lambda old: {name: old[name] for name in old if name != missing}
    )
    found = weights(Unloaded(), WeightsRequest(ModelRef(str(without))))
    assert found.unread == ("model.layers.1.mlp.experts.down_proj[3]",)


def test_what_is_no_language_model_is_refused(llama: LoadedModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama.info.ref.source, tmp_path / "model"))
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"unheard-of"'))
    with pytest.raises(ModelError, match=r"\(unheard-of\) is no causal language model"):
        weights(Unloaded(), WeightsRequest(ModelRef(str(folder))))


# --- the job --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled_statistics() -> WeightStatistics:
    """Of the bundled model, whose weights are in 16 bits."""
    return weights(Unloaded(), WeightsRequest(ModelRef("bundled")))


def test_every_unit_of_the_bundled_model(bundled: LoadedModel, bundled_statistics: WeightStatistics) -> None:
    found = bundled_statistics
    assert tuple(each.unit for each in found.units) == bundled.info.units
    assert found.unread == ()
    assert found.bytes == sum(unit.parameters for unit in bundled.info.units) * 2
    for each in found.units[::9]:
        values = bundled.graph.slots[each.unit.name].matrix().double().numpy()
        assert each.standard_deviation == pytest.approx(values.std(), rel=1e-12)
        assert each.kurtosis == pytest.approx(stats.kurtosis(values, axis=None), rel=1e-9)
        assert each.absolute_maximum == np.abs(values).max()
        assert each.counts == tuple(np.histogram(values, BINS)[0])
        rows = np.abs(values).max(1)
        assert each.row_spread == pytest.approx(rows.max() / float(torch.from_numpy(rows).median()), rel=1e-6)


def test_a_changed_file_is_read_again_and_how_it_computes_is_no_matter(
    llama: LoadedModel, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(llama.info.ref.source, tmp_path / "model"))
    workspace = Workspace(tmp_path / "home")
    asked = workspace.weights_request(ModelRef(str(folder)))
    assert workspace.weights_request(ModelRef(str(folder), dtype="bfloat16", device="cpu")) == asked
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b" ")
    assert request_key(workspace.weights_request(ModelRef(str(folder)))) != request_key(asked)
    workspace.close()


def test_the_command_line_says_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unit = Unit("a.weight", 0, "a", "linear", 2, 3, 16, True)
    spread = UnitStatistics(unit, -1.5, 2.0, 0.0, 0.75, 1.25, 0.005, 0.0, 1.5, 2.25, (3, 3), not_finite=2)
    made = WeightStatistics("it", (spread,), ("b.weight",), 2_500_000_000, 4.0)
    monkeypatch.setattr("quant_core.cli.weights.run", lambda *_: made)
    assert main(["weights", "bundled"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("it: 1 weights, 2.50 GB read in 4.0 s\n")
    assert said.out.splitlines()[2].split() == [
        "a.weight", "2", "x", "3", "-1.5", "2", "0.75", "+1.25", "0.5000%", "1.50", "2.25",
    ]  # fmt: skip
    assert "a.weight holds 2 infinite or undefined values" in said.err
    assert (
        "1 weights are stored in another form than they are used in and were not read, such as b.weight"
        in said.err
    )
    assert main(["weights", "bundled", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    del data["model"]
    assert load(WeightStatistics, data) == made


def test_reading_can_be_cancelled_within_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first unit alone has several pieces; a job that looked up between units would do all of it first."""
    context = Unloaded(patience=1)
    seen = 0

    def counted(matrix: Tensor, row: int = 0) -> Iterator[Piece]:
        nonlocal seen
        for piece in cut(matrix, row):
            seen += 1
            yield piece

    monkeypatch.setattr("quant_core.evaluation.weights.cut", counted)
    with pytest.raises(Cancelled):
        weights(context, WeightsRequest(ModelRef("bundled")))
    assert seen == 2
    assert len(context.fractions) == 2
