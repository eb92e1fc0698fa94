"""The scores: the Fisher score against an independent derivative and against measured KL, and how they are kept."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor
from transformers import AutoModelForCausalLM

from quant_core.calibration.batches import MOST_LABELS, label_uniforms
from quant_core.calibration.capture import Product, capture
from quant_core.calibration.text import Tokens, tokenize
from quant_core.formats import fake_quantize, find
from quant_core.methods.rounder import Rounder
from quant_core.models.graph import Graph, build_graph
from quant_core.models.loading import LoadedModel
from quant_core.models.patch import patched, swap
from quant_core.schema import CALIBRATION, ScoresEvent, SensitivityRequest, TextSource, replace
from quant_core.sensitivity import fisher, passes
from quant_core.sensitivity import run as run_module
from quant_core.sensitivity.errors import RoundingErrors
from quant_core.sensitivity.fisher import bootstrap_error, score_layers, uncertainty
from quant_core.sensitivity.measured import Sweep, measure_layers
from quant_core.sensitivity.points import Points
from quant_core.sensitivity.run import run
from tests.tiny import PROSE, FakeContext

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

TEXT = TextSource("inline", PROSE * 12, "prose")


def request(loaded: LoadedModel, **changes: Any) -> SensitivityRequest:
    info = loaded.info
    base = SensitivityRequest(info.ref, info.fingerprint, ("int3", "int4"), TEXT, tokens=512, sequence=64)
    return replace(base, **changes)


def _labels(loaded: LoadedModel, ids: Tensor, seed: int, label: int) -> Tensor:
    """Labels drawn from the model's own distribution, by a plain search through its cumulative sums."""
    model: Any = loaded.model
    chances = model(ids).logits.softmax(-1)
    target = label_uniforms(len(ids), ids.shape[1], seed, label)[..., None] * chances.sum(-1, keepdim=True)
    return (chances.cumsum(-1) > target).float().argmax(-1)


def _mean_square_slope(loaded: LoadedModel, ids: Tensor, seed: int, factor: Tensor, labels: int = 1) -> float:
    """1/2 the mean square of d log p(labels) / d factor, with hooks in place that make logits depend on it."""
    model: Any = loaded.model
    squares = []
    for label in range(labels):
        drawn = _labels(loaded, ids, seed, label)
        log_probs = model(ids).logits.log_softmax(-1).gather(-1, drawn[..., None]).sum()
        squares.append(torch.autograd.grad(log_probs, factor)[0].square().mean())
    return float(torch.stack(squares).mean() / 2)


def _ids(rows: int, length: int) -> Tensor:
    return torch.randint(1, 384, (rows, length), generator=torch.Generator().manual_seed(1))


def _score(loaded: LoadedModel, ids: Tensor, name: str, precision: float = 0.0) -> tuple[float, Tensor]:
    """The score of one unit in a 3-bit format, and its rounding error."""
    slot = loaded.graph.slots[name]
    form = find("int3/g32/asym")
    errors = RoundingErrors([form], Rounder(FakeContext(loaded), loaded, Tokens(ids, "", "")))
    context, tokens = FakeContext(loaded), Tokens(ids, "", "")
    scores = score_layers(context, loaded, tokens, [slot], errors, seed=5, precision=precision)
    assert scores.fisher is not None
    return scores.fisher.mean().item(), fake_quantize(form, slot.matrix()) - slot.matrix()


@pytest.mark.parametrize(
    ("end", "labels"),
    [("mlp.down_proj.weight", 3), ("self_attn.q_proj.weight", 1), ("embed_tokens.weight", 1)],
)
def test_fisher_equals_its_definition(
    llama: LoadedModel, end: str, labels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The score from its definition: the derivative of the labels' log-probability by a factor e_t on dW x_t.

    Independent of the capture code: a plain hook adds e_t dW x_t to the unit's output at token t (to the embedding's
    output and the head's, where both use the weight), and autograd differentiates by e.
    """
    name = next(unit.name for unit in llama.info.units if unit.name.endswith(end))
    ids = _ids(2, 40)
    monkeypatch.setattr(fisher, "MOST_LABELS", labels)
    ours, error = _score(llama, ids, name, precision=1e-9)
    factor = torch.zeros(*ids.shape, 1, requires_grad=True)

    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        moved = error[args[0]] if args[0].dtype == torch.long else args[0] @ error.T
        return output + factor * moved

    parameter = llama.graph.slots[name].parameter
    using = [module for module in llama.model.modules() if getattr(module, "weight", None) is parameter]
    handles = [module.register_forward_hook(hook) for module in using]
    expected = _mean_square_slope(llama, ids, 5, factor, labels)
    for handle in handles:
        handle.remove()
    assert len(using) == (2 if "embed" in end else 1)
    assert ours == pytest.approx(expected, rel=1e-4)


def test_values_are_scored_behind_their_attention(llama: LoadedModel, tmp_path: Path) -> None:
    """For values, e_s stands at the attention's output: e_s sum_t a_st dW x_t.

    The attention weights a come from transformers' eager implementation of the same model.
    """
    name = "model.layers.1.self_attn.v_proj.weight"
    ids = _ids(2, 40)
    ours, error = _score(llama, ids, name)
    model: Any = llama.model
    model.save_pretrained(tmp_path)
    eager: Any = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    attention = model.model.layers[1].self_attn
    kept: dict[str, Tensor] = {}
    handles = [attention.v_proj.register_forward_hook(lambda module, args, output: kept.update(x=args[0]))]
    with torch.no_grad():
        weights = eager(ids, output_attentions=True).attentions[1]
        model(ids)
        moved = (kept["x"] @ error.T).view(2, 40, 2, 16).transpose(1, 2).repeat_interleave(2, dim=1)
        behind = (weights @ moved).transpose(1, 2).reshape(2, 40, 64)
    factor = torch.zeros(2, 40, 1, requires_grad=True)
    handles.append(attention.o_proj.register_forward_pre_hook(lambda module, args: args[0] + factor * behind))
    expected = _mean_square_slope(llama, ids, 5, factor)
    for handle in handles:
        handle.remove()
    assert ours == pytest.approx(expected, rel=1e-3)


def test_errors_behind_the_attention_equal_finite_differences(tiny: LoadedModel) -> None:
    """Change a weight by +-h dW, look at what the attention hands on, and divide: in float64, for every architecture.

    GPT-2 makes queries, keys and values with one weight; Llama and Qwen2 rotate their keys, Qwen2 and OPT have biases.
    """
    model: Any = copy.deepcopy(tiny.model).double()
    if tiny.info.architecture == "MixtralForCausalLM":
        model.set_experts_implementation("eager")  # the default one has no float64
    graph = build_graph(model, 32)
    ids = _ids(2, 20)
    found: dict[str, Product] = {}

    class Watch:
        def forward(self, product: Product, outputs: Tensor) -> None:
            pass

        def backward(self, product: Product, gradient: Tensor) -> None:
            pass

        def backward_mixed(self, product: Product, gradient: Tensor) -> None:
            found[product.slot.unit.name] = product

    with capture(graph, Watch(), model):
        model(ids).logits.sum().backward()
    fused = tiny.info.architecture == "GPT2LMHeadModel"
    assert {graph.slots[name].unit.role for name in found} == ({"c_attn"} if fused else {"k_proj", "v_proj"})
    assert len(found) == (2 if fused else 4)
    for name, product in found.items():
        if graph.slots[name].unit.block == 1:
            assert product.slopes is not None
            assert product.mixed is not None
            dice = torch.Generator().manual_seed(3)
            error = torch.randn(product.slot.matrix().shape, generator=dice).double()
            error[~product.mixed] = 0
            expected = _difference(graph, model, ids, name, error)
            moved = product.inputs @ error.T
            for _ in range(3):
                gradient = torch.randn(expected.shape, generator=dice).double()
                along = (gradient * expected).sum(dim=-1)
                slopes = product.slopes([moved, -2 * moved], gradient).double()
                torch.testing.assert_close(slopes, torch.stack([along, -2 * along]), rtol=1e-4, atol=1e-5)


def _difference(graph: Graph, model: Any, ids: Tensor, name: str, error: Tensor) -> Tensor:
    """D (what block 1's attention hands to its output projection) / dh for weight + h error, by central differences."""
    slot = graph.slots[name]
    parent = model.get_submodule(name.rpartition(".")[0].rpartition(".")[0])
    after = next(getattr(parent, role) for role in ("o_proj", "c_proj", "out_proj") if hasattr(parent, role))
    seen: list[Tensor] = []
    handle = after.register_forward_pre_hook(lambda module, args: seen.append(args[0].flatten(0, -2)))
    step = 1e-5
    for sign in (1, -1):
        with torch.no_grad(), patched(swap(graph, {name: slot.matrix() + sign * step * error})):
            model(ids)
    handle.remove()
    return (seen[0] - seen[1]) / (2 * step)


def test_experts_and_transposed_weights_are_captured_as_matrices(tiny: LoadedModel) -> None:
    """Every product shown is W x, and the model computes the same with and without the capture."""
    ids = torch.randint(1, 384, (2, 30), generator=torch.Generator().manual_seed(2))
    model: Any = tiny.model
    seen: dict[str, int] = {}

    class Check:
        def forward(self, product: Product, outputs: Tensor) -> None:
            weight = product.slot.matrix()
            result = weight[product.inputs] if product.lookup else product.inputs @ weight.T
            torch.testing.assert_close(outputs, result, rtol=1e-4, atol=1e-4)
            seen[product.slot.unit.name] = seen.get(product.slot.unit.name, 0) + len(outputs)

        def backward(self, product: Product, gradient: Tensor) -> None:
            raise AssertionError("no gradient flows here")

        backward_mixed = backward

    with torch.no_grad():
        plain = model(ids).logits
        with capture(tiny.graph, Check(), model):
            captured = model(ids).logits
        after = model(ids).logits
    torch.testing.assert_close(captured, plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(after, plain)
    routed = tiny.info.architecture == "MixtralForCausalLM"
    for unit in tiny.info.units:
        if unit.kind != "expert":
            times = 2 if unit.tied else 1
            assert seen[unit.name] == 60 * times
    if routed:
        for block in range(2):
            shares = [seen.get(f"model.layers.{block}.mlp.experts.down_proj[{e}]", 0) for e in range(4)]
            assert sum(shares) == 120, "two experts a token"


def test_scores_of_every_architecture_follow_the_measured_kl(tiny: LoadedModel) -> None:
    """Random weights make a poor but real test: the order of units is found, whatever the kind of layer."""
    context = FakeContext(tiny)
    fisher = run(context, request(tiny, embeddings=True))
    measured = run(context, request(tiny, embeddings=True, score="measured"))
    assert fisher.units == measured.units == tuple(unit.name for unit in tiny.info.units)
    for column in range(2):
        ours, truth = np.array(fisher.fisher)[:, column], np.array(measured.measured)[:, column]
        assert spearmanr(ours, truth).statistic > 0.6
        assert np.all(ours > 0)
    assert context.fractions == [0.0, *context.fractions[1:]]
    assert all(0.0 <= fraction <= 1.0 for fraction in context.fractions)


def test_same_request_same_scores(llama: LoadedModel) -> None:
    first, second = (run(FakeContext(llama), request(llama)) for _ in range(2))
    assert replace(first, seconds=0.0) == replace(second, seconds=0.0)
    other = run(FakeContext(llama), request(llama, seed=1))
    assert other.fisher != first.fisher


def test_weight_error_by_hand(llama: LoadedModel) -> None:
    table = run(FakeContext(llama), request(llama, score="weight"))
    name = table.units[0]
    weight = llama.graph.slots[name].matrix()
    error = fake_quantize(find("int3/g64/asym"), weight) - weight
    assert table.weight[0][0] == pytest.approx(float(error.square().sum() / weight.square().sum()), rel=1e-5)
    assert table.fisher == table.measured == table.output == ()


def test_output_error_needs_no_gradient(llama: LoadedModel) -> None:
    quick = run(FakeContext(llama), request(llama, score="output"))
    full = run(FakeContext(llama), request(llama))
    np.testing.assert_allclose(quick.output, full.output, rtol=1e-4)
    assert quick.fisher == ()


def test_measured_leaves_the_model_as_it_was(llama: LoadedModel) -> None:
    before = {name: p.detach().clone() for name, p in llama.model.named_parameters()}
    run(FakeContext(llama), request(llama, score="measured", formats=("int2",), tokens=128))
    assert all(torch.equal(p, before[name]) for name, p in llama.model.named_parameters())


def test_storage_in_the_table_is_the_formats(llama: LoadedModel) -> None:
    table = run(FakeContext(llama), request(llama, score="weight", formats=("int4/g64/asym", "original")))
    assert table.formats == ("int4/g64/asym",)
    index = table.units.index("model.layers.0.mlp.down_proj.weight")
    assert table.storage_bits[index] == (64 * 128 * 4 + 64 * 2 * 20,)
    assert table.padded[index] == (64 * 32,), "96 inputs fill one and a half groups of 64"


def test_scores_are_streamed_from_the_weights_alone_to_the_last_part(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a sweep of 16 sequences in batches of 4 says after 8 of them is what a sweep of those 8 says."""
    monkeypatch.setattr(passes, "batch_rows", lambda *_: 4)
    context = FakeContext(llama)
    whole = run(context, request(llama, tokens=1024))
    tables = [event.table for event in context.events if isinstance(event, ScoresEvent)]
    assert len(tables) == len(context.events)
    assert [table.sequences for table in tables] == [0, 4, 8, 12]
    assert [table.tokens for table in tables] == [0, 256, 512, 768]
    assert not tables[0].fisher
    assert not tables[0].output
    assert all(table.weight == whole.weight for table in tables)
    half = run(FakeContext(llama), request(llama, tokens=512))
    assert half.sequences == 8, "the comparison needs the same sequences"
    np.testing.assert_allclose(tables[2].fisher, half.fisher, rtol=1e-4)
    np.testing.assert_allclose(tables[2].output, half.output, rtol=1e-4)


def test_labels_depend_on_seed_label_and_place_alone(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a text is cut into batches, the same labels are drawn, and more sequences leave the first ones' alone."""
    assert torch.equal(label_uniforms(5, 40, 3)[:2], label_uniforms(2, 40, 3))
    drawn = [label_uniforms(2, 8, seed, label) for seed in range(3) for label in range(MOST_LABELS)]
    assert len({tuple(numbers.flatten().tolist()) for numbers in drawn}) == len(drawn)
    whole = run(FakeContext(llama), request(llama, formats=("int3",)))
    monkeypatch.setattr(passes, "batch_rows", lambda *_: 3)
    np.testing.assert_allclose(
        run(FakeContext(llama), request(llama, formats=("int3",))).fisher, whole.fisher, rtol=1e-4
    )


def test_labels_are_drawn_until_scores_are_as_certain_as_asked(llama: LoadedModel) -> None:
    """Readings stop at the first whose standard error is small enough; what cannot be had is told."""
    once = run(FakeContext(llama), request(llama, precision=9.0))
    assert once.fisher == run(FakeContext(llama), request(llama)).fisher
    assert once.labels == 1
    context = FakeContext(llama)
    most = run(context, request(llama, precision=1e-9))
    assert most.labels == MOST_LABELS
    assert any(f"after {MOST_LABELS} readings" in note for note in most.notes)
    assert context.fractions == sorted(context.fractions)
    left = [
        np.median(np.array(table.fisher_stderr) / np.array(table.fisher), axis=0).max()
        for table in (once, most)
    ]
    between = run(FakeContext(llama), request(llama, precision=float(left[0] + left[1]) / 2))
    assert 1 < between.labels < MOST_LABELS
    assert not any("readings" in note for note in between.notes)
    assert most.output == between.output == once.output


def test_uncertainty_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three units and two formats of mean 1 and 2 with known errors: the medians are 0.2 and 0.3."""
    errors = torch.tensor([[0.1, 0.2], [0.2, 0.6], [0.9, 4.0]])
    monkeypatch.setattr(fisher, "bootstrap_error", lambda *_: errors)
    scores = torch.tensor([1.0, 2.0])[:, None].expand(3, 2, 4)
    assert uncertainty(scores, 0) == pytest.approx(0.3)
    assert uncertainty(torch.zeros(0, 2, 4), 0) == uncertainty(torch.zeros(3, 0, 4), 0) == 0.0


def test_at_most_so_many_parts_are_streamed(llama: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "batch_rows", lambda *_: 1)
    monkeypatch.setattr(run_module, "PARTS", 3)
    context = FakeContext(llama)
    run(context, request(llama, score="output"))
    assert [event.table.sequences for event in context.events if isinstance(event, ScoresEvent)] == [0, 3, 6]


def test_bootstrap_error_of_a_known_sample() -> None:
    """For the mean of n values the bootstrap's error tends to their deviation (n in the denominator) / sqrt(n)."""
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    expected = float(values.std(correction=0)) / 20
    assert bootstrap_error(values[None], seed=1).item() == pytest.approx(expected, rel=0.15)
    assert bootstrap_error(torch.ones(2, 3, 8), 0).tolist() == [[0.0] * 3] * 2
    assert bootstrap_error(torch.ones(2, 3, 1), 0).tolist() == [[0.0] * 3] * 2


@pytest.fixture(scope="module")
def maps(bundled: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Array, Array]:
    """Fisher scores and measured KL of the bundled model in INT4 on the same 1,024 tokens."""
    info, context = bundled.info, FakeContext(bundled)
    asked = SensitivityRequest(info.ref, info.fingerprint, ("int4",), CALIBRATION, tokens=1024, sequence=256)
    table = run(context, asked)
    slots = [slot for slot in bundled.graph.slots.values() if slot.unit.decided]
    tokens = tokenize(context, bundled, CALIBRATION, 1024, 256)
    errors = RoundingErrors([find(name) for name in table.formats], Rounder(context, bundled, tokens))
    points = Points(tmp_path_factory.mktemp("points"), "maps", (len(slots), 1, len(tokens.ids)), {})
    measure_layers(context, Sweep(bundled, tokens, slots, errors), points)
    return np.array(table.fisher), points.kl.mean(dim=-1).numpy()


@pytest.mark.timeout(900)
def test_fisher_ranks_the_bundled_model_as_measured(maps: tuple[Array, Array]) -> None:
    predicted, measured = maps
    assert spearmanr(predicted[:, 0], measured[:, 0]).statistic >= 0.97


@pytest.mark.timeout(900)
def test_summed_prediction_is_near_the_summed_truth(maps: tuple[Array, Array]) -> None:
    predicted, measured = maps
    truth = measured.sum()
    assert truth < 0.3
    assert predicted.sum() == pytest.approx(truth, rel=0.1)
