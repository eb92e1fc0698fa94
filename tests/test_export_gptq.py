"""GPTQ and AWQ checkpoints: another reader, which takes codes out of the words one by one, gets what was simulated."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from quant_core.errors import ExportError
from quant_core.export import EXPORTERS
from quant_core.schema import ORIGINAL
from quant_core.targets import TARGETS, check, problems
from tests.exported import mixed, opened, recipe_of, simulated_weights, written

Array = NDArray[Any]


def gptq(tensors: dict[str, Array], config: dict[str, Any], module: str) -> Array:
    """A weight (outputs, inputs), by integers of Python that hold a whole column of bits."""
    bits = config["bits"]
    for pattern, changed in config["dynamic"].items():
        if re.match(pattern[2:], module):
            assert pattern[:2] == "+:"
            bits = changed["bits"]
            break
    codes = streams(tensors[f"{module}.qweight"].T, bits)
    zeros = streams(tensors[f"{module}.qzeros"], bits) + (config["checkpoint_format"] == "gptq")
    groups, scales = tensors[f"{module}.g_idx"], tensors[f"{module}.scales"].astype(np.float32)
    return np.float32(codes - zeros.T[:, groups]) * scales.T[:, groups]


def streams(words: Array, bits: int) -> Array:
    """The codes in each row of little-endian words."""
    found = []
    for row in words:
        number = int.from_bytes(row.astype("<i4").tobytes(), "little")
        found.append([(number >> start) % 2**bits for start in range(0, 32 * len(row), bits)])
    return np.array(found)


def awq(tensors: dict[str, Array], config: dict[str, Any], module: str) -> Array:
    """A weight (outputs, inputs), code by code: output ``8 c + k`` is at the bits ``4 * place[k]`` of word ``c``."""
    place = (0, 4, 1, 5, 2, 6, 3, 7)

    def unpacked(words: Array) -> Array:
        bits = words.view(np.uint32)
        return np.array([[int(word) >> 4 * place[k] & 15 for word in row for k in range(8)] for row in bits])

    size = config["group_size"]
    codes, zeros = unpacked(tensors[f"{module}.qweight"]), unpacked(tensors[f"{module}.qzeros"])
    scales = tensors[f"{module}.scales"].astype(np.float32)
    rows = [
        (code - zeros[index // size]).astype(np.float32) * scales[index // size]
        for index, code in enumerate(codes)
    ]
    return np.array(rows).T


READERS = {"gptq": gptq, "awq": awq}


def read(runtime: str, folder: Path) -> Iterator[tuple[str, Array]]:
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        if name.endswith(".qweight"):
            module = name.removesuffix(".qweight")
            yield f"{module}.weight", READERS[runtime](tensors, config, module)


@pytest.mark.parametrize(
    ("runtime", "kind", "forms", "version"),
    [
        ("gptq", "llama", ("int4/g32/sym", "int8/channel/sym"), "gptq"),
        ("gptq", "qwen2", ("int3/g32/asym", "int4/g32/sym"), "gptq_v2"),
        ("gptq", "gpt2", ("int2/g64/asym", "int3/channel/sym"), "gptq_v2"),
        ("gptq", "qwen2", ("int3/channel/sym", ORIGINAL), "gptq"),
        ("awq", "llama", ("int4/g32/asym", ORIGINAL), "gemm"),
    ],
)
def test_another_reader_gets_what_was_simulated(
    runtime: str, kind: str, forms: tuple[str, str], version: str, tmp_path: Path
) -> None:
    loaded = opened(kind, tmp_path)
    recipe = mixed(loaded.info, forms)
    done = written(loaded, recipe, runtime, tmp_path / "out")
    assert done.exact == done.weights
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config.get("checkpoint_format", config.get("version")) == version
    expected = simulated_weights(loaded, recipe)
    found = dict(read(runtime, tmp_path / "out"))
    assert set(found) == set(expected)
    for name, matrix in found.items():
        np.testing.assert_array_equal(matrix, expected[name], err_msg=name)


def test_gptq_settings_name_what_vllm_fuses_and_what_stays(tmp_path: Path) -> None:
    loaded = opened("qwen2", tmp_path)
    written(loaded, mixed(loaded.info, ["int4/g32/sym", ORIGINAL]), "gptq", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config == json.loads((tmp_path / "out" / "quantize_config.json").read_text())
    assert (config["bits"], config["group_size"], config["sym"]) == (4, 32, True)

    def stays(module: str) -> bool:
        return any(re.match(pattern.removeprefix("-:"), module) for pattern in config["dynamic"])

    assert stays("model.layers.1.self_attn.qkv_proj")
    assert stays("model.layers.1.mlp.down_proj")
    assert stays("lm_head")
    assert not stays("model.layers.0.self_attn.qkv_proj")
    assert not stays("model.layers.10.mlp.down_proj")


@pytest.mark.parametrize("runtime", ["gptq", "awq"])
def test_experts_are_written_one_by_one_under_one_setting_a_block(runtime: str, tmp_path: Path) -> None:
    loaded = opened("mixtral", tmp_path)
    recipe = recipe_of(
        loaded.info,
        lambda unit: "int4/g32/asym" if unit.kind == "expert" and unit.block == 0 else ORIGINAL,
    )
    done = written(loaded, recipe, runtime, tmp_path / "out")
    assert done.exact == done.weights == 4 * 3
    assert "model.layers.0.block_sparse_moe.experts.3.w2.qweight" in load_file(
        tmp_path / "out" / "model.safetensors"
    )
    if runtime == "gptq":
        config = json.loads((tmp_path / "out" / "quantize_config.json").read_text())
        layer = r"model\.layers\.1\.block_sparse_moe\.experts"
        assert [name for name in config["dynamic"] if "experts" in name] == [f"-:^{layer}(?:\\..*)?$"]


def test_a_zero_point_of_0_keeps_its_place(tmp_path: Path) -> None:
    loaded = opened("llama", tmp_path)
    weight = loaded.model.get_parameter("model.layers.0.mlp.up_proj.weight")
    weight.data.abs_()
    recipe = mixed(loaded.info, ["int4/g32/asym"])
    done = written(loaded, recipe, "gptq", tmp_path / "out")
    assert "one step off" in done.notes[0]
    found = dict(read("gptq", tmp_path / "out"))["model.layers.0.mlp.up_proj.weight"]
    assert found.min() >= 0
    assert (found > 0).mean() > 0.8


def test_awq_takes_one_format_and_whole_words(tmp_path: Path) -> None:
    info, target = opened("llama", tmp_path).info, TARGETS["awq"]
    found = problems(target, info, mixed(info, ["int4/g32/asym", "int4/g32/asym@gptq"]))
    assert found == ()
    (only,) = problems(target, info, mixed(info, ["int4/g32/sym"]))
    assert "as asym, not sym" in only.reason
    assert check(target, replace(info.units[1], rows=100, columns=64), "int4/g32/asym") == (
        "AWQ needs a multiple of 8 rows, and these are 100."
    )


def test_words_that_do_not_fit_their_groups_are_refused(tmp_path: Path) -> None:
    loaded = opened("llama", tmp_path)
    written(loaded, mixed(loaded.info, ["int4/g32/asym"]), "gptq", tmp_path / "out")
    config = tmp_path / "out" / "config.json"
    config.write_text(config.read_text().replace('"bits": 4', '"bits": 400'))
    with pytest.raises(ExportError, match="says bits is 400"):
        list(EXPORTERS["gptq"].read_back(tmp_path / "out"))
