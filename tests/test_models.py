"""Loading, refusing, and listing what can be quantized."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from quant_core.errors import ModelError, QuantError
from quant_core.methods.rounder import Rounder
from quant_core.models.loading import LoadedModel, load
from quant_core.models.patch import Weights, patched, swap
from quant_core.schema import Calibration, ModelRef
from tests.tiny import FakeContext, save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save("llama", tmp_path / "model")


def _edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_how_a_model_runs_is_read_from_its_config(tiny: LoadedModel) -> None:
    routed = any(unit.kind == "expert" for unit in tiny.info.units)
    assert tiny.info.experts_per_token == (2 if routed else 0)
    assert tiny.info.head_size == 16


# --- the graph ------------------------------------------------------------------------------------------------------


def test_every_parameter_is_counted_once(tiny: LoadedModel) -> None:
    info = tiny.info
    assert info.parameters == sum(parameter.numel() for parameter in tiny.model.parameters())
    units = sum(unit.parameters for unit in info.units)
    assert info.other_bits == (info.parameters - units) * 32
    assert info.original_bits == info.parameters * 32


def test_units_are_the_matrices_that_the_model_applies(tiny: LoadedModel) -> None:
    for slot in tiny.graph.slots.values():
        assert slot.matrix().shape == (slot.unit.rows, slot.unit.columns)
        assert (slot.unit.block >= 0) == slot.unit.decided
        name, _, expert = slot.unit.name.partition("[")
        parameter = tiny.model.get_parameter(name)
        assert parameter is slot.parameter
        if expert:
            assert torch.equal(slot.matrix(), parameter[int(expert[:-1])])


def test_units_of_each_architecture(tiny: LoadedModel) -> None:
    kinds = [unit.kind for unit in tiny.info.units]
    expected = {
        "LlamaForCausalLM": (14, 0, 0),
        "Qwen2ForCausalLM": (14, 0, 0),
        "MixtralForCausalLM": (8, 16, 0),
        "GPT2LMHeadModel": (0, 0, 8),
        "OPTForCausalLM": (12, 0, 0),
    }[tiny.info.architecture]
    assert (kinds.count("linear"), kinds.count("expert"), kinds.count("conv1d")) == expected
    assert kinds.count("embedding") == 1
    tied = tiny.model.get_output_embeddings().weight is tiny.model.get_input_embeddings().weight
    assert kinds.count("head") == (0 if tied else 1)
    assert any(unit.tied for unit in tiny.info.units) == tied


def test_a_role_is_met_once_in_a_block(tiny: LoadedModel) -> None:
    """GPT-2 calls two weights of a block c_proj; on a map of block by role they must not share a cell."""
    met = [(unit.block, unit.role) for unit in tiny.info.units]
    assert len(met) == len(set(met))


def test_what_scores_cannot_see_is_noted(tiny: LoadedModel) -> None:
    routed = tiny.info.architecture == "MixtralForCausalLM"
    assert any("other experts" in note for note in tiny.info.notes) == routed


def test_fused_groups(llama: LoadedModel) -> None:
    groups: dict[str, list[str]] = {}
    for unit in llama.info.units:
        if unit.fused:
            groups.setdefault(unit.fused, []).append(unit.role)
    assert groups["model.layers.0.self_attn.qkv"] == ["q_proj", "k_proj", "v_proj"]
    assert groups["model.layers.1.mlp.gate_up"] == ["gate_proj", "up_proj"]
    assert len(groups) == 4


# --- patching -------------------------------------------------------------------------------------------------------


Snapshot = dict[str, tuple[int, torch.Tensor]]


def _snapshot(loaded: LoadedModel) -> Snapshot:
    return {name: (p.data_ptr(), p.detach().clone()) for name, p in loaded.model.named_parameters()}


def _fail_if_changed(loaded: LoadedModel, before: Snapshot, failure: type[BaseException]) -> None:
    if any(not torch.equal(p, before[name][1]) for name, p in loaded.model.named_parameters()):
        raise failure


def _rounded(loaded: LoadedModel, assignment: dict[str, str]) -> Weights:
    return Rounder(FakeContext(loaded), loaded, Calibration()).weights(assignment)


def test_patched_restores_exactly_after_any_failure(tiny: LoadedModel) -> None:
    before = _snapshot(tiny)
    weights = _rounded(tiny, {unit.name: "int2/g64/asym" for unit in tiny.info.units})
    for failure in (RuntimeError, KeyboardInterrupt, SystemExit):
        with pytest.raises(failure), patched(weights):
            _fail_if_changed(tiny, before, failure)
        for name, parameter in tiny.model.named_parameters():
            pointer, values = before[name]
            assert parameter.data_ptr() == pointer
            assert torch.equal(parameter, values)


def test_nested_patches_unwind_in_order(llama: LoadedModel) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    original = llama.graph.slots[name].matrix().clone()
    outer, inner = _rounded(llama, {name: "int4"}), _rounded(llama, {name: "int2"})
    with patched(outer):
        at_four = llama.graph.slots[name].matrix().clone()
        with patched(inner):
            assert not torch.equal(llama.graph.slots[name].matrix(), at_four)
        assert torch.equal(llama.graph.slots[name].matrix(), at_four)
    assert torch.equal(llama.graph.slots[name].matrix(), original)


def test_one_expert_alone_changes(tmp_path: Path) -> None:
    loaded = load(ModelRef(str(save("mixtral", tmp_path))))
    name = "model.layers.1.mlp.experts.down_proj"
    parameter = loaded.model.get_parameter(name)
    before = parameter.detach().clone()
    with patched(_rounded(loaded, {f"{name}[2]": "int2/g32/asym"})):
        same = [torch.equal(parameter[e], before[e]) for e in range(4)]
    assert same == [True, True, False, True]


def test_swap_refuses_what_does_not_fit(llama: LoadedModel) -> None:
    with pytest.raises(QuantError, match=r"Did you mean 'model\.layers\.0\.mlp\.up_proj\.weight'"):
        _rounded(llama, {"model.layers.0.mlp.up_proj.weigh": "int4"})
    with pytest.raises(QuantError, match="is 96 x 64, not 2 x 2"):
        swap(llama.graph, {"model.layers.0.mlp.up_proj.weight": torch.zeros(2, 2)})


# --- what is refused, in one sentence with a remedy -----------------------------------------------------------------


def _refusal(source: Path | str, roots: tuple[str, ...] = (), **options: str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load(ModelRef(str(source), **options), roots)
    assert caught.value.hint
    return caught.value


def test_no_such_folder(tmp_path: Path) -> None:
    assert "There is no folder" in _refusal(tmp_path / "nothing").message


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "hub cannot be reached" in _refusal("no-such-org/no-such-model").message


def test_only_pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickle" in _refusal(folder).message


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no .safetensors file" in _refusal(folder).message


def test_damaged_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    assert "no readable safetensors" in _refusal(folder).message


def test_weights_cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    assert "bytes long and is" in _refusal(folder).message


def test_a_header_that_is_no_mapping(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"[]")
    assert "no readable safetensors" in _refusal(folder).message


def test_a_shard_is_missing(folder: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks its file model-00002-of-00002.safetensors" in _refusal(folder).message


def test_an_index_that_points_outside_the_folder(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../model.safetensors"}})
    )
    assert "outside its folder" in _refusal(folder).message
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": ["a"]}))
    assert "no .safetensors file" in _refusal(folder).message


def test_weights_beside_the_model_do_not_count(folder: Path) -> None:
    before = load(ModelRef(str(folder))).info
    save_file({"copy": torch.zeros(1000)}, folder / "consolidated.safetensors")
    assert load(ModelRef(str(folder))).info == before


def test_a_config_value_that_makes_no_sense(folder: Path) -> None:
    _edit_config(folder, hidden_size="abc")
    assert "holds a value that makes no sense" in _refusal(folder).message


def test_norms_count_in_their_own_dtype(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    half = {name: tensor.bfloat16() if tensor.dim() > 1 else tensor for name, tensor in weights.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    info = load(ModelRef(str(folder))).info
    assert info.dtype == "bfloat16"
    assert info.other_bits == sum(tensor.numel() * 32 for tensor in weights.values() if tensor.dim() == 1)
    assert info.original_bits == sum(tensor.numel() * tensor.element_size() * 8 for tensor in half.values())


def test_missing_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "lacks 1 weights" in _refusal(folder).message


def test_extra_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.7.mlp.up_proj.weight"] = torch.zeros(96, 64)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "no place" in _refusal(folder).message


def test_weights_of_another_shape(folder: Path) -> None:
    _edit_config(folder, intermediate_size=128)
    assert (
        "wrong shape for 6 weights its config.json asks for, such as model.layers.0.mlp.down_proj"
        in _refusal(folder).message
    )


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "has no config.json" in _refusal(folder).message


def test_config_is_not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "cannot be read" in _refusal(folder).message


def test_no_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()
    assert "no tokenizer" in _refusal(folder).message


def test_not_a_causal_language_model(folder: Path) -> None:
    _edit_config(folder, architectures=["LlamaForSequenceClassification"])
    assert "not a causal language model" in _refusal(folder).message


def test_unknown_type_needs_its_own_code(folder: Path) -> None:
    _edit_config(folder, model_type="martian", auto_map={"AutoConfig": "x.Y"})
    assert "own code" in _refusal(folder).message


def test_already_quantized(folder: Path) -> None:
    _edit_config(folder, quantization_config={"quant_method": "gptq"})
    assert "already quantized (gptq)" in _refusal(folder).message
    _edit_config(folder, quantization_config="int4")
    assert "already quantized (int4)" in _refusal(folder).message


def test_not_enough_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = psutil.virtual_memory()._replace(available=100_000)
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    message = _refusal(folder).message
    assert "needs about 760 kB in float32 on the CPU, and 100 kB are free" in message


def test_no_such_device_or_dtype(folder: Path) -> None:
    assert "no device" in _refusal(folder, device="tpu").message
    assert "no dtype" in _refusal(folder, dtype="int3").message


def test_folders_outside_the_roots_are_refused_also_through_links(folder: Path, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    assert "outside the folders" in _refusal(folder, (str(inside),)).message
    (inside / "link").symlink_to(folder)
    assert "outside the folders" in _refusal(inside / "link", (str(inside),)).message
    shutil.copytree(folder, inside / "copy")
    assert load(ModelRef(str(inside / "copy")), (str(inside),)).info.title == "copy"


def test_fingerprint_follows_content_not_place(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    first, second = load(ModelRef(str(folder))), load(ModelRef(str(copy)))
    assert first.info.fingerprint == second.info.fingerprint
    weights = load_file(copy / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert load(ModelRef(str(copy))).info.fingerprint != first.info.fingerprint
