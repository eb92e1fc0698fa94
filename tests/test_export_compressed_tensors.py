"""compressed-tensors checkpoints: transformers loads them, and computes what was simulated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from quant_core.models.loading import LoadedModel, load
from quant_core.schema import ModelRef, Setup
from tests.exported import TOKENS, mixed, simulated, written
from tests.tiny import save

FORMS = ("int4/g32/sym", "int8/channel/sym")


def opened(kind: str, folder: Path) -> LoadedModel:
    return load(ModelRef(str(save(kind, folder / "model"))))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "opt"])
def test_transformers_computes_what_was_simulated(kind: str, tmp_path: Path) -> None:
    loaded = opened(kind, tmp_path)
    recipe = mixed(loaded.info, FORMS)
    done = written(loaded, recipe, "compressed-tensors", tmp_path / "out")
    assert done.exact == done.weights == len(recipe.assignment())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        logits = model(TOKENS).logits
    torch.testing.assert_close(logits, simulated(loaded, recipe), rtol=1e-5, atol=1e-5)


def test_a_rewritten_model_is_written_as_it_was_rewritten(tmp_path: Path) -> None:
    loaded = opened("llama", tmp_path)
    recipe = mixed(loaded.info, FORMS, Setup(transforms=("rotate",)))
    written(loaded, recipe, "compressed-tensors", tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        logits = model(TOKENS).logits
    torch.testing.assert_close(logits, simulated(loaded, recipe), rtol=1e-3, atol=1e-3)
