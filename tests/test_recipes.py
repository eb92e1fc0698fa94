"""Recipes: what is in one, the way to a file and back, and every kind of file that is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_core import schema
from quant_core.allocation.solution import price
from quant_core.errors import FormatError, RecipeError
from quant_core.names import read_name
from quant_core.recipes import first_and_last_at, format_parameters, from_text, make_recipe, to_text, uniform
from quant_core.recipes.make import library_versions, public_name
from quant_core.schema import ORIGINAL, Budget, Evaluation, ModelInfo, Recipe, Solution
from tests import made_results
from tests.test_names import FAMILIES

INFO = made_results.model(blocks=3)
TABLE = made_results.table(INFO)
Q0 = TABLE.units[0]
CHOICES = (*TABLE.formats, ORIGINAL)
KINDS: tuple[Literal["json", "yaml"], ...] = ("json", "yaml")
NAMES = st.text(
    st.characters(codec="utf-8") | st.sampled_from("\x00\x07\x7f\x85\u2028\ufeff \n\t'\":-?#&*!|>%@`{}[],é"),
    max_size=20,
)
NUMBERS = st.floats(0, allow_nan=False, allow_infinity=False)


def made(**changes: Any) -> Recipe:
    """A recipe of two formats, with some fields changed."""
    assignment = first_and_last_at(INFO, TABLE, "int8/g64/asym", "int3/g64/asym")
    recipe = make_recipe(
        INFO,
        TABLE,
        price(INFO, TABLE, assignment),
        FAMILIES,
        Budget("bits", 5.0),
        {"*.q_proj.*": "int8/g64/asym"},
    )
    return replace(recipe, **changes)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Recipes of the made model with any figures and any texts."""
    formats = draw(st.lists(st.sampled_from(CHOICES), min_size=len(TABLE.units), max_size=len(TABLE.units)))
    solution = price(INFO, TABLE, dict(zip(TABLE.units, formats, strict=True)))
    budget = draw(st.none() | st.builds(Budget, st.sampled_from(["bits", "bytes"]), NUMBERS))
    measured = draw(st.none() | st.builds(Evaluation, **_figures()))
    recipe = make_recipe(
        INFO, TABLE, solution, FAMILIES, budget, draw(st.dictionaries(NAMES, NAMES, max_size=3)), measured
    )
    return replace(
        recipe,
        model=draw(NAMES),
        revision=draw(NAMES),
        predicted_kl=draw(st.none() | NUMBERS.map(abs)),
        predicted_stderr=draw(st.none() | NUMBERS.map(abs)),
        calibration=draw(NAMES),
        seed=draw(st.integers(0, 2**63) | st.just(10**400)),
        libraries=draw(st.dictionaries(NAMES, NAMES, max_size=3)),
    )


def _figures() -> dict[str, st.SearchStrategy[Any]]:
    kinds: dict[str, st.SearchStrategy[Any]] = {"float": NUMBERS, "int": st.integers(0, 2**53), "str": NAMES}
    kinds["tuple[str, ...]"] = st.lists(NAMES, max_size=2).map(tuple)
    return {name: kinds[kind] for name, kind in Evaluation.__annotations__.items()}


def data(**changes: Any) -> dict[str, Any]:
    """A recipe as JSON data, with some fields changed."""
    return {**schema.dump(made()), **changes}


def refusal(content: object, info: ModelInfo = INFO, kind: str = "json") -> str:
    """The sentence and the hint with which a file is refused; ``content`` is its text or its data."""
    text = content if isinstance(content, str) else json.dumps(content)
    if kind == "yaml" and not isinstance(content, str):
        text = yaml.safe_dump(content)
    with pytest.raises(RecipeError) as caught:
        from_text(text, info, FAMILIES, {})
    assert caught.value.message.endswith(".")
    assert caught.value.hint.endswith((".", "?"))
    return str(caught.value)


def edited(unit: str, **changes: Any) -> dict[str, Any]:
    """A recipe's data with one unit's entry changed."""
    content = data()
    content["units"][unit] = {**content["units"][unit], **changes}
    return content


# --- what is in a recipe


def test_a_recipe_lists_every_weight() -> None:
    recipe = made()
    assert list(recipe.units) == [unit.name for unit in INFO.units]
    embedding = recipe.units["model.embed_tokens.weight"]
    assert (embedding.format, embedding.parameters, embedding.bits) == (ORIGINAL, {"bits": 16}, 16.0)
    first = recipe.units[Q0]
    assert (first.format, first.bits) == ("int8/g64/asym", 8.375)
    assert recipe.assignment() == first_and_last_at(INFO, TABLE, "int8/g64/asym", "int3/g64/asym")
    assert recipe.original_bytes == INFO.original_bits / 8
    assert recipe.budget == Budget("bits", 5.0)
    assert (recipe.calibration, recipe.calibration_hash) == (TABLE.text_label, TABLE.text_hash)
    assert recipe.fingerprint == INFO.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_a_setup_goes_along_without_the_users_own_text(kind: Literal["json", "yaml"]) -> None:
    text = schema.TextSource("inline", "Dear diary, ...", "diary.txt")
    setup = schema.Setup(("awq",), "int8/token", "int8", calibration=schema.Calibration(text, tokens=512))
    assignment = first_and_last_at(INFO, TABLE, "int8/g64/asym", "int3/g64/asym")
    recipe = make_recipe(INFO, TABLE, price(INFO, TABLE, assignment), FAMILIES, setup=setup)
    written = to_text(recipe, kind)
    assert "diary.txt" in written
    assert "Dear diary" not in written
    found = from_text(written, INFO, FAMILIES, {}).setup
    assert replace(found, calibration=setup.calibration) == setup
    assert (found.calibration.tokens, found.calibration.text.value) == (512, "")


def test_the_entries_add_up_to_the_recipes_size() -> None:
    recipe = made()
    bits = sum(recipe.units[unit.name].bits * unit.parameters for unit in INFO.units) + INFO.other_bits
    assert bits / 8 == pytest.approx(recipe.total_bytes, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("int4/g64/asym", {"bits": 4, "symmetric": False, "granularity": "group", "group_size": 64,
                           "zero_point_bits": 4, "scale_dtype": "float16"}),
        ("int8/channel/sym@gptq:order=none", {"bits": 8, "symmetric": True, "granularity": "channel", "group_size": 0,
                                              "zero_point_bits": 0, "scale_dtype": "float16",
                                              "rounding": "gptq:order=none"}),
        ("int3/tensor/float/keep0.5", {"bits": 3, "symmetric": False, "granularity": "tensor", "group_size": 0,
                                       "zero_point_bits": 16, "scale_dtype": "float16",
                                       "kept_in_16_bits_per_mille": 5}),
        ("nf4/g128/dq", {"bits": 4, "granularity": "group", "group_size": 128, "double_quantization": True}),
        ("fp8_e4m3/b128", {"bits": 8, "granularity": "block", "group_size": 128}),
        ("five", {"bits": 8, "values_per_code": 5, "granularity": "group", "group_size": 32}),
        ("original", {"bits": 16}),
    ],
)  # fmt: skip
def test_a_format_is_spelled_out(name: str, parameters: dict[str, schema.Plain]) -> None:
    assert format_parameters(read_name(name), FAMILIES, 16) == parameters


def test_a_solution_that_does_not_fit_the_model_makes_no_recipe() -> None:
    def solved(assignment: dict[str, str]) -> Solution:
        return Solution(assignment, 4.0, 1e6, 0.1, 0.01)

    with pytest.raises(RecipeError, match=r"no size in 'int5/g64/asym'"):
        make_recipe(INFO, TABLE, solved({Q0: "int5/g64/asym"}), FAMILIES)
    with pytest.raises(RecipeError, match="no weight named 'nowhere'"):
        make_recipe(INFO, TABLE, solved({"nowhere": ORIGINAL}), FAMILIES)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("bundled", "bundled"),
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"),
        ("/srv/models/tiny-llama/", "tiny-llama"),
        ("~/tiny-llama", "tiny-llama"),
        ("../secret/tiny-llama", "tiny-llama"),
        ("C:\\models\\tiny-llama", "tiny-llama"),
        (".", ""),
        ("/", ""),
    ],
)
def test_a_recipe_does_not_tell_where_the_model_lies(source: str, name: str) -> None:
    assert public_name(source) == name
    recipe = make_recipe(replace(INFO, ref=schema.ModelRef(source)), TABLE, price(INFO, TABLE, {}), FAMILIES)
    assert recipe.model == (name or INFO.title)


def test_the_versions_of_the_libraries_are_noted() -> None:
    versions = library_versions()
    assert next(iter(versions)) == "quantlens"
    assert {"torch", "transformers", "scipy"} <= set(versions)
    assert all(version[0].isdigit() for version in versions.values())


# --- files


@settings(max_examples=60, deadline=None)
@given(recipes())
def test_a_recipe_comes_back_exactly_from_both_files(recipe: Recipe) -> None:
    for kind in KINDS:
        assert from_text(to_text(recipe, kind), INFO, FAMILIES, {}) == recipe


def test_the_files_are_for_people_too() -> None:
    recipe = made()
    text = to_text(recipe, "json")
    assert text.startswith('{\n  "version": 1,\n  "model": "bundled",')
    assert list(json.loads(text))[-1] == "units"
    text = to_text(recipe, "yaml")
    assert text.startswith("version: 1\nmodel: bundled\n")
    assert list(yaml.safe_load(text))[-1] == "units"
    assert f"  {Q0}:\n    format: int8/g64/asym\n    parameters: {{bits: 8, symmetric: false," in text


def test_a_byte_order_mark_does_no_harm() -> None:
    for kind in KINDS:
        assert from_text("\ufeff" + to_text(made(), kind), INFO, FAMILIES, {}) == made()


# --- files that are refused


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        "a poem",
        "{}",
        '{"name": "left-pad", "version": "1.0.0"}',
        "name: left-pad\nversion: 1.0.0",
        "\x00",
    ],
)
def test_what_is_no_recipe_is_called_that(text: str) -> None:
    assert refusal(text) in (
        "The file is no QuantLens recipe. Choose a recipe saved by QuantLens.",
        "The file is neither JSON nor YAML. Choose a recipe saved by QuantLens.",
    )


def test_a_cut_off_file_is_refused_with_the_line() -> None:
    assert "is no valid JSON" in refusal(to_text(made(), "json")[:1000])
    assert "Line 3 is no valid YAML" in refusal("version: 1\nmodel: x\n  oops: [1\n")


def test_a_depth_that_only_an_attacker_writes_is_refused() -> None:
    for level in ('{"units":', "[", "- "):  # PyYAML's composer ended the whole process on such a file
        assert "Choose a recipe saved by QuantLens." in refusal(level * 300_000)


def test_another_models_recipe_names_both_models() -> None:
    other = replace(INFO, title="Another model", fingerprint="a" * 24)
    assert refusal(data(revision="v2"), other) == (
        "This recipe was made for bundled at v2 (fingerprint ffffffff), and Another model (aaaaaaaa) is open. "
        "Open that model, or solve for a new recipe."
    )


@pytest.mark.parametrize("version", [0, 2, "1", 1.0, True, None])
def test_another_version_is_refused(version: object) -> None:
    assert f"has version {version!r}, and this QuantLens reads version 1." in refusal(data(version=version))


def test_missing_and_unknown_fields_are_named() -> None:
    content = data()
    del content["seed"], content["pins"]
    assert "The recipe lacks 'seed', 'pins'." in refusal(content)
    assert "no recipe field named 'predicted_kk'. Did you mean 'predicted_kl'?" in refusal(
        data(predicted_kk=1)
    )
    assert "required field missing at budget.value." in refusal(data(budget={"kind": "bits"}))
    entry = schema.dump(made().units[Q0])
    del entry["bits"]
    content = data()
    content["units"][Q0] = entry
    assert "required field missing" in refusal(content)
    assert "extra fields found (colour)" in refusal(edited(Q0, colour="red"))


def test_unknown_weights_and_formats_are_answered_with_near_names() -> None:
    content = data()
    content["units"]["model.layers.0.self_attn.q_prj.weight"] = content["units"].pop(Q0)
    assert f"Did you mean '{Q0}'?" in refusal(content)
    assert f"{Q0}: There is no number format named 'int9'." in refusal(edited(Q0, format="int9/g64/asym"))
    assert "int8 has no groups of 48." in refusal(edited(Q0, format="int8/g48/asym"))
    assert "Write its full name, 'int8/g64/asym'." in refusal(edited(Q0, format="int8"))
    content = data()
    del content["units"][Q0]
    assert f"says nothing about '{Q0}'." in refusal(content)
    assert "and 19 more" in refusal(data(units={}))


def test_an_edited_recipe_that_contradicts_itself_is_refused() -> None:
    assert "has parameters that are not those of 'int4/g64/asym'" in refusal(
        edited(Q0, format="int4/g64/asym")
    )
    four = format_parameters(read_name("int4/g64/asym"), FAMILIES, 16)
    assert f"{Q0} has parameters" in refusal(edited(Q0, parameters=four))
    assert "total_bytes is" in refusal(edited(Q0, format="int4/g64/asym", parameters=four, bits=4.3125))
    assert "total_bytes is 1, but its units add up to" in refusal(data(total_bytes=1.0))
    assert "original_bytes is 1," in refusal(data(original_bytes=1.0))
    assert "average_bits is 2, but its units average" in refusal(data(average_bits=2.0))
    assert "predicted_kl is -5, which no divergence can be" in refusal(data(predicted_kl=-5.0))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("average_bits", "4.5"),
        ("average_bits", float("nan")),
        ("predicted_kl", float("inf")),
        ("seed", 1.5),
        ("seed", True),
        ("model", 7),
        ("pins", {"a": 1}),
        ("libraries", []),
        ("units", []),
        ("budget", {"kind": "colour", "value": 1.0}),
        ("measured", {}),
        ("calibration", None),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_value_of_the_wrong_kind_is_refused_at_its_place(kind: str, field: str, value: object) -> None:
    assert field in refusal(data(**{field: value}), kind=kind)


def test_a_key_that_is_there_twice_is_refused() -> None:
    k0 = TABLE.units[1]
    for kind in KINDS:
        assert f"The recipe names '{Q0}' twice." in refusal(to_text(made(), kind).replace(k0, Q0))


def test_yaml_tricks_are_refused() -> None:
    text = to_text(made(), "yaml")
    assert "YAML aliases" in refusal(text.replace("model: bundled", "model: &a bundled\nrevision: *a", 1))
    assert "could not determine a constructor" in refusal(
        text.replace("bundled", "!!python/name:os.system", 1)
    )


# --- presets


def test_presets_decide_what_the_table_decides() -> None:
    assert uniform(INFO, TABLE, "nf4/g64") == dict.fromkeys(TABLE.units, "nf4/g64")
    edges = first_and_last_at(INFO, TABLE, "int8/g64/asym", "int4/g64/asym")
    assert {unit.block for unit in INFO.units if edges.get(unit.name) == "int8/g64/asym"} == {0, 2}
    assert {unit.block for unit in INFO.units if edges.get(unit.name) == "int4/g64/asym"} == {1}
    with pytest.raises(FormatError, match=r"Did you mean 'nf4/g64'"):
        uniform(INFO, TABLE, "nf4/g46")


def test_an_embedding_that_is_decided_goes_with_the_edges() -> None:
    info = replace(INFO, units=tuple(replace(unit, decided=True) for unit in INFO.units))
    edges = first_and_last_at(info, made_results.table(info), "int8/g64/asym", "int4/g64/asym")
    assert edges["model.embed_tokens.weight"] == "int8/g64/asym"
