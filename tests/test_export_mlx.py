"""MLX checkpoints: mlx-lm loads them, dequantizes them to what was simulated, and computes the same."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quant_core.models.loading import LoadedModel
from quant_core.schema import ORIGINAL, Exported, Recipe, Unit
from quant_core.targets import TARGETS, problems
from tests.exported import TOKENS, mixed, opened, recipe_of, simulated, simulated_weights, written

ROOT = Path(__file__).parents[1]
MLX = ROOT / ".venv-mlx/bin/python"
BY_ROLE = {
    "q_proj": "int2/g32/float", "k_proj": "int3/g32/float", "v_proj": "int5/g64/float", "o_proj": "int6/g32/float",
    "gate_proj": "int8/g32/float", "up_proj": "mxfp4", "down_proj": "mxfp8_e4m3", "embed_tokens": "int4/g32/float",
}  # fmt: skip


def llama(unit: Unit) -> str:
    return BY_ROLE.get(unit.role, ORIGINAL)


def qwen2(unit: Unit) -> str:
    return "int4/g32/float" if unit.block == 0 or unit.kind == "head" else ORIGINAL


def mixtral(unit: Unit) -> str:
    if unit.kind == "expert":
        return "int3/g32/float" if "gate_up" in unit.role else "mxfp4"
    return "int4/g64/float" if unit.decided else ORIGINAL


RECIPES = {"llama": llama, "qwen2": qwen2, "mixtral": mixtral}


@dataclass(frozen=True)
class Case:
    loaded: LoadedModel
    recipe: Recipe
    done: Exported
    folder: Path

    def read(self) -> Mapping[str, NDArray[np.float32]]:
        """What ``tests/mlx_reader.py`` found."""
        return np.load(self.folder / "mlx.npz")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    made = {}
    for kind, choose in RECIPES.items():
        folder = tmp_path_factory.mktemp(kind)
        loaded = opened(kind, folder)
        recipe = recipe_of(loaded.info, choose)
        done = written(loaded, recipe, "mlx", folder / "out")
        made[kind] = Case(loaded, recipe, done, folder / "out")
    return made


@pytest.fixture(scope="module")
def read(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """All cases, after mlx-lm read them."""
    if not MLX.is_file() or not list(MLX.parents[1].glob("lib/*/site-packages/mlx_lm")):
        pytest.skip("no mlx here: .venv-mlx has none (`make test` makes it where there is a wheel)")
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.npy"
    np.save(tokens, TOKENS.numpy())
    folders = [case.folder for case in cases.values()]
    done = subprocess.run(
        [MLX, ROOT / "tests/mlx_reader.py", tokens, *folders], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return cases


@pytest.mark.parametrize("kind", RECIPES)
def test_mlx_computes_what_was_simulated(kind: str, read: dict[str, Case]) -> None:
    case = read[kind]
    expected = simulated(case.loaded, case.recipe).numpy()
    logits = case.read()["logits"]
    assert np.linalg.norm(logits - expected) < 2e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_mlx_dequantizes_to_what_was_simulated(kind: str, read: dict[str, Case]) -> None:
    case = read[kind]
    found = case.read()
    expected = simulated_weights(case.loaded, case.recipe)
    assert set(found) == {"logits", *expected}
    for name, matrix in expected.items():
        if case.recipe.units[name].format.startswith("mxfp"):
            np.testing.assert_array_equal(found[name], matrix)
        else:  # of the offset, which is at most the largest magnitude of its group and a step
            np.testing.assert_allclose(
                found[name], matrix, rtol=0, atol=2.0**-11 * 1.5 * np.abs(matrix).max()
            )


def test_what_is_read_back_is_off_by_the_offsets_alone(cases: dict[str, Case]) -> None:
    llama = cases["llama"]
    exact = sum(form.startswith("mxfp") for form in llama.recipe.assignment().values())
    assert llama.done.exact >= exact == 4
    assert 0 < llama.done.error < 2.0**-10
    assert "2^-11" in llama.done.notes[0]


def test_the_config_says_what_every_layer_is(cases: dict[str, Case]) -> None:
    def config(kind: str) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((cases[kind].folder / "config.json").read_text())
        return data

    mixtral = config("mixtral")
    layer = "model.layers.1.block_sparse_moe.switch_mlp"
    assert mixtral["quantization"][f"{layer}.down_proj"] == {"group_size": 32, "bits": 4, "mode": "mxfp4"}
    assert not any(re.search(r"experts\.\d", name) for name in mixtral["quantization"])
    assert mixtral["rope_theta"] == mixtral["rope_parameters"]["rope_theta"]


def test_gpt2_stays_in_16_bits(tmp_path: Path) -> None:
    info = opened("gpt2", tmp_path).info
    (found,) = problems(TARGETS["mlx"], info, mixed(info, ["int4/g32/float"]))
    assert "leaves Conv1D layers in 16 bits" in found.reason
