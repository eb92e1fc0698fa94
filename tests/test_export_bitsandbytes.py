"""bitsandbytes checkpoints: transformers reloads them on a CPU, and computes what was simulated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from quant_core.errors import ExportError
from quant_core.export import EXPORTERS
from quant_core.runtimes import RUNTIMES, Engine, Task
from quant_core.schema import ORIGINAL
from tests.exported import TOKENS, opened, recipe_of, simulated, written


@pytest.mark.parametrize(
    ("kind", "forms"),
    [
        ("llama", ("nf4/g64", ORIGINAL)),
        ("qwen2", ("nf4/g64/dq",)),
        ("opt", ("fp4/g64", ORIGINAL)),
        ("gpt2", (ORIGINAL, "nf4/g64/dq")),
        ("llama", (ORIGINAL, "llm_int8")),
        ("gpt2", ("llm_int8",)),
    ],
)
def test_transformers_computes_what_was_simulated(kind: str, forms: tuple[str, ...], tmp_path: Path) -> None:
    loaded = opened(kind, tmp_path)
    fits = "llm_int8" in forms
    recipe = recipe_of(
        loaded.info,
        lambda unit: (
            forms[unit.block % len(forms)] if unit.decided and (fits or unit.columns % 64 == 0) else ORIGINAL
        ),
    )
    done = written(loaded, recipe, "bitsandbytes", tmp_path / "out")
    assert done.exact == done.weights
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    names = [name for name, module in model.named_modules() if "bitsandbytes" in type(module).__module__]
    assert len(names) == done.weights
    if "llm_int8" in forms:  # its layers round their inputs too
        assert "inputs" in done.notes[0]
        model = model.dequantize()
    with torch.no_grad():
        logits = model(TOKENS).logits
    torch.testing.assert_close(logits, simulated(loaded, recipe), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ('"shape": [64, 6400]', "another size than 64 x 6400 codes"),
        ('"shape": [64, -64]', "cannot be read: sizes"),
        ('"shape": [64, 64], "blocksize": 0', "cannot be read: sizes"),
        ('"shape": 64', "cannot be read"),
        ("{", "cannot be read"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(state: str, message: str, tmp_path: Path) -> None:
    packed = {
        "a.weight": torch.zeros(2048, 1, dtype=torch.uint8),
        "a.weight.quant_state.bitsandbytes__nf4": torch.tensor(
            list(f'{{"blocksize": 64, {state}}}'.encode()), dtype=torch.uint8
        ),
    }
    save_file(packed, tmp_path / "model.safetensors")
    with pytest.raises(ExportError, match=message):
        list(EXPORTERS["bitsandbytes"].read_back(tmp_path))


def test_its_files_are_timed_in_a_process_of_their_own(tmp_path: Path) -> None:
    loaded = opened("llama", tmp_path)
    recipe = recipe_of(
        loaded.info, lambda unit: "nf4/g64" if unit.decided and unit.columns % 64 == 0 else ORIGINAL
    )
    written(loaded, recipe, "bitsandbytes", tmp_path / "out")
    task = Task(str(tmp_path / "out"), tuple(range(3, 19)), 3, 1, "cpu")
    with Engine(RUNTIMES["bitsandbytes"], task, lambda: None) as engine:
        engine.load()
        found = engine.round()
    assert (found.read, found.written, found.gpu) == (16, 2, 0)
    assert found.reading > 0
    assert found.writing > 0
    assert 0 < engine.libraries <= engine.peak
