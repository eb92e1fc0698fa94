"""Recipes for other tools: what each is told, by hand and by the libraries' own types, and what is in the way."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from compressed_tensors.quantization import QuantizationScheme

from quant_core.recipes.foreign import DIALECTS
from quant_core.schema import ORIGINAL, Recipe, Setup
from quant_core.targets import TARGETS
from tests.exported import mixed, opened, recipe_of
from tests.made_results import model

ROOT = Path(__file__).parents[1]
INFO = model(2)
FIRST = "model.layers.0.self_attn.q_proj"
LAST = "model.layers.1.mlp.down_proj"
FORMS = {
    "llm-compressor": ("int4/g64/sym@gptq", "int8/channel/asym"),
    "gptqmodel": ("int4/g64/sym", "int8/channel/asym"),
    "autoround": ("int4/g64/sym", "int2/channel/asym"),
    "modelopt": ("int4/g64/sym", "fp8_e4m3/channel"),
    "quanto": ("fp8_e4m3/channel", "int8/channel/sym"),
    "llama-quantize": ("q4_k", "q6_k"),
    "hqq": ("int3/g64/float",),
    "neural-compressor": ("int4/g64/sym", "int8/channel/asym"),
}
"""By tool: formats of even and odd blocks that it can be told."""


def told(tool: str) -> str:
    recipe = mixed(INFO, FORMS[tool])
    assert DIALECTS[tool].problems(INFO, recipe) == ()
    return DIALECTS[tool].text(INFO, recipe)


def test_every_tool_is_tested_and_leads_to_a_target() -> None:
    assert set(FORMS) == set(DIALECTS)
    assert {dialect.solve_for for dialect in DIALECTS.values()} <= set(TARGETS)


def test_llm_compressor_is_told_in_types_of_compressed_tensors() -> None:
    modifiers = yaml.safe_load(told("llm-compressor"))["quant_stage"]["quant_modifiers"]
    assert set(modifiers) == {"GPTQModifier", "QuantizationModifier"}
    (by_gptq,) = modifiers["GPTQModifier"]["config_groups"].values()
    (nearest,) = modifiers["QuantizationModifier"]["config_groups"].values()
    assert FIRST in by_gptq["targets"]
    assert LAST in nearest["targets"]
    scheme = QuantizationScheme.model_validate(by_gptq)
    assert scheme.weights is not None
    assert (scheme.weights.num_bits, scheme.weights.group_size, scheme.weights.symmetric) == (4, 64, True)
    other = QuantizationScheme.model_validate(nearest).weights
    assert other is not None
    assert (other.num_bits, other.group_size, other.symmetric, other.strategy) == (8, None, False, "channel")


@pytest.mark.parametrize(
    ("form", "bits", "kind"), [("nvfp4", 4, "float"), ("mxfp4", 4, "float"), ("fp8_e4m3/tensor", 8, "float")]
)
def test_llm_compressor_is_told_small_floats(form: str, bits: int, kind: str) -> None:
    text = DIALECTS["llm-compressor"].text(INFO, mixed(INFO, [form]))
    (group,) = yaml.safe_load(text)["quant_stage"]["quant_modifiers"]["QuantizationModifier"][
        "config_groups"
    ].values()
    weights = QuantizationScheme.model_validate(group).weights
    assert weights is not None
    assert (weights.num_bits, weights.type) == (bits, kind)


def test_gptqmodel_is_told_what_differs_by_expressions_that_match_one_layer() -> None:
    data = json.loads(told("gptqmodel"))
    assert (data["bits"], data["group_size"], data["sym"]) == (4, 64, True)
    matching = [key for key in data["dynamic"] if re.match(key[2:], LAST)]
    assert [data["dynamic"][key] for key in matching] == [{"bits": 8, "group_size": -1, "sym": False}]
    assert not any(re.match(key[2:], FIRST) for key in data["dynamic"])


def test_gptqmodel_is_told_what_stays() -> None:
    recipe = recipe_of(INFO, lambda unit: "int4/g64/sym" if unit.role == "q_proj" else ORIGINAL)
    data = json.loads(DIALECTS["gptqmodel"].text(INFO, recipe))
    (key,) = [key for key in data["dynamic"] if re.match(key[2:], LAST)]
    assert key.startswith("-:")


def test_autoround_is_told_every_layer() -> None:
    data = json.loads(told("autoround"))
    assert data[FIRST] == {"bits": 4, "group_size": 64, "sym": True, "data_type": "int"}
    assert data[LAST] == {"bits": 2, "group_size": -1, "sym": False, "data_type": "int"}


def test_modelopt_is_told_in_order() -> None:
    data = yaml.safe_load(told("modelopt"))
    assert data["quant_cfg"][0] == {"quantizer_name": "*", "enable": False}
    by_name = {entry["quantizer_name"]: entry for entry in data["quant_cfg"]}
    assert by_name[f"{FIRST}.weight_quantizer"]["cfg"] == {
        "num_bits": 4,
        "block_sizes": {-1: 64, "type": "static"},
    }
    assert by_name[f"{LAST}.weight_quantizer"]["cfg"] == {"num_bits": [4, 3], "axis": 0}


def test_quanto_is_told_types() -> None:
    data = json.loads(told("quanto"))
    assert data[FIRST] == {"weights": "qfloat8_e4m3fn", "activations": "none"}
    assert data[LAST] == {"weights": "qint8", "activations": "none"}


def test_llama_quantize_is_told_a_line_a_tensor() -> None:
    lines = told("llama-quantize").splitlines()
    assert '--tensor-type "^blk\\.0\\.attn_q\\.weight$=q4_k"' in lines
    assert '--tensor-type "^blk\\.1\\.ffn_down\\.weight$=q6_k"' in lines


def test_hqq_is_told_by_role_and_refuses_blocks_that_differ() -> None:
    data = json.loads(told("hqq"))
    assert data["self_attn.q_proj"]["weight_quant_params"]["nbits"] == 3
    assert len(data) == 7
    found = DIALECTS["hqq"].problems(INFO, mixed(INFO, ["int3/g64/float", "int4/g64/float"]))
    (split,) = [problem for problem in found if "by role" in problem.reason]
    assert len(split.units) == 14


def test_neural_compressor_is_told_local_settings() -> None:
    data = json.loads(told("neural-compressor"))
    assert data["global"] == {"dtype": "int", "bits": 4, "group_size": 64, "use_sym": True}
    assert data["local"][re.escape(LAST)] == {"dtype": "int", "bits": 8, "group_size": -1, "use_sym": False}


@pytest.mark.parametrize("tool", FORMS)
def test_what_no_settings_say_is_in_the_way(tool: str) -> None:
    form = FORMS[tool][0]
    dialect = DIALECTS[tool]
    rewritten = dialect.problems(INFO, mixed(INFO, [form], Setup(transforms=("awq",))))
    assert any("rewritten first (awq)" in problem.reason for problem in rewritten)
    trained = dialect.problems(INFO, mixed(INFO, [form], Setup(trained="a" * 24)))
    assert any("trained" in problem.reason for problem in trained)
    assert any(
        "quantizes nothing" in problem.reason for problem in dialect.problems(INFO, mixed(INFO, [ORIGINAL]))
    )
    assert any(
        "does not hold nf4" in problem.reason for problem in dialect.problems(INFO, mixed(INFO, ["nf4"]))
    )


# --- read by the tools themselves

TOOLS = ROOT / ".venv-tools/bin/python"
TOLD: dict[str, dict[str, list[object]]] = {
    "quanto": {"fp8_e4m3/channel": ["qfloat8_e4m3fn"], "int8/channel/sym": ["qint8"]},
    "hqq": {"int3/g32/float": [3, 32]},
    "neural-compressor": {"int4/g32/sym": [4, 32, True], "int8/channel/asym": [8, -1, False]},
    "modelopt": {"int4/g32/sym": [4, 32], "fp8_e4m3/channel": [[4, 3], -1]},
    "autoround": {"int4/g32/sym": [4, 32, True], "int2/channel/asym": [2, -1, False]},
}
"""By tool: formats of even and odd blocks, and what it has to say of a layer in each (``tests/tools_reader.py``)."""


@pytest.fixture(scope="module")
def understood(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Recipe, dict[str, list[object]]]]:
    """Recipes of a tiny Llama, whose last layer stays, with what each tool makes of them."""
    if not (TOOLS.parents[1] / ".quantlens").is_file():
        pytest.skip("there are no tools in .venv-tools: make unit installs them where they have wheels")
    loaded = opened("llama", tmp_path_factory.mktemp("tools"))
    last = f"{LAST}.weight"

    def recipe(tool: str) -> Recipe:
        names = list(TOLD[tool])
        kept = "" if tool == "hqq" else last  # it is told by role: no block can have a layer that stays
        return recipe_of(
            loaded.info,
            lambda unit: names[unit.block % len(names)] if unit.decided and unit.name != kept else ORIGINAL,
        )

    recipes = {tool: recipe(tool) for tool in TOLD}
    files = {tool: DIALECTS[tool].text(loaded.info, recipe) for tool, recipe in recipes.items()}
    task = json.dumps({"model": loaded.info.ref.source, "files": files})
    reader = subprocess.run(
        [str(TOOLS), "-W", "ignore", str(ROOT / "tests/tools_reader.py")],
        input=task, capture_output=True, text=True, timeout=300, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert reader.returncode == 0, reader.stderr[-2000:]
    return {tool: (recipes[tool], found) for tool, found in json.loads(reader.stdout).items()}


@pytest.mark.parametrize("tool", TOLD)
def test_the_tool_itself_understands_what_it_is_told(
    understood: dict[str, tuple[Recipe, dict[str, list[object]]]], tool: str
) -> None:
    recipe, found = understood[tool]
    told = {name.removesuffix(".weight"): TOLD[tool][form] for name, form in recipe.assignment().items()}
    assert found == told
