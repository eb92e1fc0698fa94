"""llama.cpp's mixes as recipes: hand-checked against its rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quant_core.errors import FormatError
from quant_core.formats import infos
from quant_core.models.loading import LoadedModel
from quant_core.names import parse_format
from quant_core.recipes import MIXES, gguf_mix, stored_bits, tensor_types
from quant_core.recipes.gguf_mixes import use_more_bits
from quant_core.schema import ORIGINAL, ModelInfo, Unit
from tests import made_results

ROLES = {"q_proj": 4096, "k_proj": 1024, "v_proj": 1024, "o_proj": 4096, "gate_proj": 14336, "up_proj": 14336}


def llama(blocks: int = 32, *, key_rows: int = 1024, tied: bool = False, experts: int = 0) -> ModelInfo:
    """The shapes of Llama 3 8B, or of Mixtral with ``experts``."""
    units = [Unit("embed", -1, "embed_tokens", "embedding", 128256, 4096, 16, False)]
    if tied:
        units[0] = replace(units[0], tied=("lm_head.weight",))
    else:
        units.append(Unit("head", -1, "lm_head", "head", 128256, 4096, 16, False))
    for block in range(blocks):
        for role, rows in ROLES.items():
            if experts and role in ("gate_proj", "up_proj"):
                continue
            count = key_rows if role in ("k_proj", "v_proj") else rows
            units.append(Unit(f"{block}.{role}", block, role, "linear", count, 4096, 16, True))
        if not experts:
            units.append(Unit(f"{block}.down_proj", block, "down_proj", "linear", 4096, 14336, 16, True))
        for expert in range(experts):
            for role, rows, columns in (("gate_up_proj", 28672, 4096), ("down_proj", 4096, 14336)):
                name = f"{role}[{expert}]"
                units.append(Unit(f"{block}.{name}", block, name, "expert", rows, columns, 16, True))
    return replace(made_results.model(), units=tuple(units), blocks=blocks, hidden_size=4096)


def blocks_at(assignment: dict[str, str], role: str, form: str) -> list[int]:
    return [
        int(name.split(".")[0])
        for name, given in assignment.items()
        if name.endswith(f".{role}") and given == form
    ]


MORE_OF_32 = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
"""The first and last four of 32 blocks, and every third between, from the seventh on."""


@pytest.mark.parametrize(("mix", "base"), [("q4_k_m", "q4_k"), ("q5_k_m", "q5_k")])
def test_the_m_mixes_of_a_llama_with_32_blocks(mix: str, base: str) -> None:
    assignment = gguf_mix(llama(), mix)
    for role in ("v_proj", "down_proj"):
        assert blocks_at(assignment, role, "q6_k") == MORE_OF_32
        assert len(blocks_at(assignment, role, base)) == 16
    for role in ("q_proj", "k_proj", "o_proj", "gate_proj", "up_proj"):
        assert len(blocks_at(assignment, role, base)) == 32
    assert assignment["embed"] == base
    assert assignment["head"] == "q6_k"


# Bits a weight of Llama 3.1 8B, from the table in llama.cpp's tools/quantize/README.md; what else is in the files
# (norms in 32 bits, the tokenizer) adds 0.001 to each.
PUBLISHED = {
    "q2_k": 3.1593,
    "q3_k_s": 3.6429,
    "q3_k_l": 4.2979,
    "q4_k_s": 4.6672,
    "q4_k_m": 4.8944,
    "q5_k_s": 5.5704,
    "q5_k_m": 5.7036,
    "q6_k": 6.5633,
}


@pytest.mark.parametrize(("mix", "published"), PUBLISHED.items())
def test_sizes_of_llama_3_8b_are_those_that_llama_cpp_publishes(mix: str, published: float) -> None:
    info = llama()
    bits = stored_bits(info, gguf_mix(info, mix), infos())
    average = sum(bits.values()) / sum(unit.parameters for unit in info.units)
    assert published - 0.0012 < average < published


def test_q4_k_s() -> None:
    assignment = gguf_mix(llama(), "q4_k_s")
    assert blocks_at(assignment, "v_proj", "q5_k") == [0, 1, 2, 3]
    assert blocks_at(assignment, "down_proj", "q5_k") == [0, 1, 2, 3]
    assert set(assignment.values()) == {"q4_k", "q5_k", "q6_k"}


def test_the_q3_mixes() -> None:
    medium, large, small = (gguf_mix(llama(), f"q3_k_{size}") for size in "mls")
    assert blocks_at(medium, "v_proj", "q5_k") == [0, 1]
    assert len(blocks_at(medium, "v_proj", "q4_k")) == 30
    assert blocks_at(medium, "down_proj", "q5_k") == [0, 1]
    assert len(blocks_at(medium, "down_proj", "q4_k")) == 30
    assert len(blocks_at(medium, "o_proj", "q4_k")) == 32
    for role in ("v_proj", "down_proj", "o_proj"):
        assert len(blocks_at(large, role, "q5_k")) == 32
        assert len(blocks_at(small, role, "q3_k")) == 32
    assert {mixed["head"] for mixed in (small, medium, large)} == {"q6_k"}


def test_q2_k_looks_at_shared_heads() -> None:
    """Four queries a key and more: values in Q4_K, else in Q3_K."""
    shared, own = gguf_mix(llama(), "q2_k"), gguf_mix(llama(key_rows=4096), "q2_k")
    assert len(blocks_at(shared, "v_proj", "q4_k")) == 32
    assert len(blocks_at(own, "v_proj", "q3_k")) == 32
    for role in ("o_proj", "down_proj"):
        assert len(blocks_at(shared, role, "q3_k")) == 32
    assert len(blocks_at(shared, "q_proj", "q2_k")) == 32


@pytest.mark.parametrize("mix", ["q5_k_s", "q6_k"])
def test_mixes_of_one_type(mix: str) -> None:
    assignment = gguf_mix(llama(), mix)
    assert assignment.pop("head") == "q6_k"
    assert set(assignment.values()) == {MIXES[mix]}


def test_a_tied_embedding_is_the_output() -> None:
    assert gguf_mix(llama(tied=True), "q3_k_m")["embed"] == "q6_k"


def test_eight_experts() -> None:
    """Keys and values are small beside eight experts, and go to Q8_0; all experts of a block share a type."""
    assignment = gguf_mix(llama(experts=8), "q4_k_m")
    for role in ("k_proj", "v_proj"):
        assert len(blocks_at(assignment, role, "q8_0")) == 32
    assert len(blocks_at(assignment, "o_proj", "q5_k")) == 32
    for expert in (0, 7):
        assert blocks_at(assignment, f"down_proj[{expert}]", "q6_k") == MORE_OF_32
        assert len(blocks_at(assignment, f"gate_up_proj[{expert}]", "q4_k")) == 32
    four = gguf_mix(llama(experts=4), "q4_k_m")
    assert blocks_at(four, "v_proj", "q6_k") == MORE_OF_32


def test_a_model_of_80_blocks_keeps_its_values() -> None:
    assignment = gguf_mix(llama(80), "q3_k_m")
    assert len(blocks_at(assignment, "v_proj", "q5_k")) == 80
    assert blocks_at(assignment, "down_proj", "q5_k") == [0, 1, 2, 3, 4]


def test_use_more_bits_of_eight_blocks() -> None:
    """One eighth is one block: 0 and 7, and 3, 6 between."""
    assert [place for place in range(8) if use_more_bits(place, 8)] == [0, 3, 6, 7]


@pytest.mark.parametrize(
    ("mix", "small"), [("q4_k_m", "q5_0"), ("q5_k_s", "q5_1"), ("q6_k", "q8_0"), ("q2_k", "q4_0")]
)
def test_rows_that_256_do_not_divide_fall_back(mix: str, small: str) -> None:
    info = llama(2, tied=True)
    narrow = replace(info, units=tuple(replace(unit, columns=896) for unit in info.units))
    assignment = gguf_mix(narrow, mix)
    assert assignment["0.q_proj"] == small
    assert assignment["embed"] == "q8_0"
    odd = replace(info, units=tuple(replace(unit, columns=100) for unit in info.units))
    assert set(gguf_mix(odd, mix).values()) == {ORIGINAL}


@pytest.mark.parametrize("mix", MIXES)
def test_every_architecture_gets_known_formats_and_sizes(tiny: LoadedModel, mix: str) -> None:
    info = tiny.info
    assignment = gguf_mix(info, mix)
    assert list(assignment) == [unit.name for unit in info.units]
    assert all(parse_format(form, infos()).name == form for form in assignment.values())
    bits = stored_bits(info, assignment, infos())
    assert sum(bits.values()) < sum(unit.parameters * unit.bits for unit in info.units)
    assert stored_bits(info, {}, infos()) == {unit.name: unit.parameters * unit.bits for unit in info.units}


def test_gpt2s_fused_weight_goes_with_the_values() -> None:
    """Its name holds attn_qkv, which the rule of the values takes."""
    roles = {"c_attn": 2304, "attn.c_proj": 768, "c_fc": 3072, "mlp.c_proj": 768}
    units = tuple(
        Unit(f"{block}.{role}", block, role, "conv1d", rows, 3072 if role == "mlp.c_proj" else 768, 16, True)
        for block in range(12)
        for role, rows in roles.items()
    )
    info = replace(made_results.model(), units=units, blocks=12, architecture="GPT2LMHeadModel")
    assignment = gguf_mix(info, "q4_k_m")
    more = [0, 3, 6, 9, 10, 11]  # 12 // 8 = 1, 7 * 12 // 8 = 10
    assert blocks_at(assignment, "c_attn", "q6_k") == more
    assert blocks_at(assignment, "mlp.c_proj", "q6_k") == more
    assert len(blocks_at(gguf_mix(info, "q3_k_m"), "attn.c_proj", "q4_k")) == 12


def test_refusals() -> None:
    with pytest.raises(FormatError, match="q4_k_xl"):
        gguf_mix(llama(1), "q4_k_xl")
    with pytest.raises(FormatError, match="rules of its own for FalconForCausalLM"):
        gguf_mix(replace(llama(1), architecture="FalconForCausalLM"), "q4_k_m")


def test_lines_for_llama_quantize() -> None:
    info = llama(1, experts=2)
    chosen = {"embed": "q6_k", "0.q_proj": "q4_k@gptq", "0.down_proj[0]": "mxfp4", "0.down_proj[1]": "mxfp4"}
    lines = tensor_types(info, chosen)
    assert lines[:3] == (
        "--token-embedding-type q6_k",
        "--output-tensor-type bf16",
        '--tensor-type "^blk\\.0\\.attn_q\\.weight$=q4_k"',
    )
    assert '--tensor-type "^blk\\.0\\.ffn_gate_exps\\.weight$=bf16"' in lines
    assert lines[-1] == '--tensor-type "^blk\\.0\\.ffn_down_exps\\.weight$=mxfp4"'
    assert len(lines) == len(set(lines)) == 2 + 4 + 3
    tied = tensor_types(llama(1, tied=True), {"embed": "q8_0"})
    assert {"--token-embedding-type q8_0", "--output-tensor-type q8_0"} < set(tied)


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [({"0.q_proj": "int4/g32/sym"}, "no type int4"), ({"0.down_proj[0]": "q4_k"}, "experts of 0.down_proj")],
)
def test_what_llama_quantize_cannot_be_told(chosen: dict[str, str], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        tensor_types(llama(1, experts=2), chosen)
