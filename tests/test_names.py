"""Names of formats: what may be typed, what it means, and what is refused."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_core.errors import FormatError
from quant_core.names import KEEP, SQUARE, parse_format, read_name, unknown_weight
from quant_core.schema import ORIGINAL, FamilyInfo, FormatSpec, MethodInfo, Option

INTEGERS = tuple(
    FamilyInfo(f"int{bits}", "", "", "", ("tensor", "channel", "group"), (32, 64, 128),
               ("asym", "sym", "float"), "g{group}/asym", bits, 16, details={"scale_dtype": "float16"})
    for bits in (2, 3, 4, 5, 6, 8)
)  # fmt: skip
INT_NAMES = {family.name for family in INTEGERS}
FAMILIES = {
    family.name: family
    for family in (
        *INTEGERS,
        FamilyInfo("nf4", "", "", "", ("group",), (32, 64, 128, 256), (), "g{group}", 4, 32, double=True),
        FamilyInfo("fp8_e4m3", "", "", "", ("channel", "tensor", "block"), (), (), "channel", 8, 32),
        FamilyInfo("five", "", "", "", ("none",), (), (), "", 8, 16, pack=5, block=32),
        FamilyInfo(ORIGINAL, "", "", "", ("none",), (), (), "", 0, 0),
    )
}


METHODS = {
    "gptq": MethodInfo(
        "gptq", "GPTQ", "", "", tuple(family.name for family in INTEGERS), {"nf4": "Its values are not even."},
        options=(Option("order", "Order", "", ("activation", "none")), Option("damping", "", "", ("0.01", "0.1"))),
    ),
    "hqq": MethodInfo("hqq", "HQQ", "", "", ("int4",)),
}  # fmt: skip


def every_spec() -> list[FormatSpec]:
    """Every format the families offer, to nearest, and some more."""
    specs = []
    for family in FAMILIES.values():
        for granularity in family.granularities:
            sizes = {"group": family.group_sizes, "block": (SQUARE,)}.get(granularity, (0,))
            for size in sizes:
                bare = FormatSpec(family.name, granularity, size)
                specs += [replace(bare, symmetry=symmetry) for symmetry in family.symmetries] or [bare]
    specs += [replace(spec, double=True) for spec in specs if FAMILIES[spec.family].double]
    specs += [replace(spec, keep=keep) for spec in specs[::5] for keep in KEEP if spec.family != ORIGINAL]
    return specs + [
        replace(spec, method="gptq:damping=0.1") for spec in specs[::7] if spec.family in INT_NAMES
    ]


@given(st.sampled_from(every_spec()))
def test_a_full_name_parses_back(spec: FormatSpec) -> None:
    assert parse_format(spec.name, FAMILIES, methods=METHODS) == spec
    assert read_name(spec.name) == spec


@given(st.sampled_from(every_spec()), st.randoms(), st.booleans())
def test_order_and_case_do_not_matter(spec: FormatSpec, dice: random.Random, upper: bool) -> None:
    form, at, method = spec.name.partition("@")
    family, *parts = form.split("/")
    dice.shuffle(parts)
    text = "/".join([family, *parts]) + at + method
    assert parse_format(f" {text.upper()} " if upper else text, FAMILIES, methods=METHODS) == spec


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
        ("fp8/b128", 64, "fp8_e4m3/b128"),
        ("nf4/DQ", 64, "nf4/g64/dq"),
        ("int3/keep0.5/float", 64, "int3/g64/float/keep0.5"),
        ("five", 64, "five"),
        ("int4@nearest", 64, "int4/g64/asym"),
        ("int4@GPTQ", 64, "int4/g64/asym@gptq"),
        ("int4@gptq:damping=0.1:order=none", 64, "int4/g64/asym@gptq:order=none:damping=0.1"),
        ("int4@gptq:order=activation:damping=0.01", 64, "int4/g64/asym@gptq"),
        ("Original", 64, "original"),
    ],
)
def test_what_is_left_out_is_the_default(text: str, group: int, name: str) -> None:
    assert parse_format(text, FAMILIES, group, METHODS).name == name


def test_original_needs_no_family() -> None:
    assert parse_format("original", {}) == FormatSpec(ORIGINAL)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("int9", "no number format named 'int9'. Did you mean 'int"),
        ("fp8_e4m4", "Did you mean 'fp8_e4m3'?"),
        ("none", "no number format named 'none'."),
        ("bf16", "no number format named 'bf16'."),
        ("fp16", "no number format named 'fp16'."),
        ("", "no number format named ''."),
        (
            "int4/g48",
            "int4 has no groups of 48. int4 takes tensor, channel, g32, g64, g128; asym or sym or float.",
        ),
        ("int4/row", "'row' does not fit there. int4 takes"),
        ("int4/g64/g32", "'g32' does not fit there."),
        ("int4/sym/asym", "'asym' does not fit there."),
        ("int4/g64/asym/extra", "'extra' does not fit there."),
        ("int4/", "'' does not fit there."),
        ("nf4/channel", "nf4 has no granularity 'channel'. nf4 takes g32, g64, g128, g256; dq."),
        ("nf4/sym", "nf4 has no symmetry 'sym'."),
        ("fp8/g64", "fp8_e4m3 has no granularity 'group'. fp8_e4m3 takes channel, tensor, b128."),
        ("fp8/b64", "fp8_e4m3 has no squares of 64."),
        ("int4/dq", "int4 does not quantize its scales."),
        ("int4/keep0.3", "'keep0.3' does not fit there."),
        ("five/g64", "five has no granularity 'group'. five takes no granularity."),
        ("int4@gpt", "no rounding method named 'gpt'. Did you mean 'gptq'?"),
        ("int2@hqq", "HQQ cannot round to int2. It works with int4."),
        ("nf4@gptq", "GPTQ cannot round to nf4. Its values are not even."),
        ("int4@gptq:size=3", "GPTQ has no option 'size'. It has order, damping."),
        ("int4@gptq:order=up", "GPTQ has no order 'up'. It takes activation, none."),
        ("int4@hqq:order=up", "HQQ has no option 'order'. It has none."),
        ("original@gptq", "'original' has no granularity, symmetry or method."),
        ("original/g64", "'original' has no granularity, symmetry or method."),
    ],
)
def test_a_wrong_name_is_answered_with_what_is_allowed(text: str, sentence: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_format(text, FAMILIES, methods=METHODS)
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
        spec = parse_format(text, FAMILIES, methods=METHODS)
        assert parse_format(spec.name, FAMILIES, methods=METHODS) == spec


def test_an_unknown_weight_is_answered_with_a_name() -> None:
    weights = [f"model.layers.{index}.mlp.up_proj.weight" for index in range(300)]
    assert "Did you mean" in unknown_weight("model.layers.3.mlp.up_prj.weight", weights).hint
    assert unknown_weight("x", weights).hint == "Names look like 'model.layers.0.mlp.up_proj.weight'."
