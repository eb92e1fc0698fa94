"""Rounded activations: every scheme against another implementation, and a model that is left as it was found."""

from __future__ import annotations

import bisect
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from quant_core.calibration.ranges import BINS, Counter, Magnitudes, collect_ranges
from quant_core.calibration.text import tokenize
from quant_core.errors import FormatError, QuantError
from quant_core.evaluation.generation import generate
from quant_core.evaluation.quality import evaluate
from quant_core.methods.activations import find, infos
from quant_core.methods.activations._common import GRIDS
from quant_core.methods.activations.llm_int8 import decomposed
from quant_core.methods.activations.static import entropy, least_squares, level_edges, percentile
from quant_core.methods.variant import Variant, make_variant
from quant_core.models.loading import LoadedModel
from quant_core.names import parse_scheme
from quant_core.schema import Calibration, EvaluateRequest, GenerateRequest, Setup, TextSource
from tests.tiny import PROSE, FakeContext

TEXT = TextSource("inline", PROSE * 12, "prose")
LEARNED = Calibration(TEXT, tokens=256, sequence=64)
EVERY = ("int8/token", "fp8/token", "int8/static", "fp8/static", "llm_int8")
RULES = ("minmax", "p99.99", "p99.9", "mse", "entropy")


def _assignment(loaded: LoadedModel, form: str = "int8/channel/sym") -> dict[str, str]:
    return {unit.name: form for unit in loaded.info.units if unit.decided}


def _variant(loaded: LoadedModel, activations: str, form: str = "int8/channel/sym") -> Variant:
    setup = Setup(activations=activations, calibration=LEARNED)
    return make_variant(FakeContext(loaded), loaded, _assignment(loaded, form), setup)


def _logits(loaded: LoadedModel, variant: Variant | None = None) -> Tensor:
    ids = tokenize(FakeContext(loaded), loaded, TEXT, 64, 32).ids
    model: Any = loaded.model
    with torch.no_grad():
        if variant is None:
            return model(ids, use_cache=False).logits
        with variant.active():
            return model(ids, use_cache=False).logits


def _inputs(tokens: int = 24, columns: int = 64) -> Tensor:
    values = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(3))
    values[:, 5] *= 20.0
    return values


# --- dynamic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int", "float"])
def test_by_token_as_compressed_tensors(kind: str) -> None:
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils.helpers import compute_dynamic_scales_and_zp

    x = _inputs()[None]
    args = QuantizationArgs(num_bits=8, type=kind, strategy="token", dynamic=True, symmetric=True)
    scale, zero = compute_dynamic_scales_and_zp(x, args, torch.nn.Identity())
    expected = fake_quantize(x, scale, zero, args)
    name = "int8/token" if kind == "int" else "fp8/token"
    assert torch.equal(find(name).rounding(None)(x[0]), expected[0])


def test_by_token_as_torchao() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization.quant_primitives import (
            MappingType,
            choose_qparams_affine,
            dequantize_affine,
            quantize_affine,
        )
    x = _inputs()
    block = (1, x.shape[1])
    scale, zero = choose_qparams_affine(x, MappingType.SYMMETRIC, block, torch.int8, -128, 127)
    codes = quantize_affine(x, block, scale, zero, torch.int8, -128, 127)
    expected = dequantize_affine(codes, block, scale, zero, torch.int8, -128, 127)
    inner = x.abs() < x.abs().amax(dim=1, keepdim=True)  # the largest is halfway between two codes
    torch.testing.assert_close(
        find("int8/token").rounding(None)(x)[inner], expected[inner], rtol=1e-6, atol=0
    )


def test_four_values_by_hand() -> None:
    """Range 127.5 makes the step 1: halves go to even, and the largest value to 127."""
    x = torch.tensor([[0.5, 1.5, -2.4, 127.5]])
    assert find("int8/token").rounding(None)(x).tolist() == [[0.0, 2.0, -2.0, 127.0]]
    x = torch.tensor([[448.0, 17.0, -19.0, 0.001]])  # steps of 2 from 16 on, of 2^-9 near 0
    assert find("fp8/token").rounding(None)(x).tolist() == [[448.0, 16.0, -20.0, 2.0**-9]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 40), st.sampled_from(["int8", "fp8"]))
def test_a_token_is_rounded_by_itself_and_by_little(seed: int, tokens: int, columns: int, grid: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, columns, generator=generator) * 10 ** torch.randn(tokens, 1, generator=generator)
    rounding = find(f"{grid}/token").rounding(None)
    rounded = rounding(x)
    largest = x.abs().amax(dim=1, keepdim=True)
    step = largest / 255 if grid == "int8" else x.abs() / 16 + largest / 448 / 2**10
    assert ((rounded - x).abs() <= step * 1.001).all()
    assert all(torch.equal(rounding(row[None])[0], done) for row, done in zip(x, rounded, strict=True))


def test_zeros_stay_and_undefined_values_show() -> None:
    for name in ("int8/token", "fp8/token", "llm_int8"):
        rounding = find(name).rounding(None)
        assert not rounding(torch.zeros(2, 8)).any()
        assert rounding(torch.full((1, 8), torch.nan)).isnan().all()


# --- LLM.int8() -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "scale"), [(24, 20.0), (24, 1.0), (1, 20.0)])
def test_llm_int8_as_bitsandbytes(tokens: int, scale: float) -> None:
    """The whole layer, with a column of outliers (and one value of another token that is none in that column)."""
    import bitsandbytes as bnb

    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(64, 32, bias=False)
    x = torch.randn(tokens, 64, generator=generator).clamp(-3, 3)
    x[0, 7] = scale
    x = x.half()
    other = bnb.nn.Linear8bitLt(64, 32, bias=False, has_fp16_weights=False, threshold=6.0)
    other.load_state_dict(layer.state_dict())
    other = other.to("cpu").eval()  # in training it multiplies floats on a CPU
    expected = other(x)
    weight = other.state.CB.float() * other.state.SCB[:, None] / 127
    result = decomposed(6.0, x.float()) @ weight.T
    torch.testing.assert_close(result, expected.float(), rtol=2e-3, atol=2e-3)
    codes, stats, columns = bnb.functional.int8_vectorwise_quant(x.clone(), threshold=6.0)
    kept = columns if columns is not None else []
    expected_inputs = codes.float() * stats[:, None] / 127
    expected_inputs[:, kept] = x[:, kept].float()
    torch.testing.assert_close(decomposed(6.0, x.float()), expected_inputs, rtol=1e-6, atol=1e-7)


def test_outliers_leave_the_other_columns_fine() -> None:
    x = _inputs()
    plain, split = find("int8/token").rounding(None)(x), decomposed(6.0, x)
    assert torch.equal(split[:, 5], x[:, 5])
    assert (split - x).square().sum() < 0.05 * (plain - x).square().sum()
    assert not torch.equal(find("llm_int8:threshold=12.0").rounding(None)(x), split)


# --- ranges ---------------------------------------------------------------------------------------------------------


def _seen(values: Tensor) -> Magnitudes:
    counter = Counter("unit", values.device)
    counter.add(values)
    return counter.result()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(0.1, 4.0))
def test_a_histogram_knows_nothing_of_batches(seed: int, batches: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.exp(spread * torch.randn(batches, 1, generator=generator))
    values = torch.randn(batches, 200, generator=generator) * scales
    counter = Counter("unit", values.device)
    for batch in values:
        counter.add(batch)
    one, whole = counter.result(), _seen(values)
    assert torch.equal(one.counts, whole.counts)
    assert (
        (one.width, one.largest) == (whole.width, whole.largest) == (whole.width, float(values.abs().max()))
    )
    assert int(one.counts.sum()) == values.numel()
    assert BINS / 2 <= len(one.counts) <= BINS
    expected = torch.bincount((values.abs().double() / one.width).floor().long().flatten())
    assert torch.equal(one.counts, expected)


def test_percentiles_by_hand() -> None:
    """A thousand values, one in each of the first 999 bins and one far out: bins are 1 wide, up to 4096."""
    counts = torch.zeros(3001, dtype=torch.int64)
    counts[:999] = 1
    counts[3000] = 1
    seen = Magnitudes(counts, 1.0, 3000.5)
    assert percentile(seen, 9990) == 999.0
    assert percentile(seen, 9000) == 900.0
    assert percentile(seen, 9999) == 3000.5
    assert find("int8/static").range(seen) == 3000.5  # type: ignore[attr-defined]
    assert find("int8/static:range=p99.9").range(seen) == 999.0  # type: ignore[attr-defined]


def test_a_static_range_clips_by_hand() -> None:
    """The largest value seen is 127.5, so that the step is 1."""
    rounding = find("int8/static").rounding(_seen(torch.tensor([1.0, -127.5])))
    assert rounding(torch.tensor([[0.4, 1.5, -300.0, 300.0]])).tolist() == [[0.0, 2.0, -128.0, 127.0]]
    rounding = find("fp8/static").rounding(_seen(torch.tensor([448.0])))
    assert rounding(torch.tensor([[1000.0, -1.03]])).tolist() == [[448.0, -1.0]]


@pytest.mark.parametrize("grid", ["int8", "fp8"])
def test_least_squares_beats_the_largest_value(grid: str) -> None:
    """Against a loop over the values themselves: what the histogram chooses is as good as the best, but for 1 %."""
    values = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) ** 3
    fake = GRIDS[grid]
    seen = _seen(values)

    def error(reach: float) -> float:
        return float((fake(values, torch.tensor(reach)) - values).double().square().sum())

    chosen = error(least_squares(seen, fake))
    every = [error(seen.largest * step / 128) for step in range(1, 129)]
    assert chosen <= min(every) * 1.01


def _slow_entropy(counts: list[int], width: float, largest: float, level: Any) -> float:
    """Migacz's loop as his slides have it, a candidate at a time; ``level(k, i)`` is the level of bin k of i."""
    best, chosen = float("inf"), 0
    for i in range(128, len(counts) + 1):
        reference = [float(count) for count in counts[:i]]
        reference[-1] += sum(counts[i:])
        mass: dict[int, float] = {}
        places: dict[int, int] = {}
        levels = [level(k, i) for k in range(i)]
        for k in range(i):
            mass[levels[k]] = mass.get(levels[k], 0.0) + counts[k]
            places[levels[k]] = places.get(levels[k], 0) + (reference[k] > 0)
        candidate = [mass[levels[k]] / places[levels[k]] if reference[k] else 0.0 for k in range(i)]
        p, q = torch.tensor(reference).double(), torch.tensor(candidate).double()
        p, q = p / p.sum(), q / q.sum()
        divergence = float(torch.where(p > 0, p * (p / q).log(), 0.0).sum())
        if divergence < best - 1e-12:
            best, chosen = divergence, i
    return min((chosen + 0.5) * width, largest)


@pytest.mark.parametrize("grid", ["int8", "fp8"])
@pytest.mark.parametrize("power", [1, 2, 3])
def test_entropy_as_the_loop(grid: str, power: int) -> None:
    values = torch.randn(3000, generator=torch.Generator().manual_seed(power)).abs() ** power
    bins = 200
    width = float(values.max()) / bins * 1.0001
    counts = torch.bincount((values / width).long(), minlength=bins)
    seen = Magnitudes(counts, width, float(values.max()))
    edges = level_edges(grid)
    starts = edges[:-1].tolist()

    def level(k: int, i: int) -> int:
        return k * 128 // i if grid == "int8" else bisect.bisect_right([start * i for start in starts], k) - 1

    assert entropy(seen, edges) == _slow_entropy(counts.tolist(), width, seen.largest, level)


def test_entropy_keeps_what_128_levels_hold() -> None:
    """Bins that the levels tell apart lose nothing: 128 bins, evenly filled, are kept whole."""
    seen = Magnitudes(torch.full((128,), 10), 0.5, 64.0)
    assert entropy(seen, level_edges("int8")) == 64.0


def test_ranges_are_those_of_what_enters(tiny: LoadedModel) -> None:
    """The largest value by a plain hook, for every unit that a module multiplies; experts by what they are fed."""
    tokens = tokenize(FakeContext(tiny), tiny, TEXT, 256, 64)
    slots = [slot for slot in tiny.graph.slots.values() if slot.unit.decided]
    seen = collect_ranges(FakeContext(tiny), tiny, tokens, slots)
    largest: dict[str, float] = {}
    handles = []
    for site in tiny.graph.sites:
        if site.kind == "matrix":

            def hook(module: Any, args: Any, name: str = site.slots[0].unit.name) -> None:
                largest[name] = max(largest.get(name, 0.0), float(args[0].abs().max()))

            handles.append(site.module.register_forward_pre_hook(hook))
    model: Any = tiny.model
    with torch.no_grad():
        model(tokens.ids, use_cache=False)
    for handle in handles:
        handle.remove()
    plain = [slot.unit.name for slot in slots if slot.unit.kind != "expert"]
    assert plain
    assert {name: seen[name].largest for name in plain} == pytest.approx(
        {name: largest[name] for name in plain}, rel=1e-5
    )
    for slot in slots:
        if slot.unit.kind == "expert" and slot.unit.name in seen:
            assert int(seen[slot.unit.name].counts.sum()) % slot.unit.columns == 0


def test_infinite_inputs_are_refused() -> None:
    with pytest.raises(FormatError, match=r"layer: its inputs .* not all finite\. Load the model in float32"):
        Counter("layer", torch.device("cpu")).add(torch.tensor([torch.inf]))


# --- in a model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", EVERY)
def test_a_scheme_changes_predictions_and_leaves_the_model_alone(tiny: LoadedModel, scheme: str) -> None:
    before = _logits(tiny)
    variant, weights_only = _variant(tiny, scheme), _variant(tiny, "")
    changed = _logits(tiny, variant)
    assert not torch.equal(changed, _logits(tiny, weights_only))
    assert torch.equal(changed, _logits(tiny, variant))
    assert torch.equal(before, _logits(tiny))
    assert not any(site.module._forward_pre_hooks for site in tiny.graph.sites)
    assert not any("forward" in vars(site.module) for site in tiny.graph.sites)


def test_a_model_is_restored_after_an_error(tiny: LoadedModel) -> None:
    before = _logits(tiny)
    variant = _variant(tiny, "int8/token")
    with pytest.raises(RuntimeError, match="on purpose"), variant.active():
        raise RuntimeError("on purpose")

    def fails(inputs: Tensor) -> Tensor:
        raise RuntimeError("inside")

    broken = Variant(tiny, variant.weights, (), dict.fromkeys(variant.inputs, fails))
    with pytest.raises(RuntimeError, match="inside"):
        _logits(tiny, broken)
    assert torch.equal(before, _logits(tiny))


def test_layers_multiply_rounded_inputs(tiny: LoadedModel) -> None:
    """What a layer gets is what PyTorch's own fake quantization makes of what came in; experts are told apart below."""
    variant = _variant(tiny, "int8/token")
    sites = [site for site in tiny.graph.sites if site.kind == "matrix" and site.slots[0].unit.decided]
    came: dict[Any, Tensor] = {}
    entered: dict[Any, Tensor] = {}

    def before(module: Any, args: Any) -> None:
        came[module] = args[0].flatten(0, -2)

    def after(module: Any, args: Any, output: Tensor) -> None:
        entered[module] = args[0].flatten(0, -2)

    handles = [site.module.register_forward_pre_hook(before) for site in sites]
    handles += [site.module.register_forward_hook(after) for site in sites]
    try:
        _logits(tiny, variant)
    finally:
        for handle in handles:
            handle.remove()
    assert len(entered) == len(sites) > 0
    for module, x in came.items():
        scale = x.abs().amax(dim=1) / 127.5
        expected = torch.fake_quantize_per_channel_affine(x, scale, torch.zeros(len(x)), 0, -128, 127)
        same = torch.isclose(entered[module], expected, rtol=1e-5, atol=0)
        assert same.float().mean() > 0.98  # the largest of each token is halfway between two codes
        assert ((entered[module] - expected).abs() <= scale[:, None] * 1.001).all()


def test_experts_multiply_rounded_inputs(tiny: LoadedModel) -> None:
    """An experts layer, token by token and expert by expert."""
    sites = [site for site in tiny.graph.sites if site.kind == "experts"]
    if not sites:
        return
    variant = _variant(tiny, "int8/token")
    module: Any = sites[0].module
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, tiny.info.hidden_size, generator=generator)
    index = torch.tensor([[0, 1], [1, 2], [3, 0], [2, 3], [0, 2]])
    shares = torch.rand(5, 2, generator=generator)
    round_ = find("int8/token").rounding(None)
    with variant.active(), torch.no_grad():
        found = module(x, index, shares)
        for token in range(5):
            total = torch.zeros(tiny.info.hidden_size)
            for expert, share in zip(index[token], shares[token], strict=True):
                gate, up = (module.gate_up_proj[expert] @ round_(x[token : token + 1])[0]).chunk(2)
                inner = torch.nn.functional.silu(gate) * up
                total += share * (module.down_proj[expert] @ round_(inner[None])[0])
            torch.testing.assert_close(found[token], total, rtol=1e-3, atol=1e-3)


def test_only_assigned_units_are_rounded(tiny: LoadedModel) -> None:
    units = [unit.name for unit in tiny.info.units if unit.decided]
    setup = Setup(activations="int8/token", calibration=LEARNED)
    variant = make_variant(
        FakeContext(tiny), tiny, {units[0]: "int8/channel/sym", units[1]: "original"}, setup
    )
    assert set(variant.inputs) == {units[0]}
    everything = {unit.name: "int8/channel/sym" for unit in tiny.info.units}
    variant = make_variant(FakeContext(tiny), tiny, everything, setup)
    lookups = {unit.name for unit in tiny.info.units if unit.kind == "embedding" and not unit.tied}
    assert set(variant.inputs) == set(everything) - lookups


def test_experts_that_saw_nothing_fall_back(tiny: LoadedModel) -> None:
    """With all tokens routed to the first two experts the others learn no range, and say so."""
    experts = [site for site in tiny.graph.sites if site.kind == "experts"]
    if not experts:
        return
    routers = [module for name, module in tiny.model.named_modules() if name.endswith(".gate")]
    kept = [router.weight.data for router in routers]
    for router, weight in zip(routers, kept, strict=True):
        router.weight.data = torch.zeros_like(weight)
    try:
        variant = _variant(tiny, "int8/static")
        assert len(variant.notes) == len(routers) * 2 * 2
        assert all("rounded by token instead" in note for note in variant.notes)
        assert _logits(tiny, variant).isfinite().all()
    finally:
        for router, weight in zip(routers, kept, strict=True):
            router.weight.data = weight


def _kl(loaded: LoadedModel, activations: str, form: str = "int8/channel/sym", **more: Any) -> float:
    setup = Setup(activations=activations, calibration=LEARNED)
    asked = EvaluateRequest(
        loaded.info.ref,
        loaded.info.fingerprint,
        _assignment(loaded, form),
        **{"text": TEXT, "tokens": 256, "sequence": 64, **more},
        setup=setup,
    )
    return evaluate(FakeContext(loaded), asked).kl_mean


def test_schemes_rank_as_they_should(llama: LoadedModel) -> None:
    """Rounding activations costs something; INT8 costs less than FP8 here, where there are no outliers."""
    alone, int8, fp8, static = (
        _kl(llama, name) for name in ("", "int8/token", "fp8/token", "int8/static:range=minmax")
    )
    assert alone < int8 < fp8
    assert int8 < static
    assert _kl(llama, "int8/token") == int8
    assert _kl(llama, "int8/token", "int4/g32/sym") > int8


@pytest.mark.parametrize("rule", RULES)
def test_every_range_rule_runs(llama: LoadedModel, rule: str) -> None:
    for grid in ("int8", "fp8"):
        assert 0 < _kl(llama, f"{grid}/static:range={rule}") < 5


def test_generation_uses_it(llama: LoadedModel) -> None:
    def write(activations: str) -> tuple[str, ...]:
        setup = Setup(activations=activations, calibration=LEARNED)
        asked = GenerateRequest(
            llama.info.ref, llama.info.fingerprint, "the ship", _assignment(llama), tokens=12, setup=setup
        )
        return generate(FakeContext(llama), asked).recipe

    assert len(write("int8/token")) == 12
    assert write("int8/token") == write("int8/token")


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_names_round_trip(name: str) -> None:
    known = infos()
    assert parse_scheme(name.upper(), known, "activation scheme") == name
    for option in known[name].options:
        for choice in option.choices[1:]:
            full = f"{name}:{option.name}={choice}"
            assert parse_scheme(full, known, "activation scheme") == full
        assert parse_scheme(f"{name}:{option.name}={option.choices[0]}", known, "activation scheme") == name
    assert parse_scheme(" ", known, "activation scheme") == ""


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("int8/tokens", "There is no activation scheme named 'int8/tokens'. Did you mean 'int8/token'?"),
        ("int8/static:range=max", "INT8, one range a layer has no range 'max'. It takes minmax, p99.99"),
        ("int8/token:range=mse", "INT8 a token has no option 'range'. It has none."),
    ],
)
def test_unknown_names_are_refused(llama: LoadedModel, name: str, says: str) -> None:
    with pytest.raises(QuantError) as error:
        _variant(llama, name)
    assert str(error.value).startswith(says)
