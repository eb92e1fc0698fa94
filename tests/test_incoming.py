"""Settings of other tools read as recipes: by hand, against the libraries' own rules, and back from what is written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme, apply_quantization_config
from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_core.errors import RecipeError
from quant_core.models.loading import load
from quant_core.recipes import content_of, gguf_mix, read_settings, tensor_types
from quant_core.recipes.foreign import DIALECTS, llm_compressor
from quant_core.recipes.foreign.base import Reading
from quant_core.recipes.patterns import Matcher, literal
from quant_core.schema import ORIGINAL, Catalog, ModelInfo, ModelRef, Setup
from quant_core.schema import load as load_value
from quant_core.workspace import CATALOG, Workspace
from tests.exported import recipe_of
from tests.made_results import model
from tests.tiny import save

INFO = model(2)
NAMES = [unit.name.removesuffix(".weight") for unit in INFO.units if unit.decided]
FIRST, LAST = NAMES[0], NAMES[-1]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("home"))


@lru_cache(maxsize=1)
def catalog() -> Catalog:
    return load_value(Catalog, json.loads(CATALOG.read_text(encoding="utf-8")))


def read(text: str, info: ModelInfo = INFO) -> Reading:
    found = read_settings(content_of(text), info, catalog())
    assert found is not None
    return found[1]


def modifier(name: str = "QuantizationModifier", **said: Any) -> str:
    return yaml.safe_dump({"quant_stage": {"quant_modifiers": {name: said}}}, sort_keys=False)


def forms(reading: Reading) -> dict[str, str]:
    return {name.removesuffix(".weight"): form for name, form in reading.forms.items()}


# --- back from what is written

HELD = {
    "llm-compressor": (
        "int4/g64/sym@gptq", "int8/channel/asym", "int3/tensor/sym", "fp8_e4m3/channel", "mxfp4", "nvfp4",
    ),
    "gptqmodel": ("int4/g64/sym@gptq", "int8/channel/asym@gptq", "int2/g128/sym@gptq"),
    "llama-quantize": ("q4_k", "q6_k", "q8_0", "iq4_nl", "mxfp4"),
}  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(data=st.data(), tool=st.sampled_from(sorted(HELD)))
def test_what_is_written_reads_back(data: st.DataObject, tool: str) -> None:
    choice = st.sampled_from((*HELD[tool], ORIGINAL))
    recipe = recipe_of(INFO, lambda unit: data.draw(choice) if unit.decided else ORIGINAL)
    if DIALECTS[tool].problems(INFO, recipe):
        return
    reading = read(DIALECTS[tool].text(INFO, recipe))
    assert dict(reading.forms) == recipe.assignment()
    assert reading.setup == Setup()
    assert reading.notes == ()


# --- llm-compressor


def test_presets_are_those_of_compressed_tensors() -> None:
    for name, known in PRESET_SCHEMES.items():
        if name.startswith(("MXFP6", "MXFP4XFP8")):
            with pytest.raises(RecipeError, match="no scheme that is read here"):
                llm_compressor._preset(name)
            continue
        ours = QuantizationScheme.model_validate({"targets": [], **llm_compressor._preset(name)})
        theirs = QuantizationScheme.model_validate({"targets": [], **known})
        for part in ("weights", "input_activations"):
            for field in (
                "num_bits",
                "type",
                "strategy",
                "group_size",
                "symmetric",
                "block_structure",
                "dynamic",
            ):
                said, true = (getattr(getattr(scheme, part), field, None) for scheme in (ours, theirs))
                assert said == true, (name, part, field)


GROUPS = {
    "a": {"targets": ["re:.*proj$"], "weights": {"num_bits": 8, "type": "int", "strategy": "channel"}},
    "b": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 32, "strategy": "group"}},
    "c": {
        "targets": ["model.layers.1.mlp.up_proj", "re:.*layers.0.mlp.*"],
        "weights": {"num_bits": 3, "type": "int", "strategy": "tensor", "symmetric": False},
    },
}  # fmt: skip


@pytest.mark.parametrize("ignore", [[], ["lm_head", "re:.*v_proj"], ["Linear"], ["re:.*self_attn$"]])
@pytest.mark.parametrize("kept", [("a", "b", "c"), ("b",), ("c", "b"), ("a", "c")])
def test_layers_are_matched_as_compressed_tensors_does(
    tmp_path: Path, kept: tuple[str, ...], ignore: list[str]
) -> None:
    loaded = load(ModelRef(str(save("qwen2", tmp_path / "model"))))
    groups = {name: GROUPS[name] for name in kept}
    text = modifier(config_groups=groups, ignore=ignore)
    if ignore == ["Linear"]:
        with pytest.raises(RecipeError, match="quantize nothing"):
            read(text, loaded.info)
        return
    config = QuantizationConfig.model_validate({"config_groups": groups, "ignore": ignore})
    apply_quantization_config(loaded.model, config)
    theirs = {}
    for name, module in loaded.model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is not None and scheme.weights is not None and name != "lm_head":
            theirs[name] = scheme.weights.num_bits
    ours = {name: int(form[3]) for name, form in forms(read(text, loaded.info)).items() if name != "lm_head"}
    assert ours == theirs


def test_the_usual_recipe_of_a_readme() -> None:
    reading = read(modifier("GPTQModifier", scheme="W4A16", targets="Linear", ignore=["lm_head"]))
    assert forms(reading) == dict.fromkeys(NAMES, "int4/g128/sym@gptq")
    assert reading.notes == ()


def test_modifiers_follow_one_another() -> None:
    text = yaml.safe_dump(
        {
            "quant_stage": {
                "quant_modifiers": {
                    "AWQModifier": {"duo_scaling": "both"},
                    "QuantizationModifier": {"ignore": ["lm_head"], "scheme": "W4A16", "targets": ["re:.*attn.*"]},
                    "GPTQModifier": {
                        "scheme": "W8A8", "targets": ["re:.*mlp\\.(down|gate|up)_proj$"], "actorder": None,
                        "dampening_frac": 0.001, "block_size": 128,
                    },
                }
            }
        },
        sort_keys=False,
    )  # fmt: skip
    reading = read(text)
    assert forms(reading)[FIRST] == "int4/g128/sym"
    assert forms(reading)[LAST] == "int8/channel/sym@gptq:order=none:damping=0.001"
    assert reading.setup == Setup(transforms=("awq",))
    assert any("duo_scaling" in note for note in reading.notes)
    assert any("inputs differently" in note for note in reading.notes)


def test_inputs_and_the_cache_are_read() -> None:
    said: dict[str, Any] = {
        "scheme": "FP8_DYNAMIC",
        "kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor"},
    }
    reading = read(modifier(**said))
    assert set(reading.forms.values()) == {"fp8_e4m3/channel"}
    assert reading.setup == Setup(activations="fp8/token", kv_cache="fp8")
    static = read(modifier(scheme="FP8"))
    assert static.setup.activations == "fp8/static"


def test_smoothing_is_a_rewrite_where_its_strength_is_known() -> None:
    def text(strength: float) -> str:
        return yaml.safe_dump(
            {"s_stage": {"s_modifiers": {
                "SmoothQuantModifier": {"smoothing_strength": strength}, "QuantizationModifier": {"scheme": "W8A8"},
            }}}, sort_keys=False,
        )  # fmt: skip

    assert read(text(0.8)).setup == Setup(transforms=("smoothquant:alpha=0.8",), activations="int8/token")
    assert read(text(0.5)).setup.transforms == ("smoothquant",)
    other = read(text(0.77))
    assert other.setup.transforms == ()
    assert any("0.77" in note for note in other.notes)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"scheme": "MXFP4"}, "Inputs stay as they are"),
        ({"scheme": "W4A16", "targets": ["Linear", "re:.*gone.*"]}, "No layer of this model is called re:.*gone.*"),
        ({"scheme": "W4A16", "targets": ["Linear", "Embedding"]}, "1 embeddings stay"),
        ({"scheme": "W4A16", "weight_observer": "imatrix_mse"}, "imatrix_mse"),
        ({"scheme": "W4A16", "mystery": 1}, "mystery"),
        ({"scheme": {"W4A16": ["re:.*mlp.*"], "W7A16": ["re:.*attn.*"]}}, ""),
        (
            {"config_groups": {
                "a": {"targets": ["re:.*q_proj"], "weights": {"num_bits": 4, "group_size": 16, "strategy": "group"}},
                "W8A16": ["re:.*mlp.*"],
            }},
            "2 weights stay as they are: no format here is int 4 group 16",
        ),
    ],
)  # fmt: skip
def test_what_has_no_equal_is_said(said: Mapping[str, Any], words: str) -> None:
    reading = read(modifier(**said))
    assert any(words in note for note in reading.notes) or not words
    assert bool(reading.notes) == bool(words)


def test_a_modifier_that_is_not_known_is_said() -> None:
    text = "SparseGPTModifier: {sparsity: 0.5}\nQuantizationModifier: {scheme: W4A16, ignore: [lm_head]}\n"
    assert read(text).notes == ("SparseGPTModifier has no equal here and is left out.",)


# --- GPTQModel


def gptqmodel(dynamic: Mapping[str, Any] | None = None, **said: object) -> str:
    return json.dumps({"bits": 4, "group_size": 128, "sym": True, "dynamic": dynamic} | said)


def test_the_first_rule_that_matches_holds() -> None:
    rules = {
        r"-:.*layers\.0\.mlp.*": {},
        r"+:.*mlp.*": {"bits": 8},
        "model.layers.1.self_attn.q_proj": {"bits": 2, "group_size": 64},
        r".*layers\.1.*": {"sym": False},
        "+:.*block_sparse.*": {"bits": 3},
    }
    reading = read(gptqmodel(rules))
    assert forms(reading) == {
        name: "int4/g128/sym@gptq" if name.startswith("model.layers.0")
        else "int8/g128/sym@gptq" if ".mlp." in name
        else "int2/g64/sym@gptq" if name == "model.layers.1.self_attn.q_proj"
        else "int4/g128/asym@gptq"
        for name in NAMES
        if not name.startswith("model.layers.0.mlp")
    }  # fmt: skip
    assert reading.notes == ("No layer of this model matches +:.*block_sparse.*.",)


def test_a_rule_without_special_characters_is_a_whole_name() -> None:
    """As in GPTQModel: layer 1 does not stand for layer 10."""
    info = model(11)
    reading = read(gptqmodel({"-:model\\.layers\\.1\\.mlp\\.up_proj": {}}), info)
    missing = {unit.name for unit in info.units if unit.decided} - set(reading.forms)
    assert missing == {"model.layers.1.mlp.up_proj.weight"}


@pytest.mark.parametrize(
    ("said", "method"),
    [
        ({}, "gptq"),
        ({"desc_act": True}, "gptq"),
        ({"desc_act": False, "act_group_aware": False}, "gptq:order=none"),
        ({"damp_percent": 0.1}, "gptq:damping=0.1"),
    ],
)
def test_how_gptqmodel_rounds(said: Mapping[str, Any], method: str) -> None:
    assert set(read(gptqmodel(**said)).forms.values()) == {f"int4/g128/sym@{method}"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            gptqmodel({"+:.*q_proj": {"group_size": 16}}),
            "2 weights stay as they are: no format here has bits 4",
        ),
        (gptqmodel({"+:.*q_proj": {"adapter": {}}}), "dynamic adapter"),
        (gptqmodel(damp_percent=0.05), "damp_percent 0.05"),
        (gptqmodel(rotation="hadamard"), "rotation"),
    ],
)
def test_what_gptqmodel_says_otherwise_is_said(text: str, words: str) -> None:
    (note,) = read(text).notes
    assert words in note


# --- llama-quantize


def test_a_command_is_read_with_its_mix() -> None:
    text = r"""./llama-quantize --imatrix m.dat --token-embedding-type q8_0 \
        --tensor-type "^blk\.0\.attn_q\.weight$=Q6_K" --tensor-type attn_q=q5_k --tensor-type 'ffn_(up|gate)=iq4_nl' \
        --tensor-type-file more.txt in-f16.gguf out.gguf q4_k_m 8"""
    reading = read(text)
    plain = {unit: form.removesuffix("@imatrix") for unit, form in reading.forms.items()}
    mix = gguf_mix(INFO, "q4_k_m")
    expected = mix | {unit: "q5_k" for unit in mix if "q_proj" in unit}
    expected |= {unit: "iq4_nl" for unit in mix if "up_proj" in unit or "gate_proj" in unit}
    expected |= {f"{FIRST}.weight": "q6_k", "model.embed_tokens.weight": "q8_0"}
    assert plain == expected
    assert reading.forms[f"{FIRST}.weight"] == "q6_k@imatrix"
    assert any("--tensor-type-file more.txt" in note for note in reading.notes)


def test_a_file_of_types_needs_no_option() -> None:
    reading = read("attn_q=q4_k\nblk.1.ffn_down=bf16\nffn_down=q6_k\n")
    assert forms(reading) == {
        name: "q4_k" if "q_proj" in name else "q6_k"
        for name in NAMES
        if "q_proj" in name or name == "model.layers.0.mlp.down_proj"
    }
    assert "11 weights stay as they are: no line names them" in reading.notes[-1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--tensor-type attn_q=q4_k --tensor-type attn_z=q4_k", "No tensor of this model matches attn_z."),
        ("--tensor-type attn_q=q4_k --tensor-type attn_v=iq2_xxs", "iq2_xxs is no format here"),
        ("--tensor-type attn_q=q4_k a b IQ2_M", "rules of IQ2_M are not known"),
        (
            "--output-tensor-type q8_0 --tensor-type attn_q=q4_k --prune-layers 1 a b F16",
            "looks at no --tensor-type",
        ),
        ("--tensor-type attn_q=q4_k --prune-layers 1", "--prune-layers 1"),
    ],
)
def test_what_llama_quantize_says_otherwise_is_said(text: str, words: str) -> None:
    assert any(words in note for note in read(text).notes)


def test_short_rows_take_what_llama_cpp_falls_back_to() -> None:
    info = model(1)
    info = type(info)(
        **{**vars(info), "units": tuple(type(u)(**{**vars(u), "columns": 64}) for u in info.units)}
    )
    reading = read("llama-quantize --tensor-type attn_q=q4_k --pure in.gguf out.gguf Q6_K", info)
    assert reading.forms["model.layers.0.self_attn.q_proj.weight"] == "q5_0"
    assert reading.forms["model.layers.0.mlp.up_proj.weight"] == "q8_0"
    assert any("falls back" in note for note in reading.notes)


def test_plain_types_leave_the_output_better() -> None:
    assert set(gguf_mix(INFO, "q8_0").values()) == {"q8_0"}
    mixed = gguf_mix(INFO, "q4_0")
    assert mixed.pop("model.embed_tokens.weight") == "q6_k"
    assert set(mixed.values()) == {"q4_0"}


def test_lines_of_a_recipe_with_its_embedding_read_back() -> None:
    assignment = gguf_mix(INFO, "q5_k_m")
    assert dict(read("\n".join(tensor_types(INFO, assignment))).forms) == assignment


# --- files of strangers


@pytest.mark.parametrize(
    "text",
    [
        modifier(scheme="W9A16"),
        modifier(scheme="W4A16", targets=[1]),
        modifier(scheme="W4A16", ignore="re:(a|"),
        modifier(config_groups=["a"]),
        modifier(config_groups={"a": {"targets": ["Linear"], "weights": 3}}),
        modifier(scheme="W4A16", targets=["re:" + "(" * 2000]),
        modifier(scheme="W4A16", targets=["re:(((a{99}){99}){99}){99}"]),
        modifier(scheme="W4A16", targets=["re:(?R)"]),
        gptqmodel([1]),  # type: ignore[arg-type]
        gptqmodel({"+:a": 3}),
        '--tensor-type "attn_q=q4_k',
        "--tensor-type =q4_k",
        "a: [&x 1, *x]",
        "--tensor-type a=b " + "x" * 5_000_000,
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_settings(content_of(text), INFO, catalog())
    assert caught.value.hint


@settings(deadline=None, max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(("scheme", "config_groups", "targets", "ignore", "kv_cache_scheme", "observer", "actorder")),
)  # fmt: skip
def test_no_setting_makes_it_stumble(value: Any, field: str) -> None:
    for text in (
        json.dumps({"GPTQModifier": {"scheme": "W4A16", field: value}}),
        json.dumps({"AWQModifier": {field: value}, "QuantizationModifier": {"config_groups": {"a": value}}}),
        json.dumps({"bits": value, "group_size": value, "dynamic": {"+:.*": {"bits": value}, "x": value}}),
    ):
        try:
            read_settings(content_of(text), INFO, catalog())
        except RecipeError:
            continue


def test_an_expression_that_takes_years_is_stopped() -> None:
    with pytest.raises(RecipeError, match="takes too long"):
        Matcher(["a" * 90]).names("(?:a|aa)+[!]")


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1))
def test_an_escaped_name_is_looked_up(name: str) -> None:
    assert literal(f"^{re.escape(name)}$") == name
    assert Matcher([name, name + "0"]).names(f"^{re.escape(name)}$") == (name,)


def test_a_recipe_of_settings_is_whole(workspace: Workspace) -> None:
    found = workspace.import_recipe(modifier("GPTQModifier", scheme="W4A16", ignore=["lm_head"]), INFO)
    assert found.tool == "llm-compressor"
    assert workspace.import_recipe(workspace.recipe_text(found.recipe, "yaml"), INFO).recipe == found.recipe
    assert found.recipe.predicted_kl is None
    assert found.recipe.average_bits == pytest.approx(4 + 16 / 128)
