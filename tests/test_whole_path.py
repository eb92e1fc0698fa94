"""From a model to a recipe and back, for every architecture, and a recipe file applied by a program of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from quant_core.calibration.text import tokenize
from quant_core.evaluation.generation import generate
from quant_core.evaluation.quality import evaluate
from quant_core.models.loading import LoadedModel
from quant_core.schema import (
    Budget,
    EvaluateRequest,
    GenerateRequest,
    Recipe,
    ScoreTable,
    SensitivityRequest,
    TextSource,
)
from quant_core.sensitivity.run import run
from quant_core.workspace import Workspace
from tests.tiny import PROSE, FakeContext

TEXT = TextSource("inline", PROSE * 12, "prose")
FORMATS = (
    "int2/g32",
    "int3/g64/sym",
    "int4/g64",
    "int8/channel/sym",
    "nf4/g64",
    "fp8_e4m3/channel",
    "int5/tensor",
)
Array = NDArray[np.float32]
NF4 = np.array(
    [
        -1.0,
        -0.6961928,
        -0.52507305,
        -0.3949175,
        -0.28444138,
        -0.18477343,
        -0.09105004,
        0.0,
        0.0795803,
        0.1609302,
        0.2461123,
        0.33791524,
        0.44070983,
        0.562617,
        0.72295684,
        1.0,
    ],
    np.float32,
)


@pytest.fixture
def workspace(tmp_path: Path) -> Any:
    made = Workspace(tmp_path / "home")
    yield made
    made.close()


def _scores(loaded: LoadedModel) -> ScoreTable:
    info = loaded.info
    names = tuple(FORMATS)
    asked = SensitivityRequest(
        info.ref, info.fingerprint, names, TEXT, tokens=512, sequence=64, embeddings=True
    )
    return run(FakeContext(loaded), asked)


def test_every_architecture_goes_the_whole_way(tiny: LoadedModel, workspace: Workspace) -> None:
    info, context = tiny.info, FakeContext(tiny)
    table = _scores(tiny)
    solution = workspace.solve(info, table, Budget("bits", 6.0))
    assert 5.0 < solution.average_bits <= 6.0
    recipe = workspace.make_recipe(info, table, solution)
    decided = {unit.name: "int4/g64/asym" for unit in info.units if unit.decided}
    uniform = workspace.price(info, table, decided)
    assert workspace.weight_bytes(info, "int4/g64/asym") == uniform.total_bytes
    assert workspace.weight_bytes(info, "original") == info.original_bits / 8
    again = workspace.read_recipe(workspace.recipe_text(recipe, "yaml"), info)
    assert again == recipe
    assert list(recipe.units) == [unit.name for unit in info.units]
    stored = sum(recipe.units[unit.name].bits * unit.parameters for unit in info.units) + info.other_bits
    assert recipe.total_bytes == pytest.approx(stored / 8)
    asked = EvaluateRequest(info.ref, info.fingerprint, again.assignment(), TEXT, tokens=512, sequence=64)
    measured = evaluate(context, asked)
    assert measured.kl_mean > 0
    written = generate(
        context, GenerateRequest(info.ref, info.fingerprint, "The cat", again.assignment(), tokens=8)
    )
    assert len(written.original) == len(written.recipe) == 8


def test_a_program_of_its_own_gets_the_same_model(
    llama: LoadedModel, workspace: Workspace, tmp_path: Path
) -> None:
    """recipe.json and the checkpoint, NumPy and torch's float8, none of our code: the same KL as we measured."""
    info = llama.info
    table = _scores(llama)
    formats = [*table.formats, "original"]
    mixed = {name: formats[index % len(formats)] for index, name in enumerate(table.units)}
    recipe = workspace.make_recipe(info, table, workspace.price(info, table, mixed))
    data = json.loads(workspace.recipe_text(recipe, "json"))

    original: Any = AutoModelForCausalLM.from_pretrained(info.ref.source)
    changed: Any = AutoModelForCausalLM.from_pretrained(info.ref.source)
    with torch.no_grad():
        for name, entry in data["units"].items():
            parameter = changed.get_parameter(name)
            rounded = _apply(parameter.numpy(), entry["format"], entry["parameters"])
            parameter.copy_(torch.from_numpy(rounded))
        ids = tokenize(FakeContext(llama), llama, TEXT, 512, 64).ids
        p = original(ids).logits[:, :-1].double().log_softmax(-1)
        q = changed(ids).logits[:, :-1].double().log_softmax(-1)
    asked = EvaluateRequest(info.ref, info.fingerprint, _assignment(recipe), TEXT, tokens=512, sequence=64)
    ours = evaluate(FakeContext(llama), asked)
    assert ours.kl_mean == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)


def _assignment(recipe: Recipe) -> dict[str, str]:
    return {name: entry.format for name, entry in recipe.units.items()}


def _apply(weight: Array, name: str, parameters: dict[str, Any]) -> Array:
    """Round a weight (outputs, inputs) as the recipe's parameters say, in NumPy alone."""
    if name == "original":
        return weight
    rows, columns = weight.shape
    size = {"group": parameters.get("group_size", 0), "channel": columns, "tensor": weight.size}[
        parameters.get("granularity", "group")
    ]
    if size == weight.size:
        blocks = weight.reshape(1, -1)
    else:
        padding = -columns % size
        blocks = np.pad(weight, ((0, 0), (0, padding))).reshape(-1, size)
    result = _round(blocks, name, parameters)
    return np.ascontiguousarray(result.reshape(rows, -1)[:, :columns], dtype=np.float32)


def _round(blocks: Array, name: str, parameters: dict[str, Any]) -> Array:
    used = blocks.any(axis=1)
    result = np.zeros_like(blocks)  # a block of zeros stays one in every format
    result[used] = _round_used(blocks[used], name, parameters)
    return result


def _round_used(blocks: Array, name: str, parameters: dict[str, Any]) -> Array:
    largest = np.abs(blocks).max(1, keepdims=True)
    if name.startswith("nf4"):
        return NF4[np.abs(blocks[..., None] / largest[..., None] - NF4).argmin(-1)] * largest
    if name.startswith("fp8"):
        scale = largest / np.float32(448)
        codes = torch.from_numpy(blocks / scale).to(torch.float8_e4m3fn)
        return codes.float().numpy() * scale
    low, high = -(2 ** (parameters["bits"] - 1)), 2 ** (parameters["bits"] - 1) - 1
    if parameters["symmetric"]:
        scale = (largest * 2 / np.float32(high - low)).astype(np.float16).astype(np.float32)
        return np.clip(np.round(blocks / scale), low, high) * scale
    bottom = np.minimum(blocks.min(1, keepdims=True), 0)
    top = np.maximum(blocks.max(1, keepdims=True), 0)
    scale = ((top - bottom) / np.float32(high - low)).astype(np.float16).astype(np.float32)
    zero = np.clip(np.round(low - bottom / scale), low, high)
    return (np.clip(np.round(blocks / scale + zero), low, high) - zero) * scale
