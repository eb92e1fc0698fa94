"""Measuring recipes, generating side by side, looking into a layer, and the text it is done on."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_core.calibration.inputs import Inputs
from quant_core.calibration.text import bundled_text, tokenize
from quant_core.errors import Cancelled, ModelError, QuantError, TextError
from quant_core.evaluation.attribution import attribute
from quant_core.evaluation.generation import choose, generate
from quant_core.evaluation.layer import layer_view, view_slots
from quant_core.evaluation.quality import evaluate
from quant_core.evaluation.readings import read_tokens
from quant_core.formats import fake_quantize, find, infos
from quant_core.methods.slot_rounder import SlotRounder
from quant_core.methods.variant import Variant, make_variant
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel
from quant_core.schema import (
    CALIBRATION,
    EVALUATION,
    AttributionRequest,
    EvaluateRequest,
    GenerateRequest,
    LayerRequest,
    Setup,
    TextSource,
    TokenEvent,
    Unit,
    replace,
)
from tests.tiny import PROSE, FakeContext

TEXT = TextSource("inline", PROSE * 12, "prose")


def _everything(loaded: LoadedModel, form: str) -> dict[str, str]:
    return {unit.name: form for unit in loaded.info.units if unit.decided}


# --- measured quality -----------------------------------------------------------------------------------------------


def test_nothing_changed_nothing_measured(tiny: LoadedModel) -> None:
    info = tiny.info
    asked = EvaluateRequest(info.ref, info.fingerprint, {}, TEXT, tokens=512, sequence=64)
    result = evaluate(FakeContext(tiny), asked)
    assert (result.kl_mean, result.kl_median, result.kl_p99, result.kl_stderr) == (0.0, 0.0, 0.0, 0.0)
    assert result.perplexity == result.perplexity_original
    assert result.top1_agreement == 1.0
    assert result.tokens == result.sequences * 63


def test_figures_equal_a_direct_computation(llama: LoadedModel) -> None:
    """The same figures from transformers' own loss and a plain KL, with the weights copied into a second model."""
    info = llama.info
    assignment = _everything(llama, "int3/g64/asym")
    asked = EvaluateRequest(info.ref, info.fingerprint, assignment, TEXT, tokens=512, sequence=64)
    result = evaluate(FakeContext(llama), asked)
    ids = tokenize(FakeContext(llama), llama, TEXT, 512, 64).ids
    model: Any = llama.model
    with torch.no_grad():
        before = model(ids, labels=ids)
        kept = {name: llama.graph.slots[name].matrix().clone() for name in assignment}
        for name in assignment:
            llama.graph.slots[name].matrix().copy_(fake_quantize(find("int3"), kept[name]))
        after = model(ids, labels=ids)
        for name in assignment:
            llama.graph.slots[name].matrix().copy_(kept[name])
    assert result.perplexity_original == pytest.approx(math.exp(before.loss), rel=1e-4)
    assert result.perplexity == pytest.approx(math.exp(after.loss), rel=1e-4)
    p, q = before.logits[:, :-1].double().softmax(-1), after.logits[:, :-1].double().softmax(-1)
    kl = (p * (p / q).log()).sum(-1)
    assert result.kl_mean == pytest.approx(float(kl.mean()), rel=1e-3)
    assert result.kl_median == pytest.approx(float(np.quantile(kl.numpy(), 0.5)), rel=1e-3)
    assert result.kl_p99 == pytest.approx(
        float(np.quantile(kl.numpy(), 0.99, method="inverted_cdf")), rel=1e-3
    )
    agreement = float((p.argmax(-1) == q.argmax(-1)).double().mean())
    assert result.top1_agreement == pytest.approx(agreement, abs=0.003)


def test_fewer_bits_cost_more(bundled: LoadedModel) -> None:
    info = bundled.info
    found = [
        evaluate(
            FakeContext(bundled),
            EvaluateRequest(info.ref, info.fingerprint, _everything(bundled, form), EVALUATION, tokens=512),
        ).kl_mean
        for form in ("int2", "int3", "int4", "int8")
    ]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.001 < found[0]


def test_the_bundled_model_knows_its_language(bundled: LoadedModel) -> None:
    info = bundled.info
    result = evaluate(FakeContext(bundled), EvaluateRequest(info.ref, info.fingerprint, {}, tokens=2048))
    assert 10 < result.perplexity_original < 120


# --- generation -----------------------------------------------------------------------------------------------------


def _generate(loaded: LoadedModel, context: FakeContext, **changes: Any) -> Any:
    info = loaded.info
    options: dict[str, Any] = {"prompt": "The cat", "tokens": 24, "seed": 3, **changes}
    return generate(context, GenerateRequest(info.ref, info.fingerprint, **options))


def test_the_same_weights_write_the_same_text(tiny: LoadedModel) -> None:
    result = _generate(tiny, FakeContext(tiny), assignment={})
    assert result.original == result.recipe
    assert result.divergence == -1


def test_a_coarse_recipe_diverges_and_the_place_is_right(llama: LoadedModel) -> None:
    context = FakeContext(llama)
    result = _generate(llama, context, assignment=_everything(llama, "int2/g64/asym"))
    place = result.divergence
    assert place >= 0
    assert result.original[:place] == result.recipe[:place]
    alone = _generate(llama, FakeContext(llama))
    assert alone.original == result.original
    assert alone.recipe == ()
    tokens = [event for event in context.events if isinstance(event, TokenEvent)]
    assert len(context.events) == len(tokens) + 2, "and what was measured of each side"
    sides = [event.side for event in tokens]
    assert sides[:4] == ["original", "recipe", "original", "recipe"], "streamed interleaved"
    for side in ("original", "recipe"):
        assert tuple(event.text for event in tokens if event.side == side) == getattr(result, side)


def test_a_third_writes_what_it_would_write_alone(llama: LoadedModel) -> None:
    """Its text and the place where it parts are those of a comparison of two; streamed third of three."""
    coarse, fine = _everything(llama, "int2/g64/asym"), _everything(llama, "int4/g64/asym")
    context = FakeContext(llama)
    three = _generate(llama, context, assignment=fine, other=coarse)
    pair = _generate(llama, FakeContext(llama), assignment=coarse)
    assert (three.other, three.other_divergence) == (pair.recipe, pair.divergence)
    two = _generate(llama, FakeContext(llama), assignment=fine)
    assert (three.original, three.recipe, three.divergence) == (two.original, two.recipe, two.divergence)
    tokens = [event for event in context.events if isinstance(event, TokenEvent)]
    assert [event.side for event in tokens[:3]] == ["original", "recipe", "other"]
    assert tuple(event.text for event in tokens if event.side == "other") == three.other
    cached = _generate(llama, FakeContext(llama), other={}, other_setup=Setup(kv_cache="int4"))
    assert cached.other != cached.original, "a further recipe brings its own setup"


def test_tokens_are_measured_as_a_plain_pass_would(tiny: LoadedModel) -> None:
    """Softmax and KL written out, of one whole pass a model over the variant's text; read in pieces, as a whole."""
    assignment = _everything(tiny, "int3/g32/asym")
    result = _generate(tiny, FakeContext(tiny), assignment=assignment, tokens=10)
    model: Any = tiny.model
    variant = make_variant(FakeContext(tiny), tiny, assignment, Setup())
    for side, active in (("original", nullcontext), ("recipe", variant.active)):
        found = result.readings[side]
        assert len(found.ids) == len(getattr(result, side))
        text = torch.tensor([[*result.prompt, *found.ids]])
        places = slice(len(result.prompt) - 1, -1)
        with torch.no_grad():
            p = model(text).logits[0, places].double().softmax(-1)
            with active():
                q = model(text).logits[0, places].double().softmax(-1)
        chances = q[torch.arange(len(found.ids)), list(found.ids)]
        np.testing.assert_allclose(found.probability, chances, rtol=1e-3)
        np.testing.assert_allclose(found.kl, (p * (p / q).log()).sum(-1), rtol=2e-3, atol=1e-6)
    assert set(result.readings["original"].kl) == {0.0}
    assert min(found.kl) > 0
    plain = Variant(tiny, {}, ())
    pieces = read_tokens(FakeContext(tiny), plain, variant, result.prompt, found.ids, piece=3)
    np.testing.assert_allclose(pieces.kl, found.kl, rtol=2e-3, atol=1e-6)
    assert pieces.ids == found.ids


def _attribute(loaded: LoadedModel, context: FakeContext, assignment: dict[str, str], **changes: Any) -> Any:
    info = loaded.info
    ids = tuple(range(7, 25))
    return attribute(context, AttributionRequest(info.ref, info.fingerprint, ids, assignment, **changes))


def test_each_layer_behind_a_token_is_measured_alone(tiny: LoadedModel) -> None:
    """Against a whole pass a layer with its weights written into the model, and a KL written out."""
    assignment = _everything(tiny, "int3/g32/asym")
    found = _attribute(tiny, FakeContext(tiny), {**assignment, next(iter(assignment)): "original"})
    assert found.units == tuple(name for name in tiny.graph.slots if name in assignment)[1:]
    model: Any = tiny.model
    ids = torch.arange(7, 25)[None]

    def chances() -> torch.Tensor:
        with torch.no_grad():
            return model(ids).logits[0, -1].double().softmax(-1)

    p, alone = chances(), []
    kept = {name: tiny.graph.slots[name].matrix().clone() for name in found.units}
    coarse = {name: fake_quantize(find("int3/g32/asym"), matrix) for name, matrix in kept.items()}
    for name in found.units:
        tiny.graph.slots[name].matrix().copy_(coarse[name])
        alone.append(float((p * (p / chances()).log()).sum()))
        tiny.graph.slots[name].matrix().copy_(kept[name])
    np.testing.assert_allclose(found.kl, alone, rtol=5e-3, atol=1e-6)
    for name in found.units:
        tiny.graph.slots[name].matrix().copy_(coarse[name])
    assert found.whole == pytest.approx(float((p * (p / chances()).log()).sum()), rel=1e-3)
    for name in found.units:
        tiny.graph.slots[name].matrix().copy_(kept[name])
    assert max(found.kl) > 0.001
    assert found.tokens == 18


def test_where_nothing_is_rounded_no_layer_is_behind_it(llama: LoadedModel) -> None:
    found = _attribute(llama, FakeContext(llama), {}, setup=Setup(kv_cache="int4"))
    assert (found.units, found.kl) == ((), ())
    assert found.whole > 0, "the rounded cache alone"


def test_finding_the_layers_stops_between_two(llama: LoadedModel) -> None:
    class Stopped(FakeContext):
        def progress(self, fraction: float, message: str = "") -> None:
            super().progress(fraction, message)
            if "layer 3" in message:
                raise Cancelled("stopped")

    before = {name: slot.matrix().clone() for name, slot in llama.graph.slots.items()}
    with pytest.raises(Cancelled):
        _attribute(llama, Stopped(llama), _everything(llama, "int4/g64/asym"))
    assert all(torch.equal(slot.matrix(), before[name]) for name, slot in llama.graph.slots.items())


def test_greedy_text_equals_transformers(bundled: LoadedModel) -> None:
    model: Any = bundled.model
    tokenizer: Any = bundled.tokenizer
    prompt = "Once upon a time"
    result = _generate(bundled, FakeContext(bundled), prompt=prompt, temperature=0.0, tokens=20)
    ids = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        written = model.generate(**ids, do_sample=False, max_new_tokens=20, repetition_penalty=1.0)
    text = tokenizer.decode(written[0], skip_special_tokens=True)
    assert prompt + "".join(result.original) == text


def test_the_chat_template_wraps_the_prompt(llama: LoadedModel) -> None:
    tokenizer: Any = copy.deepcopy(llama.tokenizer)
    tokenizer.chat_template = (
        "{% for turn in messages %}({{ turn.role }}) {{ turn.content }}{% endfor %}"
        "{% if add_generation_prompt %} (assistant){% endif %}"
    )
    chatty = LoadedModel(llama.model, tokenizer, llama.graph, replace(llama.info, chat=True))
    wrapped = _generate(chatty, FakeContext(chatty), chat=True)
    assert (
        wrapped.original == _generate(llama, FakeContext(llama), prompt="(user) The cat (assistant)").original
    )
    plain = _generate(chatty, FakeContext(chatty), chat=False)
    assert plain.original == _generate(llama, FakeContext(llama)).original != wrapped.original


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    noise = torch.Generator().manual_seed(0)
    drawn = [
        choose(logits, -torch.empty(4).exponential_(generator=noise).log(), temperature=1.0, top_p=1.0)
        for _ in range(4000)
    ]
    shares = np.bincount(drawn, minlength=4) / 4000
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.15, 0.05], atol=0.025)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.floats(0.05, 0.99))
def test_top_p_never_draws_from_the_tail(seed: int, top_p: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(20, generator=generator) * 2
    gumbel = -torch.empty(20).exponential_(generator=generator).log()
    chances, order = logits.softmax(-1).sort(descending=True)
    allowed = order[: int((chances.cumsum(-1) < top_p).sum()) + 1]
    assert choose(logits, gumbel, 1.0, top_p) in allowed.tolist()


@pytest.mark.parametrize(("prompt", "tokens", "message"), [("  ", 5, "empty"), ("a " * 300, 5, "exceeds")])
def test_prompts_that_cannot_be_continued(llama: LoadedModel, prompt: str, tokens: int, message: str) -> None:
    with pytest.raises(TextError, match=message):
        _generate(llama, FakeContext(llama), prompt=prompt, tokens=tokens)


# --- one layer ------------------------------------------------------------------------------------------------------


FORMS = ("int4/g64/asym", "int3/g32/sym", "nf4/g64", "fp8_e4m3/channel", "original")


def test_layer_view_counts_every_weight(tiny: LoadedModel) -> None:
    info = tiny.info
    unit = next(unit for unit in info.units if unit.decided)
    view = layer_view(
        FakeContext(tiny), LayerRequest(info.ref, info.fingerprint, (unit.name,), FORMS, bins=60)
    )
    weight = tiny.graph.slots[unit.name].matrix()
    assert [each.format for each in view.formats] == list(FORMS)
    assert view.parameters == unit.parameters
    for each in view.formats:
        for histogram in (view.weights, each.dequantized, each.errors):
            assert sum(histogram.counts) == unit.parameters
            assert len(histogram.edges) == len(histogram.counts) + 1 == 61
        assert each.dequantized.edges == view.weights.edges
        assert each.errors.edges == view.formats[0].errors.edges
        assert each.clip_low < 0 < each.clip_high
        error = fake_quantize(find(each.format), weight) - weight
        assert each.largest_error == pytest.approx(float(error.abs().max()))
        assert each.mean_square == pytest.approx(float(error.square().mean()))
        if each.format == "original":
            assert each.sqnr_db is None
        else:
            ratio = float(weight.square().sum() / error.square().sum())
            assert each.sqnr_db == pytest.approx(10 * math.log10(ratio), abs=0.01)
            assert each.grid == tuple(sorted(each.grid))


def test_a_block_is_the_sum_of_its_layers(llama: LoadedModel) -> None:
    """Layers of different widths: the same figures as of all their weights and errors in one heap, by numpy."""
    info = llama.info
    names = tuple(unit.name for unit in info.units if unit.block == 1)
    asked = LayerRequest(info.ref, info.fingerprint, names, ("int3/channel/sym", "nf4/g64"), bins=50)
    view = layer_view(FakeContext(llama), asked)
    matrices = [llama.graph.slots[name].matrix() for name in names]
    heap = np.concatenate([matrix.double().numpy().ravel() for matrix in matrices])
    assert view.parameters == len(heap)
    assert view.weights.counts == tuple(np.histogram(heap, view.weights.edges)[0])
    assert (view.minimum, view.maximum) == (heap.min(), heap.max())
    assert view.standard_deviation == pytest.approx(heap.std())
    for each in view.formats:
        rounded = [fake_quantize(find(each.format), matrix) for matrix in matrices]
        errors = np.concatenate(
            [(after - before).numpy().ravel() for after, before in zip(rounded, matrices, strict=True)]
        ).astype(np.float64)
        assert each.sqnr_db == pytest.approx(10 * math.log10((heap**2).sum() / (errors**2).sum()), abs=1e-4)
        assert sum(each.errors.counts) == len(heap)
    assert view.formats[0].blocks == sum(unit.rows for unit in info.units if unit.block == 1)


class Plain(SlotRounder):
    """Rounds without a model."""

    def inputs(self, slot: Slot, gradients: bool = False) -> Inputs:
        raise AssertionError("nothing entered it")


def test_a_layer_looks_the_same_some_rows_at_a_time() -> None:
    """In every family, whether it can be rounded by rows or must be whole; stored either way, in turns."""
    values = torch.randn(10, 300, generator=torch.Generator().manual_seed(0)).pow(3)
    unit = Unit("a.weight", 0, "a", "linear", 10, 300, 16, True)
    turned = Slot(unit, torch.nn.Parameter(values.T.contiguous()), transposed=True)
    slots = [Slot(unit, torch.nn.Parameter(values)), turned]
    tails = [family.default.format(group=64) for family in infos().values()]
    every = [f"{name}/{tail}".rstrip("/") for name, tail in zip(infos(), tails, strict=True)]
    further = ["int4/tensor/sym", "fp8_e4m3/b128", "nf4/g64/dq", "int4/g64/asym/keep1.0", "int3/g64/asym@mse"]
    whole = {"nvfp4", *further}
    for slot, form in zip(cycle(slots), map(find, [*every, *further]), strict=False):
        assert Plain().by_rows(unit, form) == (form.name not in whole)
        once, parts = (view_slots(FakeContext(), Plain(), [slot], [form], 40, part) for part in (2**30, 700))
        (all_at_once,), (pieces,) = once.formats, parts.formats
        assert replace(parts, formats=()) == replace(once, formats=())
        rest = {"sqnr_db": None, "mean_square": 0.0}
        assert replace(pieces, **rest) == replace(all_at_once, **rest)
        assert (pieces.sqnr_db or 0) == pytest.approx(all_at_once.sqnr_db or 0, rel=1e-5)


def test_symmetric_clipping_is_counted_by_hand(llama: LoadedModel) -> None:
    """In a symmetric channel only a positive extreme is cut off (7.5 steps away, where the grid ends at 7)."""
    info = llama.info
    name = "model.layers.0.mlp.up_proj.weight"
    view = layer_view(
        FakeContext(llama), LayerRequest(info.ref, info.fingerprint, (name,), ("int4/channel/sym",))
    )
    weight = llama.graph.slots[name].matrix()
    step = (weight.abs().amax(dim=1) / 7.5).half().float()[:, None]
    assert view.formats[0].outside == pytest.approx(
        float(((weight > 7 * step) | (weight < -8 * step)).float().mean()), abs=1e-6
    )
    assert view.formats[0].outside > 0


def test_kept_weights_are_not_outside(llama: LoadedModel) -> None:
    """The extremes of a symmetric channel that are cut off are among the largest 1 %, and those are kept."""
    info = llama.info
    name = "model.layers.0.mlp.up_proj.weight"
    request = LayerRequest(info.ref, info.fingerprint, (name,), ("int4/channel/sym/keep1.0",))
    view = layer_view(FakeContext(llama), request)
    weight = llama.graph.slots[name].matrix()
    threshold = weight.abs().flatten().sort(descending=True).values[round(weight.numel() / 100) - 1]
    dense = weight.masked_fill(weight.abs() >= threshold, 0.0)
    step = (dense.abs().amax(dim=1) / 7.5).half().float()[:, None]
    assert view.formats[0].outside == pytest.approx(
        float(((dense > 7 * step) | (dense < -8 * step)).float().mean()), abs=1e-6
    )
    assert view.formats[0].format == "int4/channel/sym/keep1.0"
    assert view.formats[0].kept == pytest.approx(float((weight.abs() >= threshold).float().mean()))
    assert view.formats[0].kept_from == float(threshold)


def test_an_unknown_layer_is_named(llama: LoadedModel) -> None:
    info = llama.info
    with pytest.raises(QuantError, match="no weight named 'nonsense'"):
        layer_view(FakeContext(llama), LayerRequest(info.ref, info.fingerprint, ("nonsense",), ("int4",)))


# --- text -----------------------------------------------------------------------------------------------------------


def test_bundled_texts_are_long_enough_and_disjoint(bundled: LoadedModel) -> None:
    context = FakeContext(bundled)
    assert tokenize(context, bundled, CALIBRATION, 8192, 256).count >= 8192
    assert tokenize(context, bundled, EVALUATION, 4096, 256).count >= 4096
    sentences = [
        {part.strip() for part in bundled_text(kind).replace("\n", " ").split(".") if len(part.split()) >= 6}
        for kind in ("calibration", "evaluation")
    ]
    assert not sentences[0] & sentences[1]


def test_a_short_text_still_makes_eight_sequences(llama: LoadedModel) -> None:
    tokens = tokenize(FakeContext(llama), llama, TextSource("inline", PROSE), 8192, 256)
    assert tokens.ids.shape[0] >= 8
    assert tokens.label == "own text"


@pytest.mark.parametrize("text", ["", "too short"])
def test_too_little_text_is_refused(llama: LoadedModel, text: str) -> None:
    with pytest.raises(TextError, match="at least 64 are needed"):
        tokenize(FakeContext(llama), llama, TextSource("inline", text), 1024, 256)


def test_a_tokenizer_of_another_model_is_refused(llama: LoadedModel) -> None:
    tokenizer = copy.deepcopy(llama.tokenizer)
    tokenizer.add_tokens(["unheard-of"])
    other = LoadedModel(llama.model, tokenizer, llama.graph, llama.info)
    text = TextSource("inline", "unheard-of " * 100)
    with pytest.raises(ModelError, match="makes token 384, and the model knows only 384"):
        tokenize(FakeContext(other), other, text, 1024, 256)


def test_text_the_model_writes_itself(llama: LoadedModel) -> None:
    source = TextSource("self", seed=4)
    first, again = (tokenize(FakeContext(llama), llama, source, 256, 64) for _ in range(2))
    assert torch.equal(first.ids, again.ids)
    assert first.count >= 256
    other = tokenize(FakeContext(llama), llama, TextSource("self", seed=5), 256, 64)
    assert not torch.equal(first.ids, other.ids)
    assert "written by the model" in first.label


def test_a_dataset_without_its_package_is_explained(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(TextError, match="needs the package 'datasets'"):
        tokenize(FakeContext(llama), llama, TextSource("dataset", "wikitext"), 1024, 256)
