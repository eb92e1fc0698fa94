"""Rounding methods one by one, the rounder that applies them, and what they learn from the calibration text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quant_core.calibration.inputs import Inputs
from quant_core.calibration.statistics import collect
from quant_core.calibration.text import Tokens, tokenize
from quant_core.errors import FormatError
from quant_core.formats import (
    FAMILIES,
    Codes,
    Format,
    fake_quantize,
    find,
    from_blocks,
    join,
    place,
    split,
    to_blocks,
)
from quant_core.methods import rounder as rounder_module
from quant_core.methods import rounding
from quant_core.methods.rounder import Rounder
from quant_core.methods.rounding import gptq
from quant_core.methods.rounding._common import SHRINKS, importance_blocks
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel, load
from quant_core.schema import CALIBRATION, ORIGINAL, Calibration, ModelRef
from tests.tiny import FakeContext, save


def normal(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05


def tokens_in(columns: int, seed: int = 0, count: int = 0) -> Tensor:
    """Inputs of a layer (tokens, columns) that are correlated and uneven."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(columns) + torch.randn(columns, columns, generator=generator) * 1.5 / columns**0.5
    x = torch.randn(count or 4 * columns, columns, generator=generator) @ mixing
    return x * torch.linspace(0.2, 3, columns)[torch.randperm(columns, generator=generator)]


def moment(columns: int, seed: int = 0) -> Tensor:
    """Mean of x x' over ``tokens_in``."""
    x = tokens_in(columns, seed)
    return x.T @ x / len(x)


def seen(hessian: Tensor, fisher: Tensor | None = None, samples: Tensor | None = None) -> Inputs:
    nothing = torch.zeros(len(hessian))
    return Inputs(hessian, nothing, nothing, nothing[None] if samples is None else samples, 100, fisher)


def codes_of(method: str, weights: Tensor, form: Format, inputs: Inputs | None = None) -> Codes:
    dense, _ = split(form, weights)
    return rounding.find(method).round(dense, form, inputs).codes


def rounded(method: str, weights: Tensor, name: str, inputs: Inputs | None = None) -> Tensor:
    form = find(name)
    _, mask = split(form, weights)
    values = form.dequantize(codes_of(method, weights, form, inputs))
    return join(from_blocks(values, form, *weights.shape), weights, mask)


def output_error(result: Tensor, weights: Tensor, hessian: Tensor) -> Tensor:
    """Diagonal of dW H dW', (rows,)."""
    error = (result - weights).double()
    return (error @ hessian.double() * error).sum(dim=1)


# --- GPTQ -----------------------------------------------------------------------------------------------------------


def test_gptq_by_hand() -> None:
    """Values 0, 1, 2, 3. 1.4 goes to 1; the best answer of a neighbour correlated by 0.5 is 1.4 + 0.4 * 0.5 / 1.01."""
    weights = torch.tensor([[0.0, 3.0], [1.4, 1.4]])
    hessian = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    assert fake_quantize(find("int2/tensor/asym"), weights).tolist() == [[0.0, 3.0], [1.0, 1.0]]
    assert rounded("gptq:grid=range", weights, "int2/tensor/asym", seen(hessian)).tolist() == [[0, 3], [1, 2]]


def eliminate(weights: Tensor, form: Format, hessian: Tensor, order: list[int], refit: bool) -> Tensor:
    """Optimal brain quantization in a fixed order, written as its derivation: one weight at a time is fixed at its
    rounded value, all that are free answer by the inverse Hessian's column, and the weight is then eliminated from the
    inverse by a Gaussian step (Frantar et al. 2022, "Optimal brain compression", equations 2 to 4). In float64.
    """
    rows, columns = weights.shape
    damped = hessian.double() + 0.01 * hessian.double().diagonal().mean() * torch.eye(columns).double()
    inverse = torch.linalg.inv(damped)
    free = weights.double().clone()
    grid = form.fit(to_blocks(weights, form))
    size = form.blocks(rows, columns).size
    for column in order:
        blocks, position = place(form, rows, columns, column)
        if refit and position == 0:
            ahead = to_blocks(free[:, column : column + size].float(), form)
            fitted = form.fit(ahead)
            grid.scales[blocks] = fitted.scales
            if grid.zero_points is not None and fitted.zero_points is not None:
                grid.zero_points[blocks] = fitted.zero_points
        mine = grid.take(blocks)
        value = free[:, column].clone()
        near = form.decode(form.encode(value.float()[:, None], mine, position), mine, position)[:, 0]
        free -= torch.outer((value - near.double()) / inverse[column, column], inverse[column])
        inverse -= torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        inverse[column] = inverse[:, column] = 0.0
        inverse[column, column] = 1.0
        free[:, column] = near.double()
    return free.float()


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("int4/g64/asym", "activation"),
        ("int3/g64/asym", "none"),
        ("int4/g32/sym", "none"),
        ("int3/channel/sym", "none"),
        ("int4/tensor/asym", "activation"),
        ("nf4/g256", "none"),
        ("q4_k", "activation"),
        ("kmeans3/channel", "activation"),
        ("nvfp4", "activation"),
    ],
)
def test_gptq_equals_elimination(name: str, option: str) -> None:
    """Rounding errors of float32 can turn a tie, and what follows in that row: one row in 24 may."""
    weights, hessian, form = normal(24, 300, seed=1), moment(300), find(name)
    order = list(range(300))
    if option == "activation":
        order = hessian.diagonal().argsort(descending=True, stable=True).tolist()
    refit = option == "none" and form.spec.granularity == "group"
    expected = eliminate(weights, form, hessian, order, refit)
    result = rounded(f"gptq:grid=range:order={option}", weights, name, seen(hessian))
    same = torch.isclose(result, expected, rtol=1e-5, atol=1e-7).all(dim=1)
    assert int(same.sum()) >= 23


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != ORIGINAL])
def test_gptq_without_correlations_is_rounding_to_nearest(family: str) -> None:
    weights = normal(4, 160)
    result = rounded("gptq:order=none:grid=range", weights, find(family).name, seen(torch.eye(160)))
    torch.testing.assert_close(result, fake_quantize(find(family), weights), rtol=0, atol=0)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["int2/g64/asym", "int3/g32/sym", "int4/channel/asym", "nf4/g64", "fp8_e4m3/channel"]),
    st.sampled_from(["", ":grid=range", ":order=none", ":grid=mse", ":damping=0.1"]),
)
def test_gptq_leaves_less_output_error(seed: int, name: str, option: str) -> None:
    weights, hessian = normal(8, 128, seed), moment(128, seed)
    error = output_error(rounded(f"gptq{option}", weights, name, seen(hessian)), weights, hessian).sum()
    nearest = output_error(fake_quantize(find(name), weights), weights, hessian).sum()
    assert error < 0.9 * nearest


def test_gptq_rounds_a_column_without_input_to_nearest() -> None:
    weights, hessian = normal(8, 128), moment(128)
    hessian[7] = hessian[:, 7] = 0.0
    for order in ("activation", "none"):
        result = rounded(f"gptq:grid=range:order={order}", weights, "int4/channel/asym", seen(hessian))
        assert torch.equal(result[:, 7], fake_quantize(find("int4/channel/asym"), weights)[:, 7])


def test_gptq_raises_the_damping_until_it_can_go_on() -> None:
    """Rounded moments of few tokens can have slightly negative eigenvalues; -0.05 here, of a mean of 1."""
    hessian = torch.eye(64)
    hessian[:2, :2] = torch.tensor([[1.0, 1.05], [1.05, 1.0]])
    weights, form = normal(4, 64), find("int4/g64/asym")
    answer = rounding.find("gptq").round(weights, form, seen(hessian))
    assert answer.note == "damping was raised to 0.1"
    assert bool(torch.isfinite(form.dequantize(answer.codes)).all())
    assert rounding.find("gptq").round(weights, form, seen(torch.eye(64))).note == ""
    for impossible in (torch.full((64, 64), torch.nan), torch.eye(64) * torch.inf):
        with pytest.raises(FormatError, match="moment is not finite"):
            rounding.find("gptq").round(weights, form, seen(impossible))


def test_gptq_factor_in_float64_where_float32_fails() -> None:
    """Equal inputs: float32 loses the damping beside them, so that its second pivot is 1 - 1 whatever the library."""
    hessian = torch.ones(8, 8)
    damped = hessian + torch.eye(8) * 1e-8
    assert int(torch.linalg.cholesky_ex(damped).info) == 2, "float32 alone cannot"
    factor, damping = gptq.inverse_factor(hessian, 1e-8)
    assert damping == 1e-8
    inverse = torch.linalg.inv(hessian.double() + 1e-8 * torch.eye(8).double())
    torch.testing.assert_close(factor.double().T @ factor.double(), inverse, rtol=1e-4, atol=1.0)


def test_gptq_moves_nothing_onto_kept_weights() -> None:
    """A kept weight comes back as it was, so that what the loop had moved onto it would be lost."""
    weights, hessian = normal(8, 256), moment(256)
    weights[:, ::50] *= 20
    name = "int3/g64/asym/keep1.0"
    result = rounded("gptq", weights, name, seen(hessian))
    _, mask = split(find(name), weights)
    assert mask is not None
    torch.testing.assert_close(result[mask], weights[mask], rtol=1e-3, atol=0)
    error = output_error(result, weights, hessian).sum()
    assert error < 0.6 * output_error(fake_quantize(find(name), weights), weights, hessian).sum()


# --- clipping and importance ----------------------------------------------------------------------------------------


def test_clipping_equals_an_exhaustive_search() -> None:
    """In numpy, a block at a time, every part of the range tried."""
    weights = normal(6, 64)
    form = find("int3/g64/sym")
    grid = codes_of("mse", weights, form).grid
    for row, scale in zip(weights.numpy(), grid.scales.flatten(), strict=True):
        scales = (np.abs(row).max() * np.asarray(SHRINKS) / 3.5).astype(np.float16).astype(np.float64)
        errors = [((np.clip(np.round(row / s), -4, 3) * s - row) ** 2).sum() for s in scales]
        assert float(scale) == pytest.approx(scales[int(np.argmin(errors))], rel=2e-3)


@settings(deadline=None, max_examples=20)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["int2/g32/asym", "int4/channel/sym", "nvfp4", "nf4/g64", "int4/g64/float"]),
)
def test_clipping_is_never_worse_than_nearest(seed: int, name: str) -> None:
    weights = normal(4, 160, seed) * torch.exp(normal(4, 160, seed + 1) * 40)
    form = find(name)
    blocks = to_blocks(weights, form)
    nearest = (form.dequantize(form.quantize(blocks)) - blocks).square().sum(dim=1)
    error = (form.dequantize(codes_of("mse", weights, form)) - blocks).square().sum(dim=1)
    if not form.independent:
        nearest, error = nearest.sum(), error.sum()
    assert bool((error <= nearest * (1 + 1e-6)).all())


def test_importance_in_blocks_by_hand() -> None:
    """Rows of three in groups of 32: padding counts nothing, kept weights neither, and a silent block as one."""
    matrix = torch.tensor([[1.0, 2.0, 3.0], [0.0, 5.0, 6.0]])
    importance = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    blocks = importance_blocks(importance, matrix, find("int4/g32/asym"))
    assert blocks[0].tolist() == [1.0] * 32
    assert blocks[1].tolist() == [1.0, 2.0, 3.0] + [0.0] * 29
    kept = importance_blocks(importance, matrix, find("int4/g32/asym/keep0.5"))
    torch.testing.assert_close(kept[1, :3], torch.tensor([0.0, 2.0, 3.0]) * 6 / 5)


@pytest.mark.parametrize("name", ["int3/g64/asym", "kmeans3/channel", "q4_k", "nvfp4", "ternary/g64"])
def test_an_importance_matrix_lowers_the_error_of_what_counts(name: str) -> None:
    weights = normal(8, 256)
    strength = torch.logspace(-2, 2, 256)[torch.randperm(256, generator=torch.Generator().manual_seed(3))]
    result = rounded("imatrix", weights, name, seen(torch.diag(strength)))
    nearest = fake_quantize(find(name), weights)
    error, before = (((some - weights).square() * strength).sum() for some in (result, nearest))
    assert error < 0.95 * before


def test_the_fisher_counts_weights_one_by_one() -> None:
    """One weight a row on which everything depends, another one in each row: its error all but vanishes."""
    weights, fisher = normal(8, 64), torch.full((8, 64), 1e-6)
    fisher[torch.arange(8), torch.arange(8) * 7] = 1.0
    name = "int2/g64/asym"
    result = rounded("fisher", weights, name, seen(torch.eye(64), fisher))
    nearest = fake_quantize(find(name), weights)
    error, before = (((some - weights).square() * fisher).sum() for some in (result, nearest))
    assert error < 0.05 * before


# --- HQQ ------------------------------------------------------------------------------------------------------------


def half_quadratic(row: np.ndarray, scale: float, zero: float) -> list[float]:
    """The float zero points that HQQ's rounds give one block of codes from -4 to 3, scalar by scalar."""
    zeros, beta = [zero], 10.0
    for _ in range(20):
        wanted = []
        for value in row:
            code = min(max(round(float(value) / scale + zero), -4), 3)
            error = float(value) / scale - (code - zero)
            forgiven = max(abs(error) - max(abs(error), 1e-12) ** (0.7 - 1.0) / beta, 0.0)
            forgiven = forgiven if error > 0 else -forgiven
            wanted.append(code - (float(value) / scale - forgiven))
        zero = float(np.float16(np.mean(wanted)))
        zeros.append(zero)
        beta *= 1.01
    return zeros


def test_hqq_finds_the_zero_point_of_a_scalar_loop() -> None:
    weights, form = normal(12, 64, seed=2), find("int3/g64/float")
    start = form.fit(to_blocks(weights, form))
    grid = codes_of("hqq", weights, form).grid
    assert start.zero_points is not None
    assert grid.zero_points is not None
    assert torch.equal(grid.scales, start.scales)
    moved = 0
    for index, row in enumerate(weights.numpy().astype(np.float64)):
        scale, zero = float(start.scales[index]), float(start.zero_points[index])
        zeros = half_quadratic(row, scale, zero)
        errors = [
            ((scale * (np.clip(np.round(row / scale + some), -4, 3) - some) - row) ** 2).sum()
            for some in zeros
        ]
        best = int(np.argmin(errors))
        moved += best > 0
        mine = float(grid.zero_points[index])
        error = ((scale * (np.clip(np.round(row / scale + mine), -4, 3) - mine) - row) ** 2).sum()
        assert error == pytest.approx(errors[best], rel=1e-2)
        assert min(abs(mine - some) for some in zeros) < 2e-3
    assert moved >= 6, "the case says something"


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["int2/g32/asym", "int3/g64/float", "int4/channel/sym", "int4/tensor/asym"]),
)
def test_hqq_is_never_worse_than_nearest(seed: int, name: str) -> None:
    weights = normal(4, 160, seed) * torch.exp(normal(4, 160, seed + 1) * 30)
    form = find(name)
    blocks = to_blocks(weights, form)
    nearest = (form.dequantize(form.quantize(blocks)) - blocks).square().sum(dim=1)
    error = (form.dequantize(codes_of("hqq", weights, form)) - blocks).square().sum(dim=1)
    assert bool((error <= nearest * (1 + 1e-6)).all())


def test_hqq_gains_on_every_kind_of_integer() -> None:
    weights = normal(32, 256)
    for name in ("int3/g64/asym", "int3/g64/float", "int3/g64/sym"):
        error, nearest = (
            (some - weights).square().sum()
            for some in (rounded("hqq", weights, name), fake_quantize(find(name), weights))
        )
        assert error < 0.99 * nearest


# --- learned rounding -----------------------------------------------------------------------------------------------


def by_autograd(weights: Tensor, form: Format, inputs: Inputs, steps: int) -> Tensor:
    """Signed gradient descent with torch's own gradients and rounding passed straight through; rows are blocks.

    Returns the rounding of every row at its least loss.
    """
    generator = torch.Generator().manual_seed(0)
    offsets = torch.zeros_like(weights, requires_grad=True)
    shrink = torch.ones(len(weights), 1, requires_grad=True)
    least, best = torch.full((len(weights),), torch.inf), torch.zeros_like(weights)
    for step in range(steps + 1):
        grid = form.fit(weights, shrink=shrink.detach())
        assert grid.zero_points is not None
        scale = grid.scales.float() * (shrink / shrink.detach())
        exact = weights / scale + offsets + grid.zero_points.float()
        codes = exact + (exact.round() - exact).detach()
        values = scale * (codes.clamp(-4, 3) - grid.zero_points.float())
        error = values - weights
        loss = (error @ inputs.moment * error).sum(dim=1).detach()
        best = torch.where((loss < least)[:, None], values.detach(), best)
        least = torch.minimum(loss, least)
        x = inputs.samples[torch.randperm(len(inputs.samples), generator=generator)[:32]]
        slopes = torch.autograd.grad((error @ x.T).square().sum(), [offsets, shrink])
        rate = (1 - step / steps) / steps
        offsets = (offsets - rate * slopes[0].sign()).clamp(-0.5, 0.5).detach().requires_grad_()
        shrink = (shrink - rate * slopes[1].sign()).clamp(0.2, 1.0).detach().requires_grad_()
    return best


def learn_from(columns: int, seed: int = 0) -> Inputs:
    x = tokens_in(columns, seed)
    return seen(x.T @ x / len(x), samples=x)


def test_learned_rounding_equals_autograd() -> None:
    """The sign of a slope that is nearly 0 may differ, and then a row goes its own way."""
    weights, inputs, form = normal(16, 96), learn_from(96), find("int3/channel/asym")
    best = by_autograd(weights, form, inputs, 50)
    result = rounded("learned:steps=50", weights, form.name, inputs)
    assert int(torch.isclose(result, best, atol=1e-6).all(dim=1).sum()) >= 14


@settings(deadline=None, max_examples=12)
@given(st.integers(0, 10**6), st.sampled_from(["int3/g64/asym", "int4/channel/sym", "q4_k", "ternary/g32"]))
def test_learned_rounding_is_never_worse_in_any_row(seed: int, name: str) -> None:
    weights, inputs = normal(4, 160, seed), learn_from(160, seed)
    nearest = output_error(fake_quantize(find(name), weights), weights, inputs.moment)
    error = output_error(rounded("learned:steps=50", weights, name, inputs), weights, inputs.moment)
    assert bool((error <= nearest * (1 + 1e-4)).all())
    assert error.sum() < 0.95 * nearest.sum()


def test_learned_rounding_of_a_whole_tensor() -> None:
    """Rows that share one grid are judged together."""
    weights, inputs, name = normal(6, 96), learn_from(96), "int3/tensor/asym"
    error = output_error(rounded("learned:steps=50", weights, name, inputs), weights, inputs.moment)
    nearest = output_error(fake_quantize(find(name), weights), weights, inputs.moment)
    assert error.sum() < 0.9 * nearest.sum()


# --- what enters the layers -----------------------------------------------------------------------------------------


def text(loaded: LoadedModel, tokens: int = 256) -> Tokens:
    return tokenize(FakeContext(loaded), loaded, CALIBRATION, tokens, 32)


def watched(loaded: LoadedModel, ids: Tensor) -> dict[str, Tensor]:
    """The inputs of every unit that multiplies, (tokens, columns), by hooks of the test's own."""
    found: dict[str, Tensor] = {}
    handles = []

    def matrix(name: str) -> Any:
        return lambda module, args: found.__setitem__(name, args[0].flatten(0, -2))

    def experts(slots: list[Slot]) -> Any:
        def hook(module: Any, args: Any) -> None:
            hidden, chosen = args[0], args[1]
            for slot in slots:
                expert = slot.unit.role.rpartition("[")[2][:-1]
                x = hidden[(chosen == int(expert)).any(dim=-1)]
                if slot.unit.role.startswith("down"):
                    gate, up = (x @ module.gate_up_proj[int(expert)].T).chunk(2, dim=-1)
                    x = module.act_fn(gate) * up
                found[slot.unit.name] = x

        return hook

    for site in loaded.graph.sites:
        if site.kind != "lookup":
            hook = matrix(site.slots[0].unit.name) if site.kind == "matrix" else experts(list(site.slots))
            handles.append(site.module.register_forward_pre_hook(hook))
    with torch.no_grad():
        loaded.model(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def test_moments_are_those_of_the_inputs(tiny: LoadedModel) -> None:
    tokens = text(tiny)
    found = collect(FakeContext(tiny), tiny, tokens, list(tiny.graph.slots.values()))
    expected = watched(tiny, tokens.ids)
    assert set(expected) <= set(found)
    for name, x in expected.items():
        assert found[name].rows == len(x)
        if len(x):
            torch.testing.assert_close(found[name].moment, x.T @ x / len(x), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found[name].mean_abs, x.abs().mean(dim=0), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found[name].largest, x.abs().amax(dim=0))
            assert found[name].samples.shape == x.shape, "so few tokens are all kept"
    for name in set(found) - set(expected):
        assert found[name].rows == 0, "only looked up"


def test_layers_that_are_fed_alike_share_their_moments(llama: LoadedModel) -> None:
    found = collect(FakeContext(llama), llama, text(llama), list(llama.graph.slots.values()))
    places = {
        name.removeprefix("model.layers.0."): inputs.moment.data_ptr() for name, inputs in found.items()
    }
    query, key, value, gate, up = (
        places[name]
        for name in (
            "self_attn.q_proj.weight",
            "self_attn.k_proj.weight",
            "self_attn.v_proj.weight",
            "mlp.gate_proj.weight",
            "mlp.up_proj.weight",
        )
    )
    assert query == key == value
    assert gate == up != query


def test_the_fisher_is_the_mean_square_of_each_tokens_gradient(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With each output's gradient read off a perturbation that autograd differentiates, one token at a time."""
    tokens = Tokens(text(llama).ids[:1, :6], "", "")
    slot = llama.graph.slots["model.layers.1.mlp.down_proj.weight"]
    module = llama.model.get_submodule("model.layers.1.mlp.down_proj")
    labels = torch.tensor([[3, 1, 4, 1, 5, 9]])

    def gradient(logits: Tensor, generator: torch.Generator) -> Tensor:
        return torch.nn.functional.one_hot(labels, logits.shape[-1]).float() - logits.softmax(dim=-1)

    monkeypatch.setattr("quant_core.calibration.statistics.label_gradient", gradient)
    found = collect(FakeContext(llama), llama, tokens, [slot], gradients=True)[slot.unit.name]
    inputs: list[Tensor] = []
    push = torch.zeros(1, 6, slot.unit.rows, requires_grad=True)

    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        inputs.append(args[0][0])
        return output + push

    handle = module.register_forward_hook(hook)
    logits = llama.model(tokens.ids, use_cache=False).logits
    handle.remove()
    likelihood = logits.log_softmax(dim=-1).gather(-1, labels[..., None]).sum()
    (moved,) = torch.autograd.grad(likelihood, push)
    expected = torch.stack(
        [torch.outer(g, x).square() for g, x in zip(moved[0], inputs[0], strict=True)]
    ).mean(0)
    assert found.fisher is not None
    torch.testing.assert_close(found.fisher, expected, rtol=1e-3, atol=1e-9)


# --- the rounder ----------------------------------------------------------------------------------------------------


def test_a_unit_is_rounded_on_what_entered_it(llama: LoadedModel) -> None:
    """The whole way, against the method called by hand on the hooks' own moments."""
    tokens = text(llama)
    slot = llama.graph.slots["model.layers.0.mlp.down_proj.weight"]
    x = watched(llama, tokens.ids)[slot.unit.name]
    form = find("int3/g32/asym")
    expected = rounded("imatrix", slot.matrix(), form.name, seen(x.T @ x / len(x)))
    result = Rounder(FakeContext(llama), llama, tokens).matrix(slot, f"{form.name}@imatrix")
    assert not torch.equal(expected, fake_quantize(form, slot.matrix()))
    assert torch.equal(result, expected)


def test_short_memory_changes_nothing(llama: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass over the text for every few units instead of one for all."""
    tokens = text(llama)
    names = {unit.name: "int3/g32/asym@gptq" for unit in llama.info.units if unit.decided}
    whole = Rounder(FakeContext(llama), llama, tokens).weights(names)
    passes = []

    def counted(*args: Any, **options: Any) -> dict[str, Inputs]:
        passes.append(len(args[3]))
        return collect(*args, **options)

    monkeypatch.setattr(rounder_module, "collect", counted)
    monkeypatch.setattr(rounder_module, "free_memory", lambda device: 1_200_000)
    parts = Rounder(FakeContext(llama), llama, tokens).weights(names)
    assert len(passes) > 2
    assert max(passes) < len(names)
    assert all(torch.equal(whole[parameter], parts[parameter]) for parameter in whole)


def test_an_expert_that_saw_nothing_is_rounded_to_nearest(tmp_path: Any) -> None:
    """Two equal tokens go the same way: two of four experts, and the others have nothing to learn from."""
    loaded = load(ModelRef(str(save("mixtral", tmp_path))))
    tokens = Tokens(torch.full((1, 2), 7), "", "")
    rounder = Rounder(FakeContext(loaded), loaded, tokens)
    slots = [slot for slot in loaded.graph.slots.values() if "layers.0.mlp.experts.down" in slot.unit.name]
    results = {slot.unit.name: rounder.matrix(slot, "int4/g32/asym@gptq") for slot in slots}
    silent = [name.split(":")[0] for name in rounder.notes]
    assert len(silent) == 2
    assert all(
        "saw no calibration token; rounded to nearest instead" in note for note in rounder.notes.values()
    )
    for slot in slots:
        nearest = torch.equal(results[slot.unit.name], fake_quantize(find("int4/g32/asym"), slot.matrix()))
        assert nearest == (slot.unit.name in silent)


def test_an_embedding_multiplies_nothing_and_the_rounder_says_so(tmp_path: Any) -> None:
    loaded = load(ModelRef(str(save("llama-untied", tmp_path))))
    rounder = Rounder(FakeContext(loaded), loaded, Calibration(tokens=256, sequence=32))
    slot = loaded.graph.slots["model.embed_tokens.weight"]
    result = rounder.matrix(slot, "int4/g32/asym@gptq")
    assert torch.equal(result, fake_quantize(find("int4/g32/asym"), slot.matrix()))
    assert list(rounder.notes.values()) == ["multiplies no input; rounded to nearest instead"]


def test_refusals_name_unit_and_reason(llama: LoadedModel) -> None:
    slot = llama.graph.slots["model.layers.0.mlp.down_proj.weight"]
    rounder = Rounder(FakeContext(llama), llama, text(llama))
    with pytest.raises(FormatError, match=r"down_proj\.weight: HQQ cannot round to nf4"):
        rounder.matrix(slot, "nf4/g64@hqq")
