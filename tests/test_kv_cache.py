"""Quantized KV caches: what attention sees, whether text comes at once or token by token, and what it takes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from quant_core import formats
from quant_core.calibration.text import tokenize
from quant_core.errors import ModelError, QuantError
from quant_core.evaluation.generation import generate
from quant_core.evaluation.quality import evaluate
from quant_core.kv_cache import KV_CACHES, kv_bits, kv_format
from quant_core.methods.kv_cache import cache_rounding, check_cache
from quant_core.methods.variant import Variant, make_variant
from quant_core.models.loading import LoadedModel
from quant_core.models.patch import rounded_cache
from quant_core.schema import EvaluateRequest, GenerateRequest, Setup, TextSource, replace
from tests.tiny import PROSE, FakeContext

TEXT = TextSource("inline", PROSE * 12, "prose")
EVERY = ("int8", "int4", "fp8", "int4:group=32")


def _variant(loaded: LoadedModel, name: str) -> Variant:
    return make_variant(FakeContext(loaded), loaded, {}, Setup(kv_cache=name))


def _ids(loaded: LoadedModel) -> Tensor:
    return tokenize(FakeContext(loaded), loaded, TEXT, 64, 24).ids[:2]


def _logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False).logits


# --- the rounding ---------------------------------------------------------------------------------------------------


def test_four_values_by_hand() -> None:
    """INT4 from -3 to 12: a step of 1, and a zero point of -5. Halves go to even once the zero point is added."""
    states = torch.tensor([-3.0, 12.0, 0.4, 3.6]).view(1, 1, 1, 4)
    assert cache_rounding("int4")(states).flatten().tolist() == [-3.0, 12.0, 0.0, 4.0]
    states = torch.tensor([448.0, 17.5, -19.5, 1.0]).view(1, 1, 1, 4)
    assert cache_rounding("fp8")(states).flatten().tolist() == [448.0, 18.0, -20.0, 1.0]


@pytest.mark.parametrize(("name", "bits"), [("int8", 8), ("int4", 4)])
@pytest.mark.parametrize("group", [None, 32])
def test_integers_as_compressed_tensors(name: str, bits: int, group: int | None) -> None:
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils.helpers import calculate_qparams

    states = torch.randn(2, 3, 5, 64, generator=torch.Generator().manual_seed(0)) + 0.3
    rows = states.reshape(-1, group or 64)
    args = QuantizationArgs(num_bits=bits, type="int", strategy="channel", symmetric=False)
    scale, zero = calculate_qparams(rows.amin(1, keepdim=True), rows.amax(1, keepdim=True), args)
    scale = scale.half().float()  # what is stored
    expected = fake_quantize(rows, scale, zero, args).view(states.shape)
    found = cache_rounding(name if group is None else f"{name}:group={group}")(states)
    same = torch.isclose(found, expected, rtol=1e-5, atol=1e-6)
    assert (
        same.float().mean() > 0.99
    )  # their zero point is found with the scale before it is rounded to 16 bits
    assert (found - expected).abs().max() <= float(scale.max()) * 1.01


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("width", [16, 64, 80])
def test_tokens_and_heads_are_rounded_by_themselves(name: str, width: int) -> None:
    states = torch.randn(2, 3, 5, width, generator=torch.Generator().manual_seed(1))
    rounding = cache_rounding(name)
    whole = rounding(states)
    assert whole.shape == states.shape
    for token in range(5):
        assert torch.equal(rounding(states[:, :, token : token + 1]), whole[:, :, token : token + 1])
    assert torch.equal(rounding(states[:1, 1:2]), whole[:1, 1:2])
    assert rounding(states.bfloat16()).dtype == torch.bfloat16


# --- in a model -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_token_by_token_as_all_at_once(tiny: LoadedModel, name: str) -> None:
    """A prompt and then single steps with a cache give the logits of one forward over everything, in float64."""
    model: Any = copy.deepcopy(tiny.model).double()
    model.config._experts_implementation = "eager"  # the default takes no float64
    ids = _ids(tiny)
    with torch.no_grad(), rounded_cache(model, cache_rounding(name)):
        expected = model(ids, use_cache=False).logits
        out = model(ids[:, :10], use_cache=True)
        found = [out.logits]
        for token in range(10, ids.shape[1]):
            out = model(ids[:, token : token + 1], past_key_values=out.past_key_values, use_cache=True)
            found.append(out.logits)
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_a_cache_changes_predictions_and_leaves_the_model_alone(tiny: LoadedModel, name: str) -> None:
    ids = _ids(tiny)
    before = _logits(tiny.model, ids)
    functions = dict(ALL_ATTENTION_FUNCTIONS)
    variant = _variant(tiny, name)
    assert variant.notes == ()
    with variant.active() as model:
        changed = _logits(model, ids)
        assert torch.equal(changed, _logits(model, ids))
    assert not torch.equal(changed, before)
    assert torch.equal(before, _logits(tiny.model, ids))
    assert dict(ALL_ATTENTION_FUNCTIONS) == functions


def test_a_model_is_restored_after_an_error(tiny: LoadedModel) -> None:
    ids = _ids(tiny)
    before = _logits(tiny.model, ids)
    functions = dict(ALL_ATTENTION_FUNCTIONS)

    def fails(states: Tensor) -> Tensor:
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), Variant(tiny, {}, (), {}, fails).active() as model:
        _logits(model, ids)
    assert torch.equal(before, _logits(tiny.model, ids))
    assert dict(ALL_ATTENTION_FUNCTIONS) == functions


def test_an_attention_that_was_replaced_before_comes_back(llama: LoadedModel) -> None:
    original = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def outer(*args: Any, **options: Any) -> Any:
        return original(*args, **options)

    ALL_ATTENTION_FUNCTIONS["sdpa"] = outer
    try:
        with rounded_cache(llama.model, cache_rounding("int8")):
            assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not outer
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is outer
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]


def test_eager_attention_is_rounded_too(tiny: LoadedModel) -> None:
    model: Any = copy.deepcopy(tiny.model)
    model.set_attn_implementation("eager")
    ids = _ids(tiny)
    with rounded_cache(tiny.model, cache_rounding("int4")):
        expected = _logits(tiny.model, ids)
    with rounded_cache(model, cache_rounding("int4")):
        found = _logits(model, ids)
    assert not torch.equal(found, _logits(model, ids))
    assert (found - expected).abs().mean() < 0.02 * expected.abs().mean()
    assert "eager" not in ALL_ATTENTION_FUNCTIONS


def test_an_attention_that_cannot_be_seen_is_refused(llama: LoadedModel) -> None:
    """A model whose layers never come by transformers' function, and one of which only half do."""
    model: Any = copy.deepcopy(llama.model)
    model.model.layers = torch.nn.ModuleList([])
    blind = replace(llama, model=model)
    with pytest.raises(ModelError, match=r"in a way of its own.*Leave the KV cache as it is"):
        check_cache(blind, cache_rounding("int8"))
    model.model.layers = copy.deepcopy(llama.model).model.layers[:1]
    assert check_cache(blind, cache_rounding("int8")).startswith("The KV cache is rounded in 1 of 2 blocks")


def test_more_bits_cost_less(llama: LoadedModel) -> None:
    def kl(name: str) -> float:
        info = llama.info
        asked = EvaluateRequest(info.ref, info.fingerprint, {}, TEXT, 256, 64, Setup(kv_cache=name))
        return evaluate(FakeContext(llama), asked).kl_mean

    assert 0 < kl("int8") < kl("fp8") < kl("int4")
    assert kl("int8") == kl("int8")


def test_generation_uses_it(llama: LoadedModel) -> None:
    """What is written equals writing without a cache, a whole forward a token."""
    asked = GenerateRequest(
        llama.info.ref,
        llama.info.fingerprint,
        "the ship",
        {},
        tokens=12,
        temperature=0.0,
        setup=Setup(kv_cache="int4"),
    )
    context = FakeContext(llama)
    done = generate(context, asked)
    tokenizer: Any = llama.tokenizer
    ids = torch.tensor([tokenizer("the ship")["input_ids"]])
    with _variant(llama, "int4").active() as model:
        for _ in done.recipe:
            ids = torch.cat([ids, _logits(model, ids)[:, -1:].argmax(dim=-1)], dim=1)
    assert "the ship" + "".join(done.recipe) == tokenizer.decode(ids[0]).rstrip("\ufffd")


# --- names and size -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "head_dim", "bits"),
    [
        ("", 64, 16.0),
        ("int8", 64, 8 + (16 + 8) / 64),
        ("int4", 128, 4 + (16 + 4) / 128),
        ("int4:group=32", 128, 4 + (16 + 4) / 32),
        ("int4:group=64", 80, (2 * 64 * 4 + 2 * 20) / 80),
        ("fp8", 64, 8.5),
    ],
)
def test_bits_by_hand(name: str, head_dim: int, bits: float) -> None:
    assert kv_bits(name, head_dim, formats.infos()) == bits


def test_every_cache_has_a_format() -> None:
    families = formats.infos()
    found = {name: kv_format(name, families).name for name in KV_CACHES}
    assert found == {"int8": "int8/channel/asym", "int4": "int4/channel/asym", "fp8": "fp8_e4m3/channel"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("int5", "There is no KV cache named 'int5'. "),
        ("int4:group=48", "INT4 KV cache has no group '48'. It takes head, 64, 32."),
        ("fp8:group=32", "FP8 KV cache has no option 'group'. It has none."),
    ],
)
def test_unknown_names_are_refused(llama: LoadedModel, name: str, says: str) -> None:
    with pytest.raises(QuantError) as error:
        _variant(llama, name)
    assert str(error.value).startswith(says)
