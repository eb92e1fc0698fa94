"""Names of formats: what may be typed, what it means, and what is refused."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_core.errors import FormatError
from quant_core.names import parse_format, read_name, unknown_weight
from quant_core.schema import ORIGINAL, FamilyInfo, FormatSpec

INTEGERS = tuple(
    FamilyInfo(f"int{bits}", "", "", "", ("tensor", "channel", "group"), (32, 64, 128), ("asym", "sym"),
               "g{group}/asym", bits, 16)
    for bits in (2, 3, 4, 5, 6, 8)
)  # fmt: skip
FAMILIES = {
    family.name: family
    for family in (
        *INTEGERS,
        FamilyInfo("nf4", "", "", "", ("group",), (32, 64, 128, 256), (), "g{group}", 4, 32),
        FamilyInfo("fp8_e4m3", "", "", "", ("channel", "tensor"), (), (), "channel", 8, 32),
        FamilyInfo(ORIGINAL, "", "", "", ("none",), (), (), "", 0, 0),
    )
}


def every_spec() -> list[FormatSpec]:
    """Every format the families offer."""
    specs = []
    for family in FAMILIES.values():
        for granularity in family.granularities:
            for size in family.group_sizes if granularity == "group" else (0,):
                bare = FormatSpec(family.name, granularity, size)
                specs += [replace(bare, symmetry=symmetry) for symmetry in family.symmetries] or [bare]
    return specs


@given(st.sampled_from(every_spec()))
def test_a_full_name_parses_back(spec: FormatSpec) -> None:
    assert parse_format(spec.name, FAMILIES) == spec
    assert read_name(spec.name) == spec


@given(st.sampled_from(every_spec()), st.randoms(), st.booleans())
def test_order_and_case_do_not_matter(spec: FormatSpec, dice: random.Random, upper: bool) -> None:
    family, *parts = spec.name.split("/")
    dice.shuffle(parts)
    text = "/".join([family, *parts])
    assert parse_format(f" {text.upper()} " if upper else text, FAMILIES) == spec


@pytest.mark.parametrize(
    ("text", "group", "name"),
    [
        ("int4", 64, "int4/g64/asym"),
        ("int4", 128, "int4/g128/asym"),
        ("int4/g128", 64, "int4/g128/asym"),
        ("int4/channel", 64, "int4/channel/asym"),
        ("int4/sym", 32, "int4/g32/sym"),
        ("INT8/Sym/Tensor", 64, "int8/tensor/sym"),
        ("nf4", 128, "nf4/g128"),
        ("fp8", 64, "fp8_e4m3/channel"),
        ("fp8/tensor", 64, "fp8_e4m3/tensor"),
        ("Original", 64, "original"),
    ],
)
def test_what_is_left_out_is_the_default(text: str, group: int, name: str) -> None:
    assert parse_format(text, FAMILIES, group).name == name


def test_original_needs_no_family() -> None:
    assert parse_format("original", {}) == FormatSpec(ORIGINAL)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("int7", "no number format named 'int7'. Did you mean 'int"),
        ("fp8_e4m4", "Did you mean 'fp8_e4m3'?"),
        ("none", "no number format named 'none'."),
        ("bf16", "no number format named 'bf16'."),
        ("fp16", "no number format named 'fp16'."),
        ("", "no number format named ''."),
        ("int4/g48", "int4 has no groups of 48. int4 takes tensor, channel, g32, g64, g128; asym or sym."),
        ("int4/row", "'row' does not fit there. int4 takes"),
        ("int4/g64/g32", "'g32' does not fit there."),
        ("int4/sym/asym", "'asym' does not fit there."),
        ("int4/g64/asym/extra", "'extra' does not fit there."),
        ("int4/", "'' does not fit there."),
        ("nf4/channel", "nf4 has no granularity 'channel'. nf4 takes g32, g64, g128, g256."),
        ("nf4/sym", "nf4 has no symmetry 'sym'."),
        ("fp8/g64", "fp8_e4m3 has no granularity 'group'. fp8_e4m3 takes channel, tensor."),
        ("original/g64", "'original' has no granularity or symmetry."),
    ],
)
def test_a_wrong_name_is_answered_with_what_is_allowed(text: str, sentence: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_format(text, FAMILIES)
    assert sentence in str(caught.value)


def test_a_group_size_that_no_format_has_is_refused_for_the_default_too() -> None:
    with pytest.raises(FormatError, match="int4 has no groups of 48"):
        parse_format("int4", FAMILIES, group=48)


@pytest.mark.parametrize("name", ["int4/asym/g64", "int4/g064", "", "/g64", "int4/none", "int4/g64/asym/x"])
def test_only_full_names_are_read_as_such(name: str) -> None:
    with pytest.raises(FormatError):
        read_name(name)


@given(st.text(max_size=30))
def test_any_text_is_a_format_or_an_error(text: str) -> None:
    with contextlib.suppress(FormatError):
        spec = parse_format(text, FAMILIES)
        assert parse_format(spec.name, FAMILIES) == spec


def test_an_unknown_weight_is_answered_with_a_name() -> None:
    weights = [f"model.layers.{index}.mlp.up_proj.weight" for index in range(300)]
    assert "Did you mean" in unknown_weight("model.layers.3.mlp.up_prj.weight", weights).hint
    assert unknown_weight("x", weights).hint == "Names look like 'model.layers.0.mlp.up_proj.weight'."
