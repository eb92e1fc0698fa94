"""The scores: the Fisher score against an independent derivative and against measured KL, and how they are kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from quant_core.calibration.capture import Product, capture
from quant_core.calibration.text import Tokens
from quant_core.formats import fake_quantize, find
from quant_core.models.loading import LoadedModel
from quant_core.schema import CALIBRATION, ScoreTable, SensitivityRequest, TextSource, replace
from quant_core.sensitivity.errors import RoundingErrors
from quant_core.sensitivity.fisher import bootstrap_error, score_layers
from quant_core.sensitivity.run import run
from tests.tiny import PROSE, FakeContext

TEXT = TextSource("inline", PROSE * 12, "prose")


def request(loaded: LoadedModel, **changes: Any) -> SensitivityRequest:
    info = loaded.info
    base = SensitivityRequest(info.ref, info.fingerprint, ("int3", "int4"), TEXT, tokens=512, sequence=64)
    return replace(base, **changes)


def _score_by_perturbation(loaded: LoadedModel, ids: Tensor, name: str, error: Tensor, seed: int) -> float:
    """The score from its definition: the derivative of the labels' log-probability by a factor e_t on dW x_t.

    Independent of the capture code: a plain hook adds e_t dW x_t to the unit's output at token t (to the embedding's
    output and the head's, where both use the weight), and autograd differentiates by e.
    """
    model: Any = loaded.model
    logits = model(ids).logits
    chances = logits.softmax(-1)
    uniform = torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed))
    labels = (chances.cumsum(-1) > uniform[..., None] * chances.sum(-1, keepdim=True)).float().argmax(-1)
    factor = torch.zeros(*ids.shape, 1, requires_grad=True)
    handles = []
    for module in model.modules():
        if getattr(module, "weight", None) is not loaded.graph.slots[name].parameter:
            continue

        def hook(module: Any, args: Any, output: Tensor) -> Tensor:
            x = args[0]
            moved = error[x] if x.dtype == torch.long else x @ error.T
            return output + factor * moved

        handles.append(module.register_forward_hook(hook))
    log_probs = model(ids).logits.log_softmax(-1).gather(-1, labels[..., None]).sum()
    (slope,) = torch.autograd.grad(log_probs, factor)
    for handle in handles:
        handle.remove()
    return float(slope.square().mean() / 2)


@pytest.mark.parametrize("end", ["mlp.down_proj.weight", "self_attn.k_proj.weight", "embed_tokens.weight"])
def test_fisher_equals_its_definition(llama: LoadedModel, end: str) -> None:
    name = next(unit.name for unit in llama.info.units if unit.name.endswith(end))
    ids = torch.randint(1, 384, (2, 40), generator=torch.Generator().manual_seed(1))
    slot = llama.graph.slots[name]
    form = find("int3/g32/asym")
    scores = score_layers(
        FakeContext(llama), llama, Tokens(ids, "", ""), [slot], RoundingErrors([form]), seed=5
    )
    assert scores.fisher is not None
    error = fake_quantize(form, slot.matrix()) - slot.matrix()
    expected = _score_by_perturbation(llama, ids, name, error, seed=5)
    assert scores.fisher.mean().item() == pytest.approx(expected, rel=1e-4)


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

    with torch.no_grad():
        plain = model(ids).logits
        with capture(tiny.graph, Check(), model.get_input_embeddings()):
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


def test_bootstrap_error_of_a_known_sample() -> None:
    """For the mean of n values the bootstrap's error tends to their deviation (n in the denominator) / sqrt(n)."""
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    expected = float(values.std(correction=0)) / 20
    assert bootstrap_error(values[None], seed=1).item() == pytest.approx(expected, rel=0.15)
    assert bootstrap_error(torch.ones(2, 3, 8), 0).tolist() == [[0.0] * 3] * 2
    assert bootstrap_error(torch.ones(2, 3, 1), 0).tolist() == [[0.0] * 3] * 2


@pytest.fixture(scope="module")
def maps(bundled: LoadedModel) -> tuple[ScoreTable, ScoreTable]:
    """Fisher and measured scores of the bundled model on the same 2,048 tokens."""
    info = bundled.info
    asked = SensitivityRequest(
        info.ref, info.fingerprint, ("int3", "int4"), CALIBRATION, tokens=2048, sequence=256
    )
    return run(FakeContext(bundled), asked), run(FakeContext(bundled), replace(asked, score="measured"))


@pytest.mark.timeout(900)
def test_fisher_ranks_the_bundled_model_as_measured(maps: tuple[ScoreTable, ScoreTable]) -> None:
    fisher, measured = (np.array(table) for table in (maps[0].fisher, maps[1].measured))
    for column in range(2):
        assert spearmanr(fisher[:, column], measured[:, column]).statistic >= 0.95


@pytest.mark.timeout(900)
def test_summed_prediction_is_near_the_summed_truth(maps: tuple[ScoreTable, ScoreTable]) -> None:
    fisher, measured = (np.array(table) for table in (maps[0].fisher, maps[1].measured))
    for column in range(2):
        truth = measured[:, column].sum()
        assert truth < 0.3
        assert fisher[:, column].sum() == pytest.approx(truth, rel=0.15)
