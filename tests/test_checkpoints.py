"""Quantized checkpoints of other programs: read to exactly the values they hold, beside the original."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from quant_core.checkpoints.base import Held
from quant_core.checkpoints.opening import open_checkpoint
from quant_core.checkpoints.run import read
from quant_core.errors import ExportError, QuantError
from quant_core.evaluation.generation import generate
from quant_core.methods.variant import imported_variant, variants_of
from quant_core.models.loading import LoadedModel
from quant_core.models.patch import patched, swap
from quant_core.schema import (
    CheckpointRef,
    GenerateRequest,
    HeldWeight,
    ImportRequest,
    QuantizedCheckpoint,
    VariantSpec,
)
from quant_core.store.keys import request_key
from tests.exported import TOKENS, mixed, opened, simulated, simulated_weights, written
from tests.tiny import FakeContext

ROLES = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")


def asked(path: Path, loaded: LoadedModel | None = None) -> QuantizedCheckpoint:
    model, mark = (loaded.info.ref, loaded.info.fingerprint) if loaded else (None, "")
    return read(FakeContext(), ImportRequest(str(path), "", model, mark))


def values_of(one: Held) -> Tensor:
    """All of a matrix, (rows, columns) float32."""
    return one.read(0, one.rows)


def by_name(found: QuantizedCheckpoint) -> dict[str, HeldWeight]:
    return {weight.name: weight for weight in found.weights}


def logits(loaded: LoadedModel, path: Path, found: QuantizedCheckpoint) -> Tensor:
    """Of ``TOKENS``, with the checkpoint's values."""
    variant = imported_variant(FakeContext(loaded), loaded, CheckpointRef(str(path), found.content))
    with variant.active() as model, torch.no_grad():
        answer: Tensor = model(TOKENS).logits
    return answer


def tensors_of(loaded: LoadedModel) -> dict[str, Tensor]:
    return load_file(Path(loaded.info.ref.source) / "model.safetensors")


def saved(folder: Path, tensors: dict[str, Tensor], settings: dict[str, Any], loaded: LoadedModel) -> Path:
    """A checkpoint in two files with an index, beside its configuration."""
    folder.mkdir()
    names = list(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in halves.items():
        save_file({name: tensors[name].contiguous() for name in some}, folder / file)
    index = {name: file for file, some in halves.items() for name in some}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    config = json.loads((Path(loaded.info.ref.source) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return opened("llama", tmp_path_factory.mktemp("original"))


# --- what our own exporters write ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runtime", "kind", "forms", "method"),
    [
        ("gptq", "llama", ("int4/g32/sym", "int8/channel/sym"), "GPTQ"),
        ("gptq", "gpt2", ("int2/g32/asym", "int3/channel/sym"), "GPTQ"),
        ("awq", "llama", ("int4/g32/asym", "int4/g32/asym"), "AWQ"),
        ("compressed-tensors", "qwen2", ("int4/g32/sym", "fp8_e4m3/channel"), "compressed-tensors"),
        ("compressed-tensors", "qwen2", ("mxfp4", "int8/channel/sym"), "compressed-tensors"),
        ("bitsandbytes", "llama-wide", ("nf4/g64/dq", "nf4/g64/dq"), "bitsandbytes"),
        ("bitsandbytes", "llama", ("llm_int8/channel", "llm_int8/channel"), "bitsandbytes"),
        ("gguf", "llama", ("q4_0", "iq4_nl"), "GGUF"),
        ("gguf", "mixtral", ("q4_0", "q8_0"), "GGUF"),
        ("gguf", "qwen2", ("q5_1", "mxfp4"), "GGUF"),
    ],
)
def test_what_was_exported_is_told_compared_and_written_with(
    runtime: str, kind: str, forms: tuple[str, str], method: str, tmp_path: Path
) -> None:
    loaded = opened(kind, tmp_path)
    recipe = mixed(loaded.info, forms)
    written(loaded, recipe, runtime, tmp_path / "out")
    path = tmp_path / "out" / "model.gguf" if runtime == "gguf" else tmp_path / "out"
    found = asked(path, loaded)
    assert (found.method, found.unmatched) == (method, ())
    quantized = {weight.unit: weight for weight in found.quantized}
    assert set(quantized) == set(recipe.assignment())
    assert {weight.format for weight in found.quantized} == set(forms)
    expected = simulated_weights(loaded, recipe) if kind != "mixtral" else {}
    for name, values in expected.items():
        slot = loaded.graph.slots[name]
        whole = slot.matrix().float().numpy()
        off = np.linalg.norm(values - whole) / np.linalg.norm(whole)
        assert quantized[name].error == pytest.approx(off, rel=1e-5)
    assert all(not weight.error for weight in found.weights if not weight.quantized)
    torch.testing.assert_close(logits(loaded, path, found), simulated(loaded, recipe), rtol=1e-5, atol=1e-5)


# --- what others write -----------------------------------------------------------------------------------------------


def words(codes: Any, bits: int) -> Tensor:
    """Rows of codes as little-endian streams of bits, by integers of Python that hold a whole row."""
    found = []
    for row in np.asarray(codes).tolist():
        number = sum(int(code) << bits * place for place, code in enumerate(row))
        size = -(-len(row) * bits // 32)
        found.append(np.frombuffer(number.to_bytes(4 * size, "little"), "<i4").copy())
    return torch.from_numpy(np.array(found))


def gptq_layer(
    random: np.random.Generator, rows: int, columns: int, bits: int, groups: int, less: int, shuffled: bool
) -> tuple[dict[str, Tensor], Any]:
    """A layer packed by hand, and the values it holds."""
    codes = random.integers(0, 2**bits, (rows, columns))
    zeros = random.integers(1, 2**bits, (groups, rows))
    scales = random.uniform(0.01, 0.02, (groups, rows)).astype(np.float16)
    index = np.arange(columns) // (columns // groups)
    index = random.permutation(index) if shuffled else index
    packed = {
        "qweight": words(codes, bits).T,
        "qzeros": words(zeros - less, bits),
        "scales": torch.from_numpy(scales),
        "g_idx": torch.from_numpy(index.astype(np.int32)),
    }
    return packed, (codes - zeros[index].T) * scales.astype(np.float32)[index].T


@pytest.mark.parametrize(
    ("version", "less"),
    [
        ({"checkpoint_format": "gptq"}, 1),
        ({}, 1),
        ({"checkpoint_format": "gptq_v2"}, 0),
        ({"packing_format": "auto_round:auto_gptq"}, 1),
        ({"packing_format": "auto_round:gptqmodel"}, 0),
    ],
)
def test_gptq_with_act_order_several_widths_and_either_zero_offset(
    version: dict[str, str], less: int, model: LoadedModel, tmp_path: Path
) -> None:
    """``dynamic`` is there and not looked at: the shapes say the widths."""
    random = np.random.default_rng(0)
    tensors, expected = tensors_of(model), {}
    shapes = ((64, 4, 2), (64, 3, 1), (96, 8, 3))
    for role, (columns, bits, groups) in zip(ROLES, shapes, strict=True):
        module = f"model.layers.0.{role}"
        del tensors[f"{module}.weight"]
        packed, values = gptq_layer(random, 64, columns, bits, groups, less, shuffled=groups == 2)
        tensors |= {f"{module}.{last}": part for last, part in packed.items()}
        expected[f"{module}.weight"] = values
    told: dict[str, Any] = {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 32,
        "dynamic": {"+:(a+)+$": {"bits": 3}},
    }
    told |= version | ({"quant_method": "auto-round"} if "packing_format" in version else {})
    folder = saved(tmp_path / "out", tensors, told, model)
    held = {one.name: one for one in open_checkpoint(str(folder)).held}
    for name, values in expected.items():
        np.testing.assert_array_equal(values_of(held[name]).numpy(), values.astype(np.float32))
    holds = [held[name].holds for name in expected]
    assert holds[0] == "int4, groups of 32, zero points, act-order"
    assert holds[1].startswith("int3, one scale an output")
    assert held["model.layers.0.mlp.down_proj.weight"].format == "int8/g32/asym"
    assert held["model.layers.0.self_attn.q_proj.weight"].format == ""
    stored = sum(8 * part.nbytes for part in gptq_layer(random, 64, 64, 4, 2, 0, False)[0].values())
    assert held["model.layers.0.self_attn.q_proj.weight"].bits == stored


def test_awq_is_compared_with_its_scales_undone_and_writes_with_its_own_norms(
    model: LoadedModel, tmp_path: Path
) -> None:
    """The scales that AWQ moves from a layer's inputs to the norm before it are no error."""
    tensors = tensors_of(model)
    random = torch.Generator().manual_seed(0)
    scales = torch.rand(64, generator=random) * 3 + 0.3
    norm = "model.layers.0.input_layernorm.weight"
    tensors[norm] = tensors[norm] / scales
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    undone: dict[str, Tensor] = {}

    def pack(part: Tensor) -> Tensor:
        return words(part.reshape(len(part), -1, 8)[:, :, order].flatten(1), 4)

    for role in ("q_proj", "k_proj", "v_proj"):
        name = f"model.layers.0.self_attn.{role}"
        weight = tensors.pop(f"{name}.weight")
        steps = (weight * scales).abs().amax(1) / 7.5
        codes = ((weight * scales) / steps[:, None] + 8).round().clamp(0, 15).int()
        undone[f"{name}.weight"] = (codes - 8) * steps.half().float()[:, None] / scales
        tensors[f"{name}.qweight"] = pack(codes.T)
        tensors[f"{name}.qzeros"] = pack(torch.full((1, len(codes)), 8))
        tensors[f"{name}.scales"] = steps.half()[None]
    folder = saved(tmp_path / "out", tensors, {"quant_method": "awq", "bits": 4, "version": "gemm"}, model)
    found = asked(folder, model)
    assert [weight.rescaled for weight in found.quantized] == [True] * 3
    for one in found.quantized:
        original = model.graph.slots[one.name].matrix()
        error = float((undone[one.name] - original).norm() / original.norm())
        assert one.error == pytest.approx(error, rel=0.1)
    assert any("rescaled, as AWQ does" in note for note in found.notes)
    with torch.no_grad(), patched(swap(model.graph, undone)):
        expected = model.model(TOKENS).logits
    torch.testing.assert_close(logits(model, folder, found), expected, rtol=1e-4, atol=1e-4)


def library_layers(weight: Tensor) -> dict[str, tuple[dict[str, Tensor], Tensor]]:
    """A matrix as compressed-tensors itself compresses it, with what it decompresses that to."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    def made(form: str, args: dict[str, Any], **given: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
        library = BaseCompressor.get_value_from_registry(form)
        packed = library.compress({"weight": weight, **given}, scheme)
        return dict(packed), library.decompress(dict(packed), scheme)["weight"]

    low, high = weight.reshape(len(weight), -1, 32).aminmax(dim=2)
    steps = ((high - low) / 15).half().float()
    zeros = (-low / steps - 8).round().clamp(-8, 7).to(torch.int8)
    channel = weight.abs().amax(1, keepdim=True) / 127
    group = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
    return {
        "int4, groups of 32, zero points": made(
            "pack-quantized", {**group, "symmetric": False}, weight_scale=steps, weight_zero_point=zeros
        ),
        "INT8, one scale an output": made(
            "int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}, weight_scale=channel
        ),
        "FP8 (E4M3), one scale": made(
            "float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"},
            weight_scale=weight.abs().max().reshape(1) / 448,
        ),
    }  # fmt: skip


def test_what_compressed_tensors_compresses_is_read_as_it_decompresses_it(
    model: LoadedModel, tmp_path: Path
) -> None:
    tensors, expected = tensors_of(model), {}
    layers = library_layers(tensors["model.layers.0.self_attn.q_proj.weight"].float())
    for role, (holds, (packed, values)) in zip(("q_proj", "k_proj", "o_proj"), layers.items(), strict=True):
        del tensors[f"model.layers.0.self_attn.{role}.weight"]
        tensors |= {f"model.layers.0.self_attn.{role}.{last}": part for last, part in packed.items()}
        expected[f"model.layers.0.self_attn.{role}.weight"] = holds, values
    folder = saved(tmp_path / "out", tensors, {"quant_method": "compressed-tensors"}, model)
    held = {one.name: one for one in open_checkpoint(str(folder)).held}
    for name, (holds, values) in expected.items():
        assert held[name].holds == holds
        torch.testing.assert_close(values_of(held[name]), values.float(), rtol=1e-6, atol=0)


def test_fp8_in_squares_is_read_by_the_side_of_a_square(tmp_path: Path, model: LoadedModel) -> None:
    weight = torch.randn(200, 300, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    scales = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    tensors = {"a.weight": weight, "a.weight_scale_inv": scales}
    folder = saved(tmp_path / "out", tensors, {"quant_method": "fp8", "weight_block_size": [128, 128]}, model)
    (one,) = open_checkpoint(str(folder)).held
    assert (one.holds, one.format) == ("FP8 (E4M3), squares of 128", "fp8_e4m3/b128")
    values = values_of(one)
    assert values[127, 127] == weight[127, 127].float()
    assert values[128, 256] == 6 * weight[128, 256].float()
    assert one.read(128, 129).equal(values[128:129])


@pytest.mark.parametrize(
    "settings", [{"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, {"load_in_8bit": True}]
)
def test_what_bitsandbytes_saves_is_read_as_it_computes(
    settings: dict[str, Any], model: LoadedModel, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    made = AutoModelForCausalLM.from_pretrained(
        model.info.ref.source, quantization_config=BitsAndBytesConfig(**settings), dtype=torch.float32
    )
    made.save_pretrained(tmp_path / "out")
    found = asked(tmp_path / "out", model)
    assert found.unmatched == ()
    assert len(found.quantized) == 14
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "out").dequantize()
    held = {one.name: one for one in open_checkpoint(str(tmp_path / "out")).held}
    for weight in found.quantized:
        expected = whole.get_parameter(weight.name).detach().float()
        torch.testing.assert_close(values_of(held[weight.name]), expected, rtol=1e-6, atol=1e-7)


def gguf_of(path: Path, tensors: dict[str, tuple[gguf.GGMLQuantizationType, Any]], **keys: int) -> Path:
    """A file of llama's architecture that gguf-py writes."""
    writer = gguf.GGUFWriter(path, "llama")
    sizes = {"block_count": 2, "embedding_length": 64, "head_count": 4, "head_count_kv": 2} | keys
    writer.add_block_count(sizes["block_count"])
    writer.add_embedding_length(sizes["embedding_length"])
    writer.add_head_count(sizes["head_count"])
    writer.add_head_count_kv(sizes["head_count_kv"])
    for name, (kind, values) in tensors.items():
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


Q = gguf.GGMLQuantizationType


@pytest.mark.parametrize("kind", [Q.Q2_K, Q.Q6_K, Q.IQ2_XXS, Q.IQ3_S, Q.IQ4_XS, Q.IQ1_M, Q.TQ1_0])
def test_k_and_i_quants_are_listed_and_read(kind: gguf.GGMLQuantizationType, tmp_path: Path) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 50, (4, size), dtype=np.uint8)
    path = gguf_of(tmp_path / "a.gguf", {"blk.0.ffn_down.weight": (kind, raw)})
    (weight,) = asked(path).weights
    assert (weight.rows, weight.columns, weight.bits) == (4, block, 8 * raw.size)
    assert weight.holds == f"{kind.name}, blocks of {block}, {8 * size / block:.4g} bits"
    (held,) = open_checkpoint(str(path)).held
    np.testing.assert_array_equal(values_of(held).numpy(), gguf.quants.dequantize(raw, kind))
    np.testing.assert_array_equal(held.read(1, 3).numpy(), gguf.quants.dequantize(raw[1:3], kind))


def test_a_gguf_in_parts_of_gguf_pys_own_quantizer_is_beside_its_original(
    model: LoadedModel, tmp_path: Path
) -> None:
    """Rows of queries are written in llama.cpp's order here by reshaping, as its converter does."""
    tensors = tensors_of(model)
    query = tensors["model.layers.0.self_attn.q_proj.weight"].float().numpy()
    turned = query.reshape(4, 2, 8, 64).swapaxes(1, 2).reshape(64, 64)
    down = tensors["model.layers.1.mlp.down_proj.weight"].float().numpy()
    first = {"blk.0.attn_q.weight": (Q.Q8_0, gguf.quants.quantize(turned, Q.Q8_0))}
    second = {"blk.1.ffn_down.weight": (Q.Q4_1, gguf.quants.quantize(down, Q.Q4_1))}
    path = gguf_of(tmp_path / "m-00001-of-00002.gguf", first)
    with pytest.raises(ExportError, match=r"part m-00002-of-00002\.gguf is missing"):
        asked(path, model)
    gguf_of(tmp_path / "m-00002-of-00002.gguf", second)
    found = asked(path, model)
    for weight, values, kind in ((found.weights[0], turned, Q.Q8_0), (found.weights[1], down, Q.Q4_1)):
        back = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
        off = np.linalg.norm(back - values) / np.linalg.norm(values)
        assert weight.error == pytest.approx(off, rel=1e-5)
    missing = {one.name: one.reason for one in found.unmatched}
    assert len(missing) == len(model.graph.units) - 2
    assert missing["model.layers.0.mlp.up_proj.weight"] == "The file has no blk.0.ffn_up.weight."


def test_names_with_another_prefix_and_fused_weights_find_their_rows(
    model: LoadedModel, tmp_path: Path
) -> None:
    tensors = {name.removeprefix("model."): values for name, values in tensors_of(model).items()}
    packed, values = gptq_layer(np.random.default_rng(0), 128, 64, 4, 1, 1, False)
    for role in ("q_proj", "k_proj", "v_proj"):
        del tensors[f"layers.0.self_attn.{role}.weight"]
    tensors |= {f"layers.0.self_attn.qkv_proj.{last}": part for last, part in packed.items()}
    scale = 0.1 / np.abs(values).mean()
    tensors["layers.0.self_attn.qkv_proj.scales"] *= scale
    folder = saved(tmp_path / "out", tensors, {"quant_method": "gptq"}, model)
    with pytest.raises(ExportError, match=r"was not made from .* nothing else in common"):
        asked(folder, model)
    roles = [f"model.layers.0.self_attn.{role}_proj.weight" for role in "qkv"]
    rows = [model.graph.slots[name].matrix() for name in roles]
    joined = torch.cat(rows).float()
    steps = joined.abs().amax(1) / 7.5
    codes = (joined / steps[:, None] + 8).round().clamp(0, 15).int()
    tensors["layers.0.self_attn.qkv_proj.qweight"] = words(codes, 4).T
    tensors["layers.0.self_attn.qkv_proj.qzeros"] = words(torch.full((1, 128), 7), 4)
    tensors["layers.0.self_attn.qkv_proj.scales"] = steps[None]
    found = asked(saved(tmp_path / "again", tensors, {"quant_method": "gptq"}, model), model)
    assert found.unmatched == ()
    (fused,) = found.quantized
    back = (codes - 8) * steps[:, None]
    assert fused.error == pytest.approx(float((back - joined).norm() / joined.norm()), rel=1e-5)
    changed = imported_variant(
        FakeContext(model), model, CheckpointRef(str(tmp_path / "again"), found.content)
    )
    with changed.active():
        key = model.graph.slots["model.layers.0.self_attn.k_proj.weight"].matrix()
        torch.testing.assert_close(key, back[64:96], rtol=1e-6, atol=1e-7)


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_another_model_is_refused_in_one_sentence(model: LoadedModel, tmp_path: Path) -> None:
    path = gguf_of(
        tmp_path / "a.gguf", {"blk.0.ffn_down.weight": (Q.F32, np.zeros((4, 4), np.float32))}, block_count=7
    )
    with pytest.raises(
        ExportError, match=r"it is llama with 7 blocks of width 64, and model is llama with 2"
    ):
        asked(path, model)
    other = opened("gpt2", tmp_path / "other")
    recipe = mixed(other.info, ("int4/g32/sym",))
    written(other, recipe, "gptq", tmp_path / "out")
    with pytest.raises(ExportError, match=r"None of the \d+ weights of out has a name and a shape"):
        asked(tmp_path / "out", model)


def test_what_has_no_counterpart_is_listed(model: LoadedModel, tmp_path: Path) -> None:
    tensors = tensors_of(model)
    packed, _ = gptq_layer(np.random.default_rng(0), 64, 32, 4, 1, 1, False)
    module = "model.layers.0.self_attn.q_proj"
    tensors |= {f"{module}.{last}": part for last, part in packed.items()}
    del tensors[f"{module}.weight"]
    tensors["model.layers.0.extra.weight"] = torch.zeros(8, 8)
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    found = asked(saved(tmp_path / "out", tensors, {"quant_method": "gptq"}, model), model)
    reasons = {one.name: one.reason for one in found.unmatched}
    assert set(reasons) == {
        f"{module}.weight",
        "model.layers.0.extra.weight",
        "model.layers.1.mlp.up_proj.weight",
    }
    assert "no finite numbers" in reasons["model.layers.1.mlp.up_proj.weight"]
    assert found.error is None
    assert by_name(found)["model.layers.1.mlp.up_proj.weight"].error is None


def test_a_checkpoint_that_changed_since_is_not_written_with(model: LoadedModel, tmp_path: Path) -> None:
    folder = saved(tmp_path / "out", tensors_of(model) | gptq_names(), {"quant_method": "gptq"}, model)
    ref = CheckpointRef(str(folder), "0" * 24)
    with pytest.raises(ExportError, match="has changed since it was read"):
        imported_variant(FakeContext(model), model, ref)
    other = LoadedModel(model.model, model.tokenizer, model.graph, replace(model.info, fingerprint="0" * 24))
    with pytest.raises(ExportError, match="has changed since it was opened"):
        asked(folder, other)


def gptq_names() -> dict[str, Tensor]:
    packed, _ = gptq_layer(np.random.default_rng(0), 32, 32, 4, 1, 1, False)
    return {f"a.{last}": part for last, part in packed.items()}


def test_it_writes_in_the_place_of_a_variant(model: LoadedModel, tmp_path: Path) -> None:
    """The blind vote and the speed test name variants; a generation names it beside the recipe."""
    recipe = mixed(model.info, ("int4/g32/sym",))
    written(model, recipe, "gptq", tmp_path / "out")
    ref = CheckpointRef(str(tmp_path / "out"), asked(tmp_path / "out", model).content)
    rounded = VariantSpec(recipe.assignment())
    variants = variants_of(FakeContext(model), model, [VariantSpec(), VariantSpec(checkpoint=ref), rounded])
    answers = []
    for variant in variants:
        with variant.active() as active, torch.no_grad():
            answers.append(active(TOKENS).logits)
    assert not torch.allclose(answers[0], answers[1], atol=1e-3)
    torch.testing.assert_close(answers[1], answers[2], rtol=1e-5, atol=1e-5)
    request = GenerateRequest(
        model.info.ref,
        model.info.fingerprint,
        "the cat",
        recipe.assignment(),
        5,
        other={},
        other_checkpoint=ref,
    )
    found = generate(FakeContext(model), request)
    assert found.other == found.recipe
    moved = replace(request, other_checkpoint=CheckpointRef("/elsewhere", ref.content))
    assert request_key(moved) == request_key(request), "where it is makes no difference"
    assert request_key(replace(request, other_checkpoint=None)) != request_key(request)


# --- hostile files ---------------------------------------------------------------------------------------------------


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a path in the index": (
        lambda folder: _write(
            folder / "model.safetensors.index.json", '{"weight_map": {"a.qweight": "../secret.safetensors"}}'
        ),
        "names files outside its folder",
    ),
    "an absolute path in the index": (
        lambda folder: _write(
            folder / "model.safetensors.index.json", '{"weight_map": {"a.qweight": "/etc/passwd"}}'
        ),
        "names files outside its folder",
    ),
    "the folder above in the index": (
        lambda folder: _write(folder / "model.safetensors.index.json", '{"weight_map": {"a.qweight": ".."}}'),
        "lacks its file",
    ),
    "a link out of the folder": (
        lambda folder: _link(folder / "a.safetensors"),
        "a link that leads out",
    ),
    "a configuration out of the folder": (
        lambda folder: _link(folder / "config.json"),
        "a link that leads out",
    ),
    "a tensor whose name is a link": (
        lambda folder: save_file({"[x](http://x).qweight": torch.zeros(1)}, folder / "a.safetensors"),
        "a name that no tensor has",
    ),
    "a method whose name is a link": (
        lambda folder: _write(
            folder / "config.json", '{"quantization_config": {"quant_method": "[x](http://x)"}}'
        ),
        "quantized by xhttp:x, which",
    ),
    "a header longer than the file": (
        lambda folder: (folder / "a.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}"),
        "a.safetensors is damaged",
    ),
    "a truncated header": (
        lambda folder: (folder / "a.safetensors").write_bytes((folder / "a.safetensors").read_bytes()[:40]),
        "a.safetensors is damaged",
    ),
    "a tensor beyond the end": (
        lambda folder: (folder / "a.safetensors").write_bytes(
            (90).to_bytes(8, "little")
            + b'{"a.qweight":{"dtype":"I32","shape":[9999999999],"data_offsets":[0,39999999996]}}'.ljust(90)
        ),
        "a.safetensors is damaged",
    ),
    "a configuration of many brackets": (
        lambda folder: _write(folder / "config.json", "[" * 100_000),
        "config.json cannot be read",
    ),
    "a method that is not known": (
        lambda folder: _write(folder / "config.json", '{"quantization_config": {"quant_method": "aqlm"}}'),
        "quantized by aqlm",
    ),
    "no quantization": (lambda folder: _write(folder / "config.json", "{}"), "is not quantized"),
}


@pytest.mark.parametrize("what", list(HOSTILE))
def test_hostile_folders_are_refused_in_a_sentence(what: str, model: LoadedModel, tmp_path: Path) -> None:
    folder = saved(tmp_path / "out", gptq_names(), {"quant_method": "gptq"}, model)
    spoil, message = HOSTILE[what]
    spoil(folder)
    with pytest.raises(QuantError, match=message):
        open_checkpoint(str(folder), [str(tmp_path)])


@pytest.fixture(scope="module")
def small(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small checkpoint of each kind of file."""
    folder = tmp_path_factory.mktemp("small")
    saved(folder / "gptq", gptq_names(), {"quant_method": "gptq"}, model)
    values = np.zeros((4, 32), np.float32)
    tensors = {"blk.0.ffn_down.weight": (Q.Q4_0, gguf.quants.quantize(values, Q.Q4_0))}
    return {"gptq": folder / "gptq", "gguf": gguf_of(folder / "a.gguf", tensors)}


@given(
    kind=st.sampled_from(["gptq", "gguf"]),
    place=st.integers(0, 400),
    bytes_=st.one_of(
        st.binary(min_size=1, max_size=9), st.sampled_from([b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\0" * 8])
    ),
    cut=st.sampled_from([None, 10, 100, 300]),
)
@settings(max_examples=150)
def test_spoiled_bytes_are_read_or_refused_and_nothing_else(
    kind: str, place: int, bytes_: bytes, cut: int | None, small: dict[str, Path]
) -> None:
    path = small[kind]
    file = path if kind == "gguf" else path / "a.safetensors"
    whole = file.read_bytes()
    spoiled = whole[:place] + bytes_ + whole[place + len(bytes_) :]
    try:
        file.write_bytes(spoiled if cut is None else spoiled[:cut])
        with suppress(QuantError):
            for one in open_checkpoint(str(path)).held:
                assert one.rows * one.columns <= 8 * len(whole), "no more than the file has room for"
                values_of(one)
    finally:
        file.write_bytes(whole)


def test_numbers_of_things_that_a_gguf_has_no_room_for_are_refused(tmp_path: Path) -> None:
    head = b"GGUF" + (3).to_bytes(4, "little")
    key = (1).to_bytes(8, "little") + b"k" + (9).to_bytes(4, "little") + (0).to_bytes(4, "little")
    one, many = (1).to_bytes(8, "little"), (2**62).to_bytes(8, "little")
    for text, said in (
        (head + many + one + b"\0" * 64, "ends too early"),
        (head + one + many + b"\0" * 64, "ends too early"),
        (head + one * 2 + key + many, "a list in it has"),
        (head + one * 2 + many, "ends too early"),
    ):
        (tmp_path / "a.gguf").write_bytes(text + b"\0" * 64)
        with pytest.raises(ExportError, match=said):
            open_checkpoint(str(tmp_path / "a.gguf"))
    (tmp_path / "a-00001-of-99999.gguf").touch()
    with pytest.raises(ExportError, match="says it is one of 99999 parts"):
        open_checkpoint(str(tmp_path / "a-00001-of-99999.gguf"))


@pytest.mark.parametrize("last", ["qweight", "qzeros", "scales", "g_idx"])
def test_shapes_that_do_not_fit_are_refused_before_they_are_read(
    last: str, model: LoadedModel, tmp_path: Path
) -> None:
    tensors = gptq_names()
    tensors[f"a.{last}"] = tensors[f"a.{last}"][:-1] if last != "qzeros" else tensors["a.qzeros"][:, :-1]
    folder = saved(tmp_path / "out", tensors, {"quant_method": "gptq"}, model)
    with pytest.raises(ExportError, match=r"fit each other|has the shape|no matrix's"):
        [values_of(one) for one in open_checkpoint(str(folder)).held]
