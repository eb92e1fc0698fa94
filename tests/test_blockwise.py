"""Scoring block by block: as from the whole model, from mapped weights, with little memory, and after a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from quant_core.calibration.batches import label_gradient
from quant_core.calibration.text import Tokens
from quant_core.errors import Cancelled, ModelError
from quant_core.evaluation.channels import channels
from quant_core.evaluation.layer import layer_view
from quant_core.evaluation.window import window
from quant_core.formats import Format, find
from quant_core.methods.rounder import Rounder
from quant_core.models import loading
from quant_core.models.blocks import Blocks
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel, load
from quant_core.models.memory import out_of_memory
from quant_core.schema import (
    ChannelsRequest,
    LayerRequest,
    ModelRef,
    ScoresEvent,
    SensitivityRequest,
    WindowRequest,
    replace,
)
from quant_core.sensitivity import halfway, passes
from quant_core.sensitivity import run as run_module
from quant_core.sensitivity.errors import RoundingErrors
from quant_core.sensitivity.fisher import LayerScores, score_layers
from quant_core.sensitivity.run import run
from tests import tiny
from tests.tiny import FakeContext

LENGTH = 24


@pytest.fixture(scope="module", params=sorted(tiny.CONFIGS))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(ModelRef(str(tiny.save(request.param, tmp_path_factory.mktemp("model"))), device="cpu"))


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint stored in bfloat16, its head apart from its embedding."""
    folder = tiny.save("llama-untied", tmp_path_factory.mktemp("halves"))
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture
def mapped(halves: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """The same, in a memory that holds its blocks one by one."""
    monkeypatch.setattr(loading, "_BLOCKS", 1)
    monkeypatch.setattr(loading, "free_memory", lambda device: 400_000)
    return load(ModelRef(str(halves), device="cpu"))


def _tokens(sequences: int = 5) -> Tokens:
    ids = torch.randint(300, (sequences, LENGTH), generator=torch.Generator().manual_seed(0))
    return Tokens(ids, "hash", "made")


def _scores(loaded: LoadedModel, blockwise: bool, embedding: bool = True) -> LayerScores:
    context, tokens = FakeContext(loaded), _tokens()
    slots = [slot for slot in loaded.graph.slots.values() if embedding or slot.unit.kind != "embedding"]
    errors = RoundingErrors([find("int3"), find("nf4")], Rounder(context, loaded, tokens), once=blockwise)
    return score_layers(context, loaded, tokens, slots, errors, seed=1, blockwise=blockwise)


def _same(one: LayerScores, other: LayerScores) -> None:
    assert one.fisher is not None
    assert other.fisher is not None
    torch.testing.assert_close(one.fisher, other.fisher, rtol=2e-4, atol=1e-9)
    torch.testing.assert_close(one.output, other.output, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(one.signal, other.signal, rtol=1e-5)


def test_block_by_block_gives_the_scores_of_the_whole_model(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tied embeddings, transposed weights and experts included, however few sequences a block is given at a time."""
    whole = _scores(loaded, blockwise=False)
    _same(_scores(loaded, blockwise=True), whole)
    monkeypatch.setattr(passes, "_OPERATIONS", 1)
    monkeypatch.setattr(passes, "batch_rows", lambda *_: 2)
    _same(_scores(loaded, blockwise=True), whole)


def test_a_model_whose_blocks_share_more_than_hidden_states_is_no_row_of_blocks(halves: Path) -> None:
    """Here the mask of the second block comes from what entered the first: gradients would miss that way."""
    loaded = load(ModelRef(str(halves), device="cpu"))
    ids, blocks = _tokens().ids[:1], Blocks(loaded.model, loaded.graph)
    assert blocks.lead_on(ids)
    entered: list[Tensor] = []
    causal = torch.full((LENGTH, LENGTH), -1e4).triu(1)

    def mask(module: nn.Module, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**options, "attention_mask": causal[None, None] + entered[-1].mean()}

    blocks.modules[0].register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    blocks.modules[1].register_forward_pre_hook(mask, with_kwargs=True)
    assert not blocks.lead_on(ids)


def test_running_out_of_memory_halves_the_batch_and_says_so(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _scores(loaded, blockwise=False)

    def limited(logits: Tensor, uniforms: Tensor) -> Tensor:
        if len(logits) > 2:
            raise torch.OutOfMemoryError("made up")
        return label_gradient(logits, uniforms)

    monkeypatch.setattr(passes, "label_gradient", limited)
    for blockwise in (False, True):
        found = _scores(loaded, blockwise)
        assert found.rows == 2
        _same(found, whole)


def test_tokens_that_are_not_finite_are_left_out_and_named(halves: Path, tmp_path: Path) -> None:
    """A layer of block 1 breaks for the last 8 tokens of one of 8 sequences: scores are those of the other tokens."""
    loaded = load(ModelRef(str(halves), device="cpu"))
    whole = run(FakeContext(loaded, tmp_path), _request(loaded))
    broken: Any = loaded.model.get_submodule("model.layers.1.mlp.down_proj")

    def spoil(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[3, -8:] = torch.nan
        return output

    broken.register_forward_hook(spoil, prepend=True)
    table = run(FakeContext(loaded, tmp_path), _request(loaded))
    (note,) = (note for note in table.notes if "not finite" in note)
    assert "model.layers.1.mlp.down_proj.weight computes is not finite at 8 of 256 tokens" in note
    assert not table.state
    assert np.isfinite(table.fisher).all()
    assert np.isfinite(table.output).all()
    assert np.median(np.abs(np.array(table.fisher) / np.array(whole.fisher) - 1)) < 0.2


def test_one_sequence_too_many_is_told(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(logits: Tensor, uniforms: Tensor) -> Tensor:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: made up"
        )

    monkeypatch.setattr(passes, "label_gradient", never)
    with pytest.raises(ModelError, match=f"does not hold one sequence of {LENGTH} tokens"):
        _scores(loaded, blockwise=False)
    assert not out_of_memory(RuntimeError("shapes do not match"))


def test_a_model_larger_than_memory_is_mapped_and_scored_as_one_in_memory(
    mapped: LoadedModel, halves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are the file's before and after, and what it computes is what float32 copies of them do."""
    assert mapped.mapped
    assert mapped.info.compute_dtype == "float32"
    assert "stay in its files" in mapped.info.notes[0]
    inside = [slot.parameter for slot in mapped.graph.slots.values() if slot.unit.block >= 0]
    places = [(parameter.dtype, parameter.data_ptr()) for parameter in inside]
    assert {dtype for dtype, _ in places} == {torch.bfloat16}
    monkeypatch.undo()
    whole = load(ModelRef(str(halves), device="cpu"))
    assert not whole.mapped
    ids = _tokens().ids
    with torch.no_grad():
        torch.testing.assert_close(mapped.model(ids).logits, whole.model(ids).logits, rtol=1e-5, atol=1e-6)
    # an embedding is looked up, and rounded, as it is stored
    _same(_scores(mapped, blockwise=True, embedding=False), _scores(whole, blockwise=False, embedding=False))
    assert [(parameter.dtype, parameter.data_ptr()) for parameter in inside] == places


def test_looking_at_a_mapped_weight_reads_no_other(
    mapped: LoadedModel, halves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others of the blocks have no values here at all: reading one would fail.

    Rounded weights were given back in the dtype of the file, and their errors were those of 16 bits.
    """
    monkeypatch.undo()
    whole = load(ModelRef(str(halves), device="cpu"))
    name = next(name for name in mapped.graph.slots if "layers.1." in name and "down_proj" in name)
    seen = mapped.graph.slots[name].parameter
    for slot in mapped.graph.slots.values():
        if slot.unit.block >= 0 and slot.parameter is not seen:
            slot.parameter.data = torch.empty(0, dtype=torch.bfloat16)
    model, mark = mapped.info.ref, mapped.info.fingerprint
    place = seen.data_ptr()
    look = LayerRequest(model, mark, (name,), ("int4/g64/asym", "int8/channel/sym"))
    ranges = ChannelsRequest(model, mark, name)
    part = WindowRequest(model, mark, name, "int4/g64/asym")
    in_file, in_memory = FakeContext(mapped), FakeContext(whole)
    found, expected = layer_view(in_file, look), layer_view(in_memory, look)
    assert replace(found, kurtosis=0.0, standard_deviation=0.0) == replace(
        expected, kurtosis=0.0, standard_deviation=0.0
    )
    assert found.kurtosis == pytest.approx(expected.kurtosis)
    assert found.standard_deviation == pytest.approx(expected.standard_deviation)
    assert channels(in_file, ranges) == channels(in_memory, ranges)
    assert window(in_file, part) == window(in_memory, part)
    assert (seen.dtype, seen.data_ptr()) == (torch.bfloat16, place), "it stays in its file"


def test_a_model_of_which_no_block_fits_is_refused(halves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "free_memory", lambda device: 10_000)
    with pytest.raises(ModelError, match=r"needs about .* are free"):
        load(ModelRef(str(halves), device="cpu"))


def test_experts_that_are_stacked_when_loaded_cannot_be_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapped weight is stored as the model holds it."""
    folder = tiny.save("mixtral", tmp_path)
    monkeypatch.setattr(loading, "_BLOCKS", 0)
    monkeypatch.setattr(loading, "free_memory", lambda device: 500_000)
    with pytest.raises(ModelError, match="are free"):
        load(ModelRef(str(folder), device="cpu"))


class Stopped(FakeContext):
    """Cancelled when the second of its blocks is to be scored."""

    def progress(self, fraction: float, message: str = "") -> None:
        super().progress(fraction, message)
        if ".layers.0." in message:
            raise Cancelled("stopped")


def _request(loaded: LoadedModel) -> SensitivityRequest:
    return SensitivityRequest(
        model=loaded.info.ref,
        fingerprint=loaded.info.fingerprint,
        formats=("int3", "nf4"),
        tokens=256,
        sequence=32,
    )


def test_a_sweep_that_was_stopped_goes_on_behind_the_last_scored_block(
    mapped: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(halfway, "SAVE_SECONDS", 0.0)
    straight = run(FakeContext(mapped), _request(mapped))
    with pytest.raises(Cancelled):
        run(Stopped(mapped, tmp_path), _request(mapped))
    context = FakeContext(mapped, tmp_path)
    of = RoundingErrors.of
    scored: set[str] = set()

    def noted(self: RoundingErrors, slot: Slot, form: Format) -> Tensor:
        scored.add(slot.unit.name.split(".")[2])
        return of(self, slot, form)

    monkeypatch.setattr(RoundingErrors, "of", noted)
    monkeypatch.setattr(run_module, "_weight_errors", lambda *_: straight.weight)
    again = run(context, _request(mapped))
    assert scored == {"0"}
    np.testing.assert_allclose(again.fisher, straight.fisher, rtol=1e-5)
    np.testing.assert_allclose(again.fisher_stderr, straight.fisher_stderr, rtol=1e-5)
    np.testing.assert_allclose(again.output, straight.output, rtol=1e-5)
    assert straight.state
    assert not again.state
    assert any("had been stopped" in note for note in again.notes)
    assert not list(tmp_path.glob("fisher-*"))


def test_blocks_are_streamed_as_they_are_scored(mapped: LoadedModel) -> None:
    """The last block first; what is streamed of a unit is what the finished table says of it."""
    context = FakeContext(mapped)
    table = run(context, _request(mapped))
    told = [event.table for event in context.events if isinstance(event, ScoresEvent)]
    assert [sorted({name.split(".")[2] for name in one.units}) for one in told] == [["1"]]
    rows = [table.units.index(name) for name in told[0].units]
    np.testing.assert_allclose(told[0].fisher, np.array(table.fisher)[rows], rtol=1e-6)
    assert told[0].formats == table.formats


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_gives_the_scores_of_the_cpu(halves: Path) -> None:
    """Whole and block by block, in float32; in bfloat16 the sums are near."""
    here = _scores(load(ModelRef(str(halves), device="cpu")), blockwise=False)
    there = load(ModelRef(str(halves), device="cuda", dtype="float32"))
    short = load(ModelRef(str(halves), device="cuda", dtype="bfloat16"))
    assert here.fisher is not None
    for blockwise in (False, True):
        found, rough = _scores(there, blockwise), _scores(short, blockwise)
        assert found.fisher is not None
        assert rough.fisher is not None
        torch.testing.assert_close(found.fisher, here.fisher, rtol=2e-2, atol=1e-8)
        torch.testing.assert_close(rough.fisher.sum((0, 2)), here.fisher.sum((0, 2)), rtol=0.1, atol=0)
