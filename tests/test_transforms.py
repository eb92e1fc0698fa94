"""Rewrites: the same function, easier weights, and an original that nobody touched."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Qwen3Config,
)

from quant_core import costs
from quant_core.calibration.inputs import Inputs
from quant_core.calibration.text import Tokens
from quant_core.errors import FormatError, ModelError, QuantError
from quant_core.evaluation.generation import generate
from quant_core.evaluation.layer import layer_view
from quant_core.evaluation.quality import evaluate
from quant_core.formats import fake_quantize, find
from quant_core.methods import rewrite, transforms
from quant_core.methods.rewrite import for_copy, rewritten
from quant_core.methods.transforms.awq import ALPHAS, awq_scales, output_error, search
from quant_core.methods.transforms.equalize import equal_scales
from quant_core.methods.transforms.rotate import hadamard_rotation
from quant_core.methods.transforms.smoothquant import smooth_scales
from quant_core.methods.variant import make_variant
from quant_core.models.anatomy import ARCHITECTURES, Link, Weight, anatomy
from quant_core.models.graph import build_graph
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel, load
from quant_core.schema import (
    Calibration,
    EvaluateRequest,
    GenerateRequest,
    LayerRequest,
    ModelRef,
    SensitivityRequest,
    Setup,
    TextSource,
    Unit,
)
from quant_core.sensitivity.run import run
from tests.tiny import _ROPE, _SHARED, CONFIGS, PROSE, FakeContext, tokenizer

FORM = "int3/g32/asym"
CALIBRATION = Calibration(TextSource("inline", PROSE * 3), 256, 32)
MORE: dict[str, Callable[[], Any]] = {
    "mistral": lambda: MistralConfig(**_ROPE, sliding_window=16),
    "qwen3": lambda: Qwen3Config(**_ROPE, head_dim=24, tie_word_embeddings=True),
    "llama-odd": lambda: LlamaConfig(
        **{**_ROPE, "hidden_size": 48}, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "opt-behind": lambda: _opt(do_layer_norm_before=False),
    "opt-gelu": lambda: _opt(activation_function="gelu"),
}
REWRITES = {
    "awq": ("awq",),
    "smoothquant": ("smoothquant",),
    "smoothquant-all": ("smoothquant:alpha=0.8:where=all",),
    "equalize": ("equalize",),
    "rotate": ("rotate",),
    "two": ("rotate", "awq"),
}


def _opt(**changes: Any) -> OPTConfig:
    sizes = {"hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    return OPTConfig(**_SHARED, **sizes, max_position_embeddings=256, word_embed_proj_dim=64, **changes)


def _make(config: Any, folder: Path, seed: int = 0) -> LoadedModel:
    """A random model whose norms, biases and channels all differ, so that nothing forgotten goes unseen."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.3)
            else:
                parameter.copy_(torch.randn(len(parameter)).mul_(0.8).exp_())
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return load(ModelRef(str(folder), device="cpu"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LoadedModel]:
    return cache(lambda kind: _make({**CONFIGS, **MORE}[kind](), tmp_path_factory.mktemp(kind)))


def _tokens(seed: int = 0) -> Tokens:
    ids = torch.randint(1, 384, (4, 48), generator=torch.Generator().manual_seed(seed))
    return Tokens(ids, f"random {seed}", "random ids")


@pytest.fixture(scope="module")
def exact_models(models: Callable[[str], LoadedModel]) -> Callable[[str], LoadedModel]:
    """The same models in float64, in which a rewrite is exact to about 1e-14."""
    return cache(lambda kind: _double(models(kind)))


def _whole(loaded: LoadedModel, form: str = FORM) -> dict[str, str]:
    return {unit.name: form for unit in loaded.graph.units if unit.decided}


def _rewritten(loaded: LoadedModel, *names: str, form: str = FORM) -> LoadedModel:
    return rewritten(FakeContext(loaded), loaded, names, _whole(loaded, form), _tokens())


def _values(loaded: LoadedModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in loaded.model.state_dict().items()}


def _same(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def _exact_norm(self: Any, hidden: Tensor) -> Tensor:
    """RMSNorm in the dtype of its input; the library's computes in float32."""
    square = hidden.square().mean(-1, keepdim=True)
    return self.weight * hidden * torch.rsqrt(square + self.variance_epsilon)


def _double(loaded: LoadedModel) -> LoadedModel:
    """The model in float64."""
    model = AutoModelForCausalLM.from_config(loaded.model.config).double().eval().requires_grad_(False)
    model.load_state_dict(loaded.model.state_dict())
    model.tie_weights()
    model.set_experts_implementation("eager")
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = MethodType(_exact_norm, module)  # deepcopy binds it to the copy
    return replace(loaded, model=model, graph=build_graph(model, 32))


def _logits(model: nn.Module) -> Tensor:
    found: Tensor = model(_tokens(7).ids, use_cache=False).logits
    return found


REFUSED = {
    ("rotate", "gpt2"),
    ("rotate", "opt"),
    ("two", "gpt2"),
    ("two", "opt"),
    ("rotate", "opt-behind"),
    ("smoothquant", "opt-behind"),
    ("rotate", "opt-gelu"),
}


@pytest.mark.parametrize(
    ("rewrite", "kind"),
    [*product(REWRITES, CONFIGS), *product(["awq", "smoothquant", "equalize", "rotate"], MORE)],
)
def test_same_function_or_a_refusal(
    exact_models: Callable[[str], LoadedModel], rewrite: str, kind: str
) -> None:
    exact = exact_models(kind)
    names = REWRITES[rewrite]
    before = _values(exact)
    if (rewrite, kind) in REFUSED:
        with pytest.raises(ModelError) as caught:
            _rewritten(exact, *names)
        assert caught.value.message.endswith(".")
        assert "eave" in caught.value.hint
    else:
        copied = _rewritten(exact, *names)
        reference, found = _logits(exact.model), _logits(copied.model)
        # Mixtral's router computes its softmax in float32 whatever the dtype.
        tolerance = 1e-5 if kind == "mixtral" else 1e-11
        assert float((found - reference).abs().max()) < tolerance * float(reference.abs().max())
        moved = {
            name
            for name, slot in exact.graph.slots.items()
            if not torch.allclose(slot.matrix(), copied.graph.slots[name].matrix(), rtol=1e-3)
        }
        assert len(moved) >= len(_whole(exact)) / 4
        if "rotate" in names:
            assert moved == set(exact.graph.slots)
    assert _same(before, _values(exact))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mixtral", "opt"])
def test_every_link_can_be_scaled_at_random(models: Callable[[str], LoadedModel], kind: str) -> None:
    """Independent of what any method would choose: scales over three orders of magnitude change nothing."""
    exact = _double(models(kind))
    before = _logits(exact.model)
    generator = torch.Generator().manual_seed(3)
    links = anatomy(exact.model, exact.graph)
    assert {link.kind for link in links} == {"norm", "values", "inner"}
    for link in links:
        link.move(torch.randn(link.channels, generator=generator, dtype=torch.float64).exp())
    after = _logits(exact.model)
    tolerance = 1e-5 if kind == "mixtral" else 1e-11
    assert float((after - before).abs().max()) < tolerance * float(before.abs().max())


@pytest.mark.parametrize("rewrite", REWRITES)
def test_float32_computes_nearly_the_same(models: Callable[[str], LoadedModel], rewrite: str) -> None:
    loaded = models("qwen2")
    reference, found = _logits(loaded.model), _logits(_rewritten(loaded, *REWRITES[rewrite]).model)
    assert float((found - reference).abs().max()) < 1e-4 * float(reference.abs().max())


def test_unknown_architecture_is_refused(tmp_path: Path) -> None:
    """Gemma's norms multiply by 1 + w: guessing that they are Llama's would break the model silently."""
    loaded = _make(GemmaConfig(**_ROPE, head_dim=16), tmp_path)
    for name in transforms.TRANSFORMS:
        with pytest.raises(ModelError, match="GemmaForCausalLM") as caught:
            _rewritten(loaded, name)
        assert "Llama" in caught.value.hint
    with pytest.raises(ModelError, match="GemmaForCausalLM"):
        anatomy(loaded.model, loaded.graph)


def test_catalog_says_what_is_refused() -> None:
    infos = transforms.infos()
    assert set(infos) == {"awq", "smoothquant", "equalize", "rotate"}
    for info in infos.values():
        assert {*info.families, *info.except_for} == set(ARCHITECTURES)
        assert not set(info.families) & set(info.except_for)
    assert set(infos["rotate"].except_for) == {"GPT2LMHeadModel", "OPTForCausalLM"}
    assert [name for name, info in infos.items() if info.unties] == ["rotate"]


def test_unknown_names_and_options(models: Callable[[str], LoadedModel]) -> None:
    loaded = models("llama")
    with pytest.raises(QuantError, match="no rewrite named 'rotat'"):
        _rewritten(loaded, "rotat")
    with pytest.raises(FormatError, match="no alpha '2'"):
        _rewritten(loaded, "smoothquant:alpha=2")
    assert _rewritten(loaded) is loaded


# --- AWQ


def test_awq_scales_by_hand() -> None:
    size = torch.tensor([1.0, 4.0, 16.0])
    assert awq_scales(size, 0.5).tolist() == [0.5, 1.0, 2.0]
    assert awq_scales(size, 0.0).tolist() == [1.0, 1.0, 1.0]
    assert awq_scales(torch.tensor([0.0, 1.0]), 1.0).tolist() == pytest.approx([0.01, 100.0])


def _one_link(seed: int) -> tuple[Link, Slot, Inputs, Tensor]:
    """A norm of 64 channels that feeds one layer of 32, with a few loud channels."""
    generator = torch.Generator().manual_seed(seed)
    weight = nn.Parameter(torch.randn(32, 64, generator=generator), requires_grad=False)
    x = torch.randn(200, 64, generator=generator) * torch.randn(64, generator=generator).mul(1.5).exp()
    inputs = Inputs(x.T @ x / 200, x.abs().mean(0), x.abs().amax(0), x, 200)
    slot = Slot(Unit("layer.weight", 0, "layer", "linear", 32, 64, 16, True), weight)
    link = Link("norm", 0, (torch.ones(64),), (Weight(weight.data, None, (slot,)),), 1, 64)
    return link, slot, inputs, x


@pytest.mark.parametrize("seed", range(3))
def test_awq_chooses_the_exponent_of_least_output_error(seed: int) -> None:
    """Against a second way to the same number: the mean of |dW x|^2 over the inputs themselves."""
    link, slot, inputs, x = _one_link(seed)
    form, weight = find("int3/g32/asym"), slot.matrix().clone()
    errors = []
    for alpha in ALPHAS:
        scales = inputs.mean_abs**alpha
        scales = scales / (scales.max() * scales.min()) ** 0.5
        rounded = fake_quantize(form, weight @ scales.diag()) @ (1 / scales).diag()
        errors.append(float((x @ (rounded - weight).T).square().sum(dim=1).mean()))
        assert output_error(weight, awq_scales(inputs.mean_abs, alpha), form, inputs.moment) == pytest.approx(
            errors[-1], rel=1e-3
        )
    best = search(link, [(slot, inputs)], {slot.unit.name: form})
    assert errors[ALPHAS.index(best)] == pytest.approx(min(errors), rel=1e-3)
    assert min(errors) < 0.9 * errors[0]


def test_awq_counts_an_expert_by_its_tokens() -> None:
    """One expert saw many tokens; another saw one token, through whose errors it would prefer no scaling."""
    link, slot, inputs, _ = _one_link(0)
    other = replace(slot, unit=replace(slot.unit, name="other.weight"))
    quiet = replace(inputs, moment=100 * torch.diag(1 / inputs.moment.diagonal()), rows=1)
    formats = dict.fromkeys(["layer.weight", "other.weight"], find("int3/g32/asym"))
    alone = search(link, [(slot, inputs)], formats)
    assert alone > 0
    many = replace(inputs, rows=10**6)
    assert search(link, [(slot, many), (other, quiet)], formats) == alone
    assert search(link, [(slot, replace(inputs, rows=1)), (other, quiet)], formats) == 0


def test_awq_leaves_alone_what_is_not_rounded(models: Callable[[str], LoadedModel]) -> None:
    loaded = models("llama")
    only = {"model.layers.1.mlp.down_proj.weight": FORM, "model.layers.0.mlp.down_proj.weight": "original"}
    copied = rewritten(FakeContext(loaded), loaded, ("awq",), only, _tokens())
    changed = {
        name
        for name, value in loaded.model.state_dict().items()
        if not torch.equal(value, copied.model.state_dict()[name])
    }
    assert changed == {"model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.up_proj.weight"}


def test_awq_ignores_the_method_of_a_format(models: Callable[[str], LoadedModel]) -> None:
    loaded = models("llama")
    first = _rewritten(loaded, "awq")
    assert _rewritten(loaded, "awq", form=f"{FORM}@mse") is first
    assert _rewritten(loaded, "awq", form="int4/g32/asym") is not first


# --- SmoothQuant and equalization


def test_smoothquant_by_hand() -> None:
    activation, weight = torch.tensor([16.0, 1.0, 0.0, 3.0]), torch.tensor([4.0, 4.0, 2.0, 0.0])
    assert smooth_scales(activation, weight, 0.5).tolist() == [2.0, 0.5, 1.0, 1.0]
    assert smooth_scales(activation, weight, 0.75).tolist() == pytest.approx(
        [8 / 2**0.5, 1 / 2**0.5, 1.0, 1.0]
    )


def test_smoothquant_shares_the_difficulty(models: Callable[[str], LoadedModel]) -> None:
    """With alpha 0.5 the largest activation and the largest weight of every channel end up equal."""
    loaded = models("llama-untied")
    copied = _rewritten(loaded, "smoothquant")
    seen: list[Tensor] = []
    attention: Any = copied.model.get_submodule("model.layers.1.self_attn")
    handle = attention.q_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    copied.model(_tokens().ids)
    handle.remove()
    activation = seen[0].abs().flatten(0, 1).amax(dim=0)
    weights = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    torch.testing.assert_close(activation, weights.abs().amax(dim=0), rtol=1e-4, atol=1e-5)


def test_equalize_by_hand() -> None:
    first, bias = torch.tensor([[2.0, -1.0], [3.0, 8.0]]), torch.tensor([1.0, 6.0])
    second = torch.tensor([[8.0, 1.0], [-4.0, 2.0]])
    scales = equal_scales(torch.tensor([2.0, 8.0]), torch.tensor([8.0, 2.0]))
    assert scales.tolist() == [0.5, 2.0]
    Link("inner", 0, (first, bias), (Weight(second, None, ()),), 1, 2).move(scales)
    assert first.tolist() == [[4.0, -2.0], [1.5, 4.0]]
    assert bias.tolist() == [2.0, 3.0]
    assert second.tolist() == [[4.0, 2.0], [-2.0, 4.0]]
    assert equal_scales(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])).tolist() == [1.0, 1.0]


def test_equalized_pairs_have_equal_ranges(models: Callable[[str], LoadedModel]) -> None:
    copied = _rewritten(models("llama"), "equalize")
    block: Any = copied.model.get_submodule("model.layers.0")
    up, down = block.mlp.up_proj.weight, block.mlp.down_proj.weight
    torch.testing.assert_close(up.abs().amax(dim=1), down.abs().amax(dim=0))
    values, output = block.self_attn.v_proj.weight, block.self_attn.o_proj.weight
    read = (
        output.abs().amax(dim=0).reshape(2, 2, 16).amax(dim=1).flatten()
    )  # two query heads share one of values
    torch.testing.assert_close(values.abs().amax(dim=1), read)


def test_channels_of_grouped_queries() -> None:
    """Two heads of values, two wide, each read by two query heads."""
    link = Link("values", 0, (torch.zeros(4, 3),), (), 2, 2)
    read = torch.tensor([1.0, 2.0, 3.0, 0.0, 5.0, 6.0, 7.0, 8.0])
    assert link.largest(read).tolist() == [3.0, 2.0, 7.0, 8.0]
    assert link.average(read).tolist() == [2.0, 1.0, 6.0, 7.0]
    assert link.spread(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [1, 2, 1, 2, 3, 4, 3, 4]


def test_a_weight_that_overflows_is_refused() -> None:
    half = torch.full((2, 2), 6e4, dtype=torch.float16)
    link = Link("inner", 3, (torch.ones(2, 2),), (Weight(half, None, ()),), 1, 2)
    with pytest.raises(ModelError, match=r"block 3 is too large for float16"):
        link.move(torch.tensor([1.0, 2.0]))


# --- rotation


@pytest.mark.parametrize("size", [1, 2, 7, 12, 64, 96, 576])
def test_rotation_is_orthogonal(size: int) -> None:
    rotation = hadamard_rotation(size, 5)
    torch.testing.assert_close(
        rotation @ rotation.T, torch.eye(size, dtype=torch.float64), atol=1e-12, rtol=0
    )
    if size & (size - 1) == 0:
        assert bool((rotation.abs() == size**-0.5).all())
    assert torch.equal(rotation, hadamard_rotation(size, 5))
    if size > 2:
        assert not torch.equal(rotation, hadamard_rotation(size, 6))


def test_hadamard_of_four_by_hand() -> None:
    rotation = hadamard_rotation(4, 0)
    signs = rotation[:, :1] * 2
    assert (rotation * signs * 2).tolist() == [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]


def test_rotation_spreads_an_outlier_channel(tmp_path: Path) -> None:
    loaded = _make(CONFIGS["llama-untied"](), tmp_path)
    model: Any = loaded.model
    model.model.embed_tokens.weight[:, 5] *= 30

    def kurtosis(values: Tensor) -> float:
        centred = (values - values.mean()) / values.std()
        return float(centred.pow(4).mean())

    after = _rewritten(loaded, "rotate").model.get_input_embeddings().weight
    assert kurtosis(model.model.embed_tokens.weight) > 20
    assert kurtosis(after) < 6


def test_rotation_unties_the_head_and_says_so(models: Callable[[str], LoadedModel]) -> None:
    loaded = models("llama")
    copied = _rewritten(loaded, "rotate")
    head = copied.graph.slots["lm_head.weight"].unit
    assert head.kind == "head"
    assert head.parameters == 384 * 64
    assert list(copied.graph.slots) == [*loaded.graph.slots, "lm_head.weight"]
    assert copied.info.parameters == loaded.info.parameters + head.parameters
    assert copied.info.original_bits == loaded.info.original_bits + head.parameters * head.bits
    assert copied.info == costs.untied(loaded.info)
    assert loaded.model.config.tie_word_embeddings
    copied.model.tie_weights()  # as saving and loading do
    assert copied.model.get_output_embeddings().weight is copied.graph.slots["lm_head.weight"].parameter
    assert not any("share one weight" in note for note in copied.info.notes)
    assert any("share one weight" in note for note in loaded.info.notes)
    untied = models("llama-untied")
    assert costs.untied(untied.info) is untied.info
    assert _rewritten(untied, "rotate").info == untied.info
    assert copied.info.parameters == sum(p.numel() for p in copied.model.parameters())


def test_what_is_said_of_a_tied_embedding_goes_for_the_untied_head(
    models: Callable[[str], LoadedModel],
) -> None:
    loaded = models("llama")
    copied = _rewritten(loaded, "rotate")
    tied = "model.embed_tokens.weight"
    assert for_copy({tied: "int8"}, loaded, copied) == {tied: "int8", "lm_head.weight": "int8"}
    explicit = {tied: "int8", "lm_head.weight": "int4"}
    assert for_copy(explicit, loaded, copied) == explicit
    assert for_copy({tied: "int8"}, loaded, loaded) == {tied: "int8"}
    setup = Setup(transforms=("rotate",), calibration=CALIBRATION)
    variant = make_variant(FakeContext(loaded), loaded, {tied: "int4/channel/sym"}, setup)
    slots = variant.loaded.graph.slots
    assert set(variant.weights) == {slots[tied].parameter, slots["lm_head.weight"].parameter}


# --- the copy


@pytest.mark.parametrize("name", ["awq", "rotate"])
def test_deterministic(models: Callable[[str], LoadedModel], name: str) -> None:
    loaded = models("mixtral")
    first = _values(_rewritten(loaded, name))
    _rewritten(loaded, "equalize")  # takes the place of the kept copy
    assert _same(first, _values(_rewritten(loaded, name)))
    if name == "rotate":
        assert not _same(first, _values(_rewritten(loaded, "rotate:seed=1")))


def test_an_exception_leaves_the_original_alone(
    models: Callable[[str], LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = models("llama-untied")
    before = _values(loaded)
    move, calls = Link.move, []

    def failing(self: Link, scales: Tensor) -> None:
        calls.append(self)
        if len(calls) == 4:
            raise RuntimeError("out of memory")
        move(self, scales)

    with monkeypatch.context() as patch:
        patch.setattr(Link, "move", failing)
        with pytest.raises(RuntimeError, match="out of memory"):
            _rewritten(loaded, "equalize")
    assert len(calls) == 4
    assert _same(before, _values(loaded))
    assert not _same(before, _values(_rewritten(loaded, "equalize")))


def test_the_last_copy_is_kept_as_long_as_the_model(tmp_path: Path) -> None:
    loaded = _make(CONFIGS["llama"](), tmp_path)
    first = _rewritten(loaded, "rotate")
    assert _rewritten(loaded, "rotate", form="int8/channel/sym") is first  # a rotation searches nothing
    assert _rewritten(loaded, "smoothquant") is not first
    again = weakref.ref(_rewritten(loaded, "rotate").model)
    assert again() is not None
    assert again() is not first.model
    del loaded
    gc.collect()
    assert again() is None


def test_a_copy_that_does_not_fit_is_refused(
    models: Callable[[str], LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrite, "free_memory", lambda device: 1000)
    with pytest.raises(ModelError, match="A rewritten copy of") as caught:
        _rewritten(models("llama"), "rotate:seed=5")
    assert "16-bit" in caught.value.hint


# --- through the jobs


def test_generation_with_a_rewritten_model_writes_the_same(models: Callable[[str], LoadedModel]) -> None:
    loaded = models("llama")
    request = GenerateRequest(
        loaded.info.ref, "", "A small ship left", {}, 12, temperature=0.0,
        setup=Setup(transforms=("rotate", "equalize"), calibration=CALIBRATION),
    )  # fmt: skip
    found = generate(FakeContext(loaded), request)
    assert found.divergence == -1
    assert len(found.recipe) == 12


def test_evaluation_compares_with_the_original(models: Callable[[str], LoadedModel]) -> None:
    loaded = models("llama")
    text = TextSource("inline", PROSE * 2)

    def measure(assignment: dict[str, str], *names: str) -> Any:
        setup = Setup(transforms=names, calibration=CALIBRATION)
        request = EvaluateRequest(loaded.info.ref, "", assignment, text, 256, 32, setup)
        return evaluate(FakeContext(loaded), request)

    plain, rounded = measure({}, "rotate"), measure(_whole(loaded), "rotate")
    assert abs(plain.kl_mean) < 1e-6 < 1e-3 < rounded.kl_mean
    assert plain.perplexity_original == rounded.perplexity_original == measure({}).perplexity
    assert rounded.kl_mean != measure(_whole(loaded)).kl_mean


def test_scores_are_those_of_the_rewritten_model(models: Callable[[str], LoadedModel]) -> None:
    loaded = models("llama")
    setup = Setup(transforms=("awq",))
    text = TextSource("inline", PROSE * 3)
    forms = ("int3/g32/asym", "int4/channel/sym")
    request = SensitivityRequest(loaded.info.ref, "", forms, text, 256, 32, score="weight", setup=setup)
    table = run(FakeContext(loaded), request)
    calibration = Calibration(text, 256, 32)
    copied = rewritten(FakeContext(loaded), loaded, ("awq",), _whole(loaded, forms[0]), calibration)
    for name, row in zip(table.units, table.weight, strict=True):
        matrix = copied.graph.slots[name].matrix()
        for form, score in zip(forms, row, strict=True):
            error = fake_quantize(find(form), matrix) - matrix
            assert score == pytest.approx(float(error.square().sum() / matrix.square().sum()), rel=1e-3)
    assert table.weight != run(FakeContext(loaded), replace(request, setup=Setup())).weight


def test_a_layer_is_shown_rewritten(models: Callable[[str], LoadedModel]) -> None:
    loaded = models("llama")
    unit = "model.layers.0.mlp.down_proj.weight"
    setup = Setup(transforms=("equalize",), calibration=CALIBRATION)
    view = layer_view(FakeContext(loaded), LayerRequest(loaded.info.ref, "", (unit,), (FORM,), setup=setup))
    shown = _rewritten(loaded, "equalize").graph.slots[unit].matrix()
    assert view.absolute_maximum == float(shown.abs().max())
    assert view.absolute_maximum != float(loaded.graph.slots[unit].matrix().abs().max())
