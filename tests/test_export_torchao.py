"""torchao checkpoints: transformers reloads them, and computes what was simulated."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchao.utils import TorchAOBaseTensor
from transformers import AutoModelForCausalLM

from quant_core.errors import ExportError
from quant_core.export import EXPORTERS
from quant_core.export.staging import Shards
from quant_core.runtimes import RUNTIMES, Engine, Task
from quant_core.schema import ORIGINAL
from tests.exported import TOKENS, mixed, opened, recipe_of, simulated, written

BY_ROLE = {
    "q_proj": "int4/g32/asym", "k_proj": "int3/channel/sym", "v_proj": "int2/channel/asym",
    "o_proj": "int8/channel/sym",
    "gate_proj": "fp8_e4m3/channel", "up_proj": "fp8_e5m2/tensor", "down_proj": "int7/g32/sym",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_transformers_computes_what_was_simulated(kind: str, tmp_path: Path) -> None:
    loaded = opened(kind, tmp_path)
    recipe = recipe_of(loaded.info, lambda unit: BY_ROLE.get(unit.role, ORIGINAL))
    done = written(loaded, recipe, "torchao", tmp_path / "out")
    assert done.exact == done.weights == len(recipe.assignment())
    assert "8 bits" in done.notes[0]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    held = [name for name, weight in model.named_parameters() if isinstance(weight.data, TorchAOBaseTensor)]
    assert sorted(held) == sorted(recipe.assignment())
    with torch.no_grad():
        logits = model(TOKENS).logits
    torch.testing.assert_close(logits, simulated(loaded, recipe), rtol=1e-5, atol=1e-5)


def test_every_file_of_several_says_what_all_weights_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quant_core.export.base.Shards", partial(Shards, limit=60_000))
    loaded = opened("llama", tmp_path)
    recipe = mixed(loaded.info, ["int4/g32/sym"])
    written(loaded, recipe, "torchao", tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        logits = model(TOKENS).logits
    torch.testing.assert_close(logits, simulated(loaded, recipe), rtol=1e-5, atol=1e-5)


def test_a_header_that_says_nothing_of_a_weight_is_refused(tmp_path: Path) -> None:
    loaded = opened("llama", tmp_path)
    written(loaded, mixed(loaded.info, ["int4/g32/sym"]), "torchao", tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    save_file(load_file(file), file)
    with pytest.raises(ExportError, match="headers do not say what"):
        list(EXPORTERS["torchao"].read_back(tmp_path / "out"))


def test_its_files_are_timed_in_a_process_of_their_own(tmp_path: Path) -> None:
    loaded = opened("llama", tmp_path)
    recipe = recipe_of(
        loaded.info, lambda unit: "int8/channel/sym" if unit.decided and unit.columns % 64 == 0 else ORIGINAL
    )
    written(loaded, recipe, "torchao", tmp_path / "out")
    task = Task(str(tmp_path / "out"), tuple(range(3, 19)), 3, 1, "cpu")
    with Engine(RUNTIMES["torchao"], task, lambda: None) as engine:
        engine.load()
        found = engine.round()
    assert (found.read, found.written, found.gpu) == (16, 2, 0)
    assert found.reading > 0
    assert found.writing > 0
    assert 0 < engine.libraries <= engine.peak
