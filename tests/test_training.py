"""Gradients through rounding, one weight in training, the job, its checkpoint, and what it leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quant_core.errors import Cancelled, FormatError, ModelError, QuantError
from quant_core.evaluation.layer import layer_view
from quant_core.evaluation.quality import evaluate
from quant_core.formats import find, from_blocks, to_blocks
from quant_core.jobs.runner import Runner
from quant_core.methods.rounder import Rounder
from quant_core.methods.slot_rounder import Quantized
from quant_core.methods.trained import Header, Trained, find_trained, write_tensors, write_trained
from quant_core.methods.training import run as run_module
from quant_core.methods.training.run import train
from quant_core.methods.training.steps import learned_step, learns_steps, straight_through
from quant_core.methods.training.text import read_text, split_text
from quant_core.methods.training.units import TrainedUnit
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel, load
from quant_core.schema import (
    Calibration,
    EvaluateRequest,
    LayerRequest,
    LossEvent,
    ModelRef,
    Setup,
    TextSource,
    TokenEvent,
    Training,
    TrainRequest,
    dump,
    load_event,
)
from quant_core.store import Store
from quant_core.store.keys import request_key
from tests.tiny import PROSE, FakeContext, save

TEXT = TextSource("inline", PROSE * 12, "prose")
INT2 = "int2/g32/asym"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums come out the same whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def request(loaded: LoadedModel, form: str = INT2, **changes: Any) -> TrainRequest:
    info = loaded.info
    asked = TrainRequest(
        model=info.ref,
        fingerprint=info.fingerprint,
        assignment={unit.name: form for unit in info.units if unit.decided},
        text=TEXT,
        tokens=1024,
        sequence=32,
        steps=20,
        seconds=0.0,
        learning_rate=0.02,
        rank=4,
    )
    return replace(asked, **changes)


def kl(loaded: LoadedModel, folder: Path, asked: TrainRequest, trained: str = "") -> float:
    measure = EvaluateRequest(
        asked.model,
        asked.fingerprint,
        asked.assignment,
        TEXT,
        tokens=512,
        sequence=64,
        setup=Setup(trained=trained),
    )
    return evaluate(FakeContext(loaded, folder), measure).kl_mean


def units_of(folder: Path, done: Training) -> Trained:
    return find_trained(folder, done.key, done.fingerprint, ())


# --- gradients


def test_the_gradients_of_a_learned_step_worked_out_by_hand() -> None:
    """Two bits, symmetric, s = 0.5, so q is in -2..1; the last two values lie beyond the range, on either side."""
    values = torch.tensor([[0.3, -0.6, 0.9, -1.5]], requires_grad=True)
    scales = torch.tensor([[0.5]], requires_grad=True)
    rounded = learned_step(values, scales, None, find("int2/g32/sym"))
    assert rounded.tolist() == [[0.5, -0.5, 0.5, -1.0]]
    rounded.backward(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    assert values.grad is not None
    assert scales.grad is not None
    assert values.grad.tolist() == [[1.0, 2.0, 0.0, 0.0]]
    # Inside q - w / s = 1 - 0.6 and -1 + 1.2, beyond it q = 1 and -2; times 1 / sqrt(4 values x 1).
    by_hand = (1 * 0.4 + 2 * 0.2 + 3 * 1.0 + 4 * -2.0) / 2.0
    assert scales.grad.item() == pytest.approx(by_hand, rel=1e-5)


def written_out(values: Tensor, scales: Tensor, zeros: Tensor | None, low: int, high: int) -> Tensor:
    """The quantizer with every rounding a detached constant, for autograd to differentiate as it stands."""

    def straight(x: Tensor) -> Tensor:
        return x + (x.round() - x).detach()

    half = scales + (scales.half().float() - scales).detach()
    offset = 0.0 if zeros is None else zeros + (zeros.half().float() - zeros).detach()
    place = values / half + offset
    return (straight(place.clamp(low, high)) - offset) * half


@pytest.mark.parametrize("name", ["int2/g32/asym", "int3/g32/sym", "int4/g64/float", "int8/channel/asym"])
def test_the_gradients_agree_with_autograd_of_the_quantizer_written_out(name: str) -> None:
    form: Any = find(name)
    values = torch.randn(6, 64, generator=seeded())
    grid = form.fit(values * 0.6)  # some values lie beyond it
    scales, zeros = grid.scales.float(), None if grid.zero_points is None else grid.zero_points.float()
    learns_zero = form.spec.symmetry == "float"
    weights = torch.randn(6, 64, generator=seeded(1))
    found = []
    for apply in (
        lambda w, s, z: learned_step(w, s, z, form),
        lambda w, s, z: written_out(w, s, z, form.low, form.high),
    ):
        leaves = [values.clone().requires_grad_(), scales.clone().requires_grad_()]
        if zeros is not None:
            leaves.append(zeros.clone().requires_grad_(learns_zero))
        result = apply(*leaves, *[None] * (3 - len(leaves)))
        (result * weights).sum().backward()
        found.append((result.detach(), [leaf.grad for leaf in leaves if leaf.requires_grad]))
    (ours, gradients), (theirs, expected) = found
    torch.testing.assert_close(ours, theirs)
    factor = 1.0 / (64 * form.high) ** 0.5
    assert len(gradients) == 2 + learns_zero
    torch.testing.assert_close(gradients[0], expected[0])
    for gradient, truth in zip(gradients[1:], expected[1:], strict=True):
        torch.testing.assert_close(gradient, truth * factor, rtol=1e-4, atol=1e-4)


def test_straight_through_rounds_and_passes_every_gradient() -> None:
    form = find("nf4/g32")
    values = torch.randn(3, 32, generator=seeded(), requires_grad=True)
    rounded = straight_through(values, form)
    assert torch.equal(rounded, form.dequantize(form.quantize(values.detach())))
    slopes = torch.randn(3, 32, generator=seeded(1))
    rounded.backward(slopes)
    assert values.grad is not None
    assert torch.equal(values.grad, slopes)


def test_only_uniform_integers_learn_their_steps() -> None:
    names = ["int2/g32/asym", "int8/channel/sym", "nf4/g64", "fp8_e4m3/channel"]
    assert [learns_steps(find(name)) for name in names] == [True, True, False, False]


# --- one weight


def unit(llama: LoadedModel, name: str, rank: int = 0) -> tuple[Slot, Quantized, TrainedUnit]:
    slot = next(slot for slot in llama.graph.slots.values() if slot.unit.role == "down_proj")
    start = Rounder(FakeContext(llama), llama, Calibration(TEXT, 256, 32)).quantize(slot, find(name))
    return slot, start, TrainedUnit(slot, start, rank, seeded())


def moved(trained: TrainedUnit) -> None:
    """As if training had taken some large steps."""
    with torch.no_grad():
        for index, tensor in enumerate(trained.learned.values()):
            noise = torch.randn(tensor.shape, generator=seeded(index + 1))
            tensor.add_(noise * tensor.abs().mean().clamp(min=0.01) * 0.3)


NAMES = [
    "int2/g32/asym",
    "int3/g64/sym",
    "int4/channel/float",
    "int5/tensor/asym",
    "int3/g64/asym/keep1.0",
    "int3/g64/asym@gptq",
    "nf4/g64",
    "fp8_e4m3/b128",
]


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("name", NAMES)
def test_a_unit_starts_as_it_was_rounded_and_stays_on_its_grid(
    llama: LoadedModel, name: str, rank: int
) -> None:
    """A row of 96 is no whole number of groups of 64, so that padding is met too."""
    slot, start, trained = unit(llama, name, rank)
    before = slot.matrix().clone()
    assert torch.equal(trained.matrix().detach(), start.matrix)
    moved(trained)
    codes = trained.codes()
    shape = slot.unit.rows, slot.unit.columns
    values = from_blocks(trained.form.dequantize(codes), trained.form, *shape)
    result = trained.matrix().detach()
    assert not torch.equal(result, start.matrix)
    kept = torch.zeros(shape, dtype=torch.bool) if trained.kept is None else trained.kept
    assert torch.equal(result[~kept], values[~kept])
    assert torch.equal(result[kept], before[kept].half().float())
    assert torch.equal(slot.matrix(), before), "the model's own weight is never written to"


def test_lora_trains_an_update_of_its_rank(llama: LoadedModel) -> None:
    slot, _, trained = unit(llama, "int8/channel/sym", rank=4)
    frozen = {name: tensor.clone() for name, tensor in trained.learned.items()}
    with torch.no_grad():
        trained.learned["up"] += torch.randn(trained.learned["up"].shape, generator=seeded(3))
    change = trained._latent().detach() - to_blocks(slot.matrix(), trained.form)
    singular = torch.linalg.svdvals(change)
    assert singular[3] > 1e-3 * singular[0]
    assert singular[4] < 1e-5 * singular[0]
    assert set(frozen) == {"scales", "up", "down"}


# --- the job


@pytest.fixture(scope="module")
def done(llama: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FakeContext, Training]:
    folder = tmp_path_factory.mktemp("arrays")
    context = FakeContext(llama, folder)
    return folder, context, train(context, request(llama, steps=30))


def test_training_wins_kl_back_on_text_it_never_saw(
    llama: LoadedModel, done: tuple[Path, FakeContext, Training]
) -> None:
    folder, context, training = done
    asked = request(llama)
    assert training.kl_after < 0.8 * training.kl_before
    losses = [loss for _, loss in training.curve]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert kl(llama, folder, asked, training.key) < 0.8 * kl(llama, folder, asked)
    assert (training.steps, training.tokens) == (30, 30 * 4 * 32)
    assert training.curve[-1][0] == 30
    assert training.learned == sum(
        unit.parameters + find(INT2).blocks(unit.rows, unit.columns).number
        for unit in llama.info.units
        if unit.decided
    )
    events = [event for event in context.events if isinstance(event, LossEvent)]
    assert events[-1].step == 30
    assert context.fractions == sorted(context.fractions)
    assert not list(folder.glob("training-*")), "a finished training needs no checkpoint"


def test_the_result_is_the_formats_and_nothing_else_changes(
    llama: LoadedModel, done: tuple[Path, FakeContext, Training]
) -> None:
    folder, _, training = done
    trained = units_of(folder, training)
    form: Any = find(INT2)
    rounder = Rounder(FakeContext(llama), llama, Calibration(), trained)
    for name, slot in llama.graph.slots.items():
        if not slot.unit.decided:
            assert name not in training.assignment
            continue
        codes, kept = trained.read(name, llama.device)
        assert kept is None
        assert (codes.values.dtype, codes.grid.scales.dtype) == (torch.int8, torch.float16)
        assert codes.values.min() >= form.low
        assert codes.values.max() <= form.high
        blocks = to_blocks(rounder.matrix(slot, INT2), form)
        for block in range(0, len(blocks), 7):
            levels = form.levels(codes.grid.take(slice(block, block + 1)))
            assert torch.isin(blocks[block], levels).all()
        stored = form.storage(slot.unit.rows, slot.unit.columns)
        assert stored.codes == codes.values.numel() * 2
        assert stored.metadata == codes.grid.scales.numel() * (16 + 2)
    assert rounder.notes == {}


def test_units_that_were_not_trained_in_their_format_are_rounded_and_said(
    llama: LoadedModel, done: tuple[Path, FakeContext, Training]
) -> None:
    folder, _, training = done
    slot = next(iter(slot for slot in llama.graph.slots.values() if slot.unit.decided))
    rounder = Rounder(FakeContext(llama), llama, Calibration(), units_of(folder, training))
    plain = Rounder(FakeContext(llama), llama, Calibration())
    assert torch.equal(rounder.matrix(slot, "int4/g32/asym"), plain.matrix(slot, "int4/g32/asym"))
    assert rounder.notes == {f"{slot.unit.name}: int4/g32/asym": "was not trained in this format"}
    view = LayerRequest(
        llama.info.ref,
        llama.info.fingerprint,
        (slot.unit.name,),
        (INT2,),
        setup=Setup(trained=training.key),
    )
    untrained = replace(view, setup=Setup())
    shown, before = (layer_view(FakeContext(llama, folder), asked) for asked in (view, untrained))
    assert shown.formats[0].dequantized != before.formats[0].dequantized
    assert shown.formats[0].bits_per_weight == before.formats[0].bits_per_weight


def test_a_training_goes_on_from_another(
    llama: LoadedModel, done: tuple[Path, FakeContext, Training]
) -> None:
    folder, _, training = done
    further = request(llama, steps=30, setup=Setup(trained=training.key))
    again = train(FakeContext(llama, folder), further)
    assert again.kl_before == pytest.approx(training.kl_after, rel=1e-5)
    assert again.kl_after < again.kl_before


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "lora"},
        {"setup": Setup(transforms=("rotate",))},
        {"setup": Setup(activations="int8/token", kv_cache="int8")},
    ],
)
def test_other_ways_to_train_learn_too(llama: LoadedModel, tmp_path: Path, changes: dict[str, Any]) -> None:
    training = train(FakeContext(llama, tmp_path), request(llama, steps=25, **changes))
    assert training.kl_after < 0.9 * training.kl_before


@pytest.mark.parametrize("form", ["nf4/g64", "q2_k"])
def test_formats_without_learned_steps_are_trained_straight_through(
    tmp_path: Path, llama: LoadedModel, form: str
) -> None:
    asked = request(llama, steps=15)
    names = [name for name in asked.assignment if "down_proj" in name]
    asked = replace(asked, assignment=dict.fromkeys(names, form))
    training = train(FakeContext(llama, tmp_path), asked)
    assert training.kl_after < training.kl_before
    slot = llama.graph.slots[names[0]]
    rounder = Rounder(FakeContext(llama), llama, Calibration(), units_of(tmp_path, training))
    done = rounder.quantize(slot, find(form))
    assert not torch.equal(done.matrix, Rounder(FakeContext(llama), llama, Calibration()).matrix(slot, form))


@pytest.mark.parametrize("kind", ["gpt2", "mixtral"])
def test_transposed_weights_and_experts_are_trained(tmp_path: Path, kind: str) -> None:
    loaded = load(ModelRef(str(save(kind, tmp_path / "model"))))
    before = {name: parameter.clone() for name, parameter in loaded.model.named_parameters()}
    training = train(FakeContext(loaded, tmp_path), request(loaded, steps=15))
    assert training.kl_after < 0.9 * training.kl_before
    for name, parameter in loaded.model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert not parameter.requires_grad
        assert parameter.grad is None


# --- stopping and going on


class Interrupted(FakeContext):
    """Is cancelled after so many calls of ``progress`` that tell of a step."""

    def __init__(self, loaded: LoadedModel, folder: Path, after: int) -> None:
        super().__init__(loaded, folder)
        self.after = after

    def progress(self, fraction: float, message: str = "") -> None:
        super().progress(fraction, message)
        if message.startswith("step"):
            self.after -= 1
        if self.after < 0:
            raise Cancelled("The job was cancelled.")


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_a_stopped_training_ends_as_if_it_had_not_been_stopped(
    llama: LoadedModel, tmp_path: Path, mode: str
) -> None:
    asked = request(llama, steps=12, mode=mode)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = train(FakeContext(llama, whole), asked)
    for after in (4, 3):
        with pytest.raises(Cancelled):
            train(Interrupted(llama, parts, after), asked)
        assert [path.name for path in parts.glob("training-*")] == [
            f"training-{request_key(asked)}.safetensors"
        ]
    resumed = FakeContext(llama, parts)
    found = train(resumed, asked)
    assert [event.step for event in resumed.events if isinstance(event, LossEvent)][-1] == 12
    assert max(fraction for fraction in resumed.fractions if fraction < 0.5) == 0.0, "it went on, not anew"
    assert found.key == expected.key, "the key is of the weights, to the bit"
    assert found.curve == expected.curve
    assert (found.kl_before, found.kl_after) == (expected.kl_before, expected.kl_after)
    assert not list(parts.glob("training-*"))


def test_a_training_limited_by_time_goes_on_with_the_time_it_had_left(
    llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that moves a tenth of a second whenever it is looked at: the time of a step is the same every time."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks) * 0.1)
    asked = request(llama, steps=0, seconds=1.0)
    with pytest.raises(Cancelled):
        train(Interrupted(llama, tmp_path, 5), asked)
    done = train(FakeContext(llama, tmp_path), asked)
    assert done.steps == 10
    assert done.seconds == pytest.approx(1.0)


def test_a_checkpoint_on_another_text_is_not_taken(llama: LoadedModel, tmp_path: Path) -> None:
    asked = request(llama, steps=6)
    with pytest.raises(Cancelled):
        train(Interrupted(llama, tmp_path, 3), asked)
    path = tmp_path / f"training-{request_key(asked)}.safetensors"
    write_tensors(path, {}, {"text_hash": "of another"})
    assert train(FakeContext(llama, tmp_path), asked).steps == 6


def test_only_the_last_few_stopped_trainings_are_kept(llama: LoadedModel, tmp_path: Path) -> None:
    for seed in range(4):
        with pytest.raises(Cancelled):
            train(Interrupted(llama, tmp_path, 1), request(llama, seed=seed))
    assert len(list(tmp_path.glob("training-*"))) == 3
    assert not list(tmp_path.glob("*.part"))


# --- text and files


def test_text_the_model_wrote_is_read_again(llama: LoadedModel, tmp_path: Path) -> None:
    source = TextSource("self", seed=3)
    first = FakeContext(llama, tmp_path)
    text = read_text(first, llama, source, tokens=2200, length=32)
    assert text.ids.shape == (70, 32), "two parts of 35 sequences"
    assert len({tuple(row) for row in text.ids.tolist()}) == 70
    assert first.fractions
    second = FakeContext(llama, tmp_path)
    again = read_text(second, llama, source, tokens=2200, length=32)
    assert torch.equal(again.ids, text.ids)
    assert (again.text_hash, again.label) == (text.text_hash, text.label)
    assert not second.fractions, "nothing was written"
    other = read_text(second, llama, replace(source, seed=4), tokens=2200, length=32)
    assert other.text_hash != text.text_hash


def test_what_is_held_out_is_not_trained_on() -> None:
    ids = torch.arange(40)[:, None].expand(40, 32)
    kept, held = split_text(ids)
    assert (len(kept), len(held)) == (35, 5)
    assert not set(kept[:, 0].tolist()) & set(held[:, 0].tolist())


def test_every_sequence_is_taken_once_a_turn() -> None:
    taken = [row for step in range(10) for row in run_module._rows(20, step, 4, seed=1)]
    assert sorted(taken[:20]) == sorted(taken[20:]) == list(range(20))
    assert taken[:20] != taken[20:]


def test_the_curve_holds_the_mean_of_all_losses() -> None:
    losses = [float(step) for step in range(1000)]
    curve = run_module._curve(losses)
    assert len(curve) == 250
    assert (curve[0], curve[-1]) == ((4, 1.5), (1000, 997.5))


def test_events_of_both_kinds_are_read_back() -> None:
    for event in (TokenEvent("original", 3, "a"), LossEvent(1, 0.5, 512, 2.0)):
        assert load_event(dump(event)) == event


def test_a_file_reads_back_to_the_bit_and_its_key_is_its_content(tmp_path: Path) -> None:
    form = find("int3/g32/asym/keep1.0")
    matrix = torch.randn(8, 64, generator=seeded())
    codes = form.quantize(to_blocks(matrix, form))
    kept = matrix.abs() > 2
    header = Header("f" * 24, ("rotate",), {"a.weight": "int3/g32/asym/keep1.0@mse"})
    key = write_trained(tmp_path, header, {"a.weight": (codes, kept)})
    assert write_trained(tmp_path, header, {"a.weight": (codes, kept)}) == key
    codes.values[0, 0] ^= 1
    assert write_trained(tmp_path, header, {"a.weight": (codes, kept)}) != key
    codes.values[0, 0] ^= 1
    trained = find_trained(tmp_path, key, "f" * 24, ("rotate",))
    assert trained.header == header
    read, mask = trained.read("a.weight", torch.device("cpu"))
    assert mask is not None
    assert torch.equal(mask, kept)
    assert torch.equal(form.dequantize(read), form.dequantize(codes))
    assert trained.covers("a.weight", form)
    assert not trained.covers("a.weight", find("int3/g32/asym"))
    assert not trained.covers("b.weight", form)


def test_trained_weights_of_another_model_or_rewrite_are_refused(tmp_path: Path) -> None:
    key = write_trained(tmp_path, Header("f" * 24, (), {}), {})
    with pytest.raises(QuantError, match="of another model"):
        find_trained(tmp_path, key, "0" * 24, ())
    with pytest.raises(QuantError, match="made with no rewrite, and this setup has rotate"):
        find_trained(tmp_path, key, "f" * 24, ("rotate",))
    with pytest.raises(QuantError, match="not stored here"):
        find_trained(tmp_path, "0" * 24, "f" * 24, ())
    with pytest.raises(QuantError, match="not stored here"):
        find_trained(tmp_path, "../secret", "f" * 24, ())
    (tmp_path / "trained-bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(QuantError, match="not stored here"):
        find_trained(tmp_path, "bad", "f" * 24, ())


# --- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assignment": {}}, "No weight is to be trained"),
        ({"steps": 0}, "has no end"),
        ({"batch": 0}, "above 0"),
        ({"mode": "lora", "rank": 0}, "above 0"),
        ({"learning_rate": 3.0}, "out of range"),
        ({"assignment": {"no.such.weight": INT2}}, "no.such.weight"),
        ({"setup": Setup(trained="0" * 24)}, "not stored here"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    llama: LoadedModel, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(QuantError, match=message):
        train(FakeContext(llama, tmp_path), request(llama, **changes))


def test_models_that_cannot_be_trained_here_are_refused(
    llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FormatError):
        train(FakeContext(llama, tmp_path), request(llama, "int9/g32"))
    monkeypatch.setattr(run_module, "free_memory", lambda device: 10_000)
    with pytest.raises(ModelError, match=r"needs about .* GB on the CPU"):
        train(FakeContext(llama, tmp_path), request(llama))
    monkeypatch.undo()
    half = load(replace(llama.info.ref, dtype="float16"))
    with pytest.raises(ModelError, match="float16 overflow"):
        train(FakeContext(half, tmp_path), request(half))


# --- through the machinery


def test_a_job_trains_streams_its_loss_and_is_resumed_after_a_cancel(
    llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real runner and store, with everything in this process."""
    monkeypatch.setattr(run_module, "EMIT_SECONDS", 0.0)
    store = Store(tmp_path)
    steps: list[int] = []

    def watched(context: Any, asked: TrainRequest) -> Training:
        emit = context.emit

        def note(event: LossEvent) -> None:
            emit(event)
            steps.append(event.step)
            if len(steps) == 3:
                store.jobs.cancel(job.id)

        context.emit = note
        return train(context, asked)

    runner = Runner(store, {"train": watched, "load": lambda ref, roots: llama})
    asked = request(llama, steps=6)
    job = store.jobs.add(asked)
    for state in ("cancelled", "done"):
        ticket = store.jobs.take()
        assert ticket is not None
        job = ticket.job
        runner.run(ticket)
        assert store.jobs.get(job.id).state == state
        if state == "cancelled":
            store.jobs.add(asked)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in store.jobs.events(job.id) if isinstance(event, LossEvent)] == [4, 5, 6]
    result = store.results.get(request_key(asked))
    assert isinstance(result, Training)
    assert (tmp_path / "arrays" / f"trained-{result.key}.safetensors").is_file()
    assert store.results.of_kind("train", llama.info.fingerprint) == [result]
    store.close()
