"""compressed-tensors checkpoints: transformers loads them, and computes what was simulated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from quant_core.errors import ExportError
from quant_core.export import EXPORTERS
from quant_core.schema import ORIGINAL, Setup
from quant_core.targets import TARGETS, problems
from tests.exported import TOKENS, mixed, opened, recipe_of, simulated, written

FORMS = ("int4/g32/sym", "int8/channel/sym")
FLOATS = ("fp8_e4m3/channel", "int4/g32/sym")


def computed(folder: Path, dtype: torch.dtype = torch.float32) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    with torch.no_grad():
        logits: Tensor = model(TOKENS).logits
    return logits.float()


@pytest.mark.parametrize(("kind", "forms"), [("llama", FORMS), ("qwen2", FLOATS), ("opt", FORMS)])
def test_transformers_computes_what_was_simulated(kind: str, forms: tuple[str, ...], tmp_path: Path) -> None:
    loaded = opened(kind, tmp_path)
    recipe = mixed(loaded.info, forms)
    done = written(loaded, recipe, "compressed-tensors", tmp_path / "out")
    assert done.exact == done.weights == len(recipe.assignment())
    logits = computed(tmp_path / "out")
    torch.testing.assert_close(logits, simulated(loaded, recipe), rtol=1e-5, atol=1e-5)


def test_small_floats_of_four_bits_and_of_a_tensor_are_computed_within_bfloat16(tmp_path: Path) -> None:
    loaded = opened("opt", tmp_path)
    by_role = {"fc1": "nvfp4", "fc2": "fp8_e4m3/tensor", "out_proj": "int8/channel/sym"}
    recipe = recipe_of(
        loaded.info, lambda unit: by_role.get(unit.role, "mxfp4") if unit.decided else ORIGINAL
    )
    done = written(loaded, recipe, "compressed-tensors", tmp_path / "out")
    assert done.exact >= done.weights - 2, "NVFP4 stores one over the scale of the tensor"
    assert done.error < 1e-6
    assert "load it with dtype=torch.bfloat16" in done.notes[0]
    logits, expected = computed(tmp_path / "out", torch.bfloat16), simulated(loaded, recipe)
    assert float((logits - expected).norm() / expected.norm()) < 0.01


@pytest.mark.parametrize("form", ["int4/g32/sym", "fp8_e4m3/channel", "mxfp4"])
def test_experts_are_stacked_as_they_were_simulated(form: str, tmp_path: Path) -> None:
    loaded = opened("mixtral", tmp_path)
    recipe = recipe_of(
        loaded.info,
        lambda unit: form if unit.kind == "expert" else "int8/channel/sym" if unit.decided else ORIGINAL,
    )
    done = written(loaded, recipe, "compressed-tensors", tmp_path / "out")
    assert done.exact == done.weights
    logits, expected = computed(tmp_path / "out"), simulated(loaded, recipe)
    assert float((logits - expected).norm() / expected.norm()) < 0.005


def test_experts_that_would_load_as_something_else_are_refused(tmp_path: Path) -> None:
    info, target = opened("mixtral", tmp_path).info, TARGETS["compressed-tensors"]

    def found(first: str, second: str) -> str:
        recipe = recipe_of(
            info,
            lambda unit: (
                (first, second)[unit.block]
                if unit.kind == "expert"
                else "int8/channel/sym"
                if unit.decided
                else ORIGINAL
            ),
        )
        return " ".join(problem.reason for problem in problems(target, info, recipe))

    assert found("int8/channel/sym", "int8/channel/sym") == ""
    assert "different formats" in found("int8/channel/sym", "int4/g32/sym")
    assert "reads all experts as quantized" in found(ORIGINAL, ORIGINAL)
    assert "without the scale of their tensor" in found("nvfp4", "nvfp4")
    assert "a scale of its own" in found("fp8_e4m3/tensor", "fp8_e4m3/tensor")


def test_a_file_that_holds_other_than_it_says_is_refused(tmp_path: Path) -> None:
    loaded = opened("llama", tmp_path)
    written(loaded, mixed(loaded.info, FORMS), "compressed-tensors", tmp_path / "out")
    config = tmp_path / "out" / "config.json"
    text = config.read_text()
    exporter = EXPORTERS["compressed-tensors"]
    config.write_text(text.replace('"num_bits": 4', '"num_bits": 3'))
    with pytest.raises(ExportError, match=r"weight_packed has the shape \(\d+, \d+\), not"):
        list(exporter.read_back(tmp_path / "out"))
    config.write_text(text.replace('"config_groups"', '"groups"'))
    with pytest.raises(ExportError, match=r"says nothing of quantization_config\.config_groups"):
        list(exporter.read_back(tmp_path / "out"))


def test_a_rewritten_model_is_written_as_it_was_rewritten(tmp_path: Path) -> None:
    loaded = opened("llama", tmp_path)
    recipe = mixed(loaded.info, FORMS, Setup(transforms=("rotate",)))
    written(loaded, recipe, "compressed-tensors", tmp_path / "out")
    logits = computed(tmp_path / "out")
    torch.testing.assert_close(logits, simulated(loaded, recipe), rtol=1e-3, atol=1e-3)
