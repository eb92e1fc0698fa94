"""The measured sweep: equal to the plain one, exactly 0 where nothing changes, and safe to stop at any time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from quant_core.calibration.text import Tokens
from quant_core.errors import Cancelled, ModelError
from quant_core.formats import find
from quant_core.methods.rounder import Rounder
from quant_core.metrics import kl_divergence, log_probabilities
from quant_core.models.graph import build_graph
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel
from quant_core.models.patch import bypassed, patched, stackable, stacked, swap, watched
from quant_core.models.prefix import Prefix
from quant_core.schema import SensitivityRequest, TextSource, replace
from quant_core.sensitivity.errors import RoundingErrors
from quant_core.sensitivity.measured import Sweep, measure_layers
from quant_core.sensitivity.points import Points
from quant_core.sensitivity.run import run
from tests.tiny import PROSE, FakeContext

FORMATS = [find("int2/g32/asym"), find("int4/g32/asym"), find("int8/g32/asym")]


def _sweep(loaded: LoadedModel, rows: int = 3) -> Sweep:
    ids = torch.randint(1, 384, (rows, 16), generator=torch.Generator().manual_seed(4))
    tokens = Tokens(ids, "t", "")
    errors = RoundingErrors(FORMATS, Rounder(FakeContext(loaded), loaded, tokens))
    return Sweep(loaded, tokens, list(loaded.graph.slots.values()), errors)


def _points(sweep: Sweep, folder: Path) -> Points:
    return Points(folder, "key", (len(sweep.slots), len(FORMATS), len(sweep.tokens.ids)), {"text": "t"})


def _plain(sweep: Sweep) -> Tensor:
    """A full pass for every point and two softmaxes, all sequences at once."""
    model: Any = sweep.loaded.model
    found = torch.zeros(len(sweep.slots), len(FORMATS), len(sweep.tokens.ids))
    with torch.no_grad():
        reference = log_probabilities(model(sweep.tokens.ids).logits)
        for row, slot in enumerate(sweep.slots):
            for column, form in enumerate(FORMATS):
                changed = {slot.unit.name: slot.matrix() + sweep.errors.of(slot, form)}
                with patched(swap(sweep.loaded.graph, changed)):
                    other = log_probabilities(model(sweep.tokens.ids).logits)
                found[row, column] = kl_divergence(reference, other).mean(dim=1)
    return found


def test_the_sweep_equals_the_plain_one(tiny: LoadedModel, tmp_path: Path) -> None:
    """Every architecture, embedding and head included; batches of two sequences, the last of one.

    Then two formats at a time, so that the third stands beside one that fills up.
    """
    sweep = _sweep(tiny)
    points, together = _points(sweep, tmp_path), _points(sweep, tmp_path)
    assert measure_layers(FakeContext(tiny), sweep, points, rows=2) == ()
    plain = _plain(sweep)
    torch.testing.assert_close(points.kl, plain, rtol=1e-3, atol=1e-6)
    assert plain.max() > 0.01, "there is something to agree on"
    assert stackable(tiny.graph) == (tiny.info.architecture != "MixtralForCausalLM")
    if stackable(tiny.graph):
        measure_layers(FakeContext(tiny), sweep, together, copies=2)
        torch.testing.assert_close(together.kl, plain, rtol=1e-3, atol=1e-6)


def test_running_out_of_memory_halves_the_batch_and_says_so(
    llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = _sweep(llama)
    whole, begin = _points(sweep, tmp_path), Prefix.begin
    measure_layers(FakeContext(llama), sweep, whole, rows=3)

    def limited(self: Prefix, ids: Tensor) -> Tensor:
        if len(ids) > most:
            raise torch.OutOfMemoryError("made up")
        return begin(self, ids)

    monkeypatch.setattr(Prefix, "begin", limited)
    most, points = 1, _points(sweep, tmp_path / "other")
    (note,) = measure_layers(FakeContext(llama), sweep, points, rows=3)
    assert note == "Memory ran out, so the rest was measured with 1 sequences at a time."
    torch.testing.assert_close(points.kl, whole.kl, rtol=1e-4, atol=1e-8)
    most = 0
    with pytest.raises(ModelError, match="does not hold one sequence"):
        measure_layers(FakeContext(llama), sweep, _points(sweep, tmp_path / "third"), rows=3)


class _Unchanged(RoundingErrors):
    """Errors that are none."""

    def of(self, slot: Slot, form: Any) -> Tensor:
        return torch.zeros(slot.unit.rows, slot.unit.columns)


def test_what_does_not_change_costs_exactly_nothing(tiny: LoadedModel, tmp_path: Path) -> None:
    sweep = _sweep(tiny)
    nothing = replace(sweep, errors=_Unchanged(FORMATS, Rounder(FakeContext(tiny), tiny, sweep.tokens)))
    points = _points(sweep, tmp_path)
    measure_layers(FakeContext(tiny), nothing, points, rows=2)
    assert points.done.all()
    assert points.kl.abs().max().item() == 0.0


def test_most_of_the_model_is_not_computed_again(llama: LoadedModel) -> None:
    """Before the down projection of block 1 lie all other modules but the last norm and the head."""
    slot = llama.graph.slots["model.layers.1.mlp.down_proj.weight"]
    ids = torch.randint(1, 384, (2, 10))
    prefix = Prefix(llama, [slot], ids)
    logits = prefix.begin(ids)
    names = {module: name for name, module in llama.model.named_modules()}
    kept = {names[module] for module in prefix.answers(slot, logits)}
    inside = {
        "input_layernorm",
        "self_attn",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.act_fn",
    }
    assert kept >= {f"model.layers.1.{name}" for name in inside} | {"model.layers.0", "model.embed_tokens"}
    assert not any("down_proj" in name or name.startswith("model.layers.0.") for name in kept)


def _copied(loaded: LoadedModel) -> LoadedModel:
    model = copy.deepcopy(loaded.model)
    return replace(loaded, model=model, graph=build_graph(model, 32))


def _in_place(module: Any, args: Any, output: Tensor) -> None:
    output.mul_(1.1)


def _by_turns() -> Callable[..., Tensor]:
    turn = iter(range(10**6))
    return lambda module, args, output: output * (1 + 0.2 * (next(turn) % 2))


@pytest.mark.parametrize("hook", ["in place", "by turns"])
def test_a_model_that_cannot_be_kept_is_run_as_a_whole(llama: LoadedModel, tmp_path: Path, hook: str) -> None:
    """Once something writes to what a block answered; once a module answers otherwise every other time."""
    loaded = _copied(llama)
    model: Any = loaded.model
    if hook == "in place":
        model.model.layers[1].register_forward_pre_hook(lambda module, args: _in_place(module, args, args[0]))
    else:
        model.model.layers[0].mlp.register_forward_hook(_by_turns())
    sweep = _sweep(loaded)
    points = _points(sweep, tmp_path)
    notes = measure_layers(FakeContext(loaded), sweep, points)
    assert any("every point ran all of it" in note for note in notes)
    if hook == "in place":
        torch.testing.assert_close(points.kl, _plain(sweep), rtol=1e-3, atol=1e-6)


def test_everything_is_as_before_when_something_goes_wrong_inside(llama: LoadedModel) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    module = llama.model.get_submodule("model.layers.0.mlp.up_proj")
    ids = torch.randint(1, 384, (2, 10))
    model: Any = llama.model
    with torch.no_grad():
        before = model(ids).logits
        zero = torch.zeros(96, 64)
        answer = torch.zeros(2, 10, 96)
        for change in (
            lambda: bypassed({module: answer}),
            lambda: stacked(llama.graph, name, [zero, zero]),
            lambda: watched([module], lambda: None),
        ):
            with pytest.raises(IndexError), change():
                model(ids + 10**6)
            assert "forward" not in vars(module)
            assert not module._forward_pre_hooks
            assert torch.equal(model(ids).logits, before)


class Stopping(FakeContext):
    """Cancelled at a number of steps, or as soon as a pass looks."""

    def __init__(self, loaded: LoadedModel, folder: Path, steps: int, passes: bool = False) -> None:
        super().__init__(loaded, folder)
        self.left = steps
        self.passes = passes
        self.said: list[str] = []

    def progress(self, fraction: float, message: str = "") -> None:
        super().progress(fraction, message)
        self.said.append(message)
        if self.left == 0:
            raise Cancelled("The job was cancelled.")
        self.left -= 1

    def check_cancelled(self) -> None:
        if self.passes:
            raise Cancelled("The job was cancelled.")


def test_a_stopped_sweep_goes_on_from_there(llama: LoadedModel, tmp_path: Path) -> None:
    request = SensitivityRequest(
        llama.info.ref,
        llama.info.fingerprint,
        ("int2", "int3"),
        TextSource("inline", PROSE * 12),
        256,
        32,
        "measured",
    )
    whole = run(FakeContext(llama), request)
    first = Stopping(llama, tmp_path, 11)
    with pytest.raises(Cancelled):
        run(first, request)
    assert list(tmp_path.glob("measured-*"))
    second = Stopping(llama, tmp_path, -1)
    resumed = run(second, request)
    assert second.said[0].startswith("11 of 28 points")
    assert sum(" points: " in said for said in second.said) == 28 - 11
    assert replace(resumed, seconds=0.0) == replace(whole, seconds=0.0)
    assert not list(tmp_path.glob("measured-*")), "a sweep that is done leaves no file"


def test_the_file_of_another_text_is_not_taken_up(llama: LoadedModel, tmp_path: Path) -> None:
    sweep = _sweep(llama)
    points = _points(sweep, tmp_path)
    points.put(0, 0, slice(0, 2), torch.ones(2), torch.zeros(2))
    points.save()
    assert _points(sweep, tmp_path).done.sum() == 2
    assert Points(tmp_path, "key", (len(sweep.slots), 3, 3), {"text": "other"}).done.sum() == 0


def test_a_long_pass_is_left_when_the_job_is_cancelled(
    llama: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quant_core.calibration.interruption.LOOK_SECONDS", 0.0)
    before = {name: parameter.data_ptr() for name, parameter in llama.model.named_parameters()}
    sweep = _sweep(llama)
    with pytest.raises(Cancelled):
        measure_layers(Stopping(llama, tmp_path, -1, passes=True), sweep, _points(sweep, tmp_path))
    assert before == {name: parameter.data_ptr() for name, parameter in llama.model.named_parameters()}
    assert not any(module._forward_pre_hooks for module in llama.model.modules())


class _Broken(RoundingErrors):
    """In the second format the first unit of a block is infinite."""

    def of(self, slot: Slot, form: Any) -> Tensor:
        error = super().of(slot, form)
        return error * math.inf if form is FORMATS[1] and "0.self_attn.v" in slot.unit.name else error


def test_logits_that_are_not_finite_are_named_and_poison_nothing(llama: LoadedModel, tmp_path: Path) -> None:
    sweep = _sweep(llama)
    broken = replace(sweep, errors=_Broken(FORMATS, Rounder(FakeContext(llama), llama, sweep.tokens)))
    points = _points(sweep, tmp_path)
    notes = measure_layers(FakeContext(llama), broken, points)
    assert points.kl.isfinite().all()
    (note,) = notes
    assert note.startswith(
        "model.layers.0.self_attn.v_proj.weight: int4/g32/asym gave logits that are not finite"
    )
    assert "at 48 positions" in note
    row = next(row for row, slot in enumerate(sweep.slots) if "0.self_attn.v" in slot.unit.name)
    assert points.kl[row, 1].tolist() == pytest.approx([math.log(384)] * 3)
    assert points.kl[row, 0].max() < math.log(384)
