"""llama.cpp's mixes (Q4_K_M and its kin) as recipes: which weight gets which type, by rule.

A mix is a type for most weights and a better one for those that were found to matter: values (``attn_v``), the FFN's
second matrix (``ffn_down``), more so in the first and the last eighth of the blocks, and the output matrix. The rules
are those of ``llama_tensor_get_type_impl`` in llama.cpp's ``src/llama-quant.cpp`` (2026), for models of which llama.cpp
names the tensors alike: Llama and its kin, GPT-2 (whose fused q/k/v follow the rule of the values), Mixtral (each
expert as its block's stacked tensor). OPT, which llama.cpp does not run, goes by what its weights do. Kawrakow 2023,
llama.cpp pull request 1684.
"""

from __future__ import annotations

from collections.abc import Mapping

from quant_core import costs
from quant_core.errors import FormatError
from quant_core.names import read_name
from quant_core.registry import unknown_name
from quant_core.schema import ORIGINAL, FamilyInfo, ModelInfo, Unit

MIXES = {
    "q2_k": "q2_k",
    "q3_k_s": "q3_k",
    "q3_k_m": "q3_k",
    "q3_k_l": "q3_k",
    "q4_k_s": "q4_k",
    "q4_k_m": "q4_k",
    "q5_k_s": "q5_k",
    "q5_k_m": "q5_k",
    "q6_k": "q6_k",
}
"""Mixes by name, with the type of most weights."""
PLAIN = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
"""Types that ``llama-quantize`` gives to all weights but the output matrix (and to some where there are 8 experts)."""
_TYPES = MIXES | {name: name for name in PLAIN}

_TENSORS = {
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "c_attn": "attn_v",
    "qkv_proj": "attn_v",
    "query_key_value": "attn_v",
    "o_proj": "attn_output",
    "out_proj": "attn_output",
    "attn.c_proj": "attn_output",
    "down_proj": "ffn_down",
    "fc2": "ffn_down",
    "mlp.c_proj": "ffn_down",
}
"""What llama.cpp calls the weights that some mix treats apart, by role; those that fuse the values go with them."""

_FALLBACK = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
"""Types in blocks of 256, and which one in blocks of 32 takes their place where 256 do not divide the row."""


def gguf_mix(info: ModelInfo, mix: str) -> dict[str, str]:
    """Every weight of a model, embedding and head included, by name, in the type that ``llama-quantize`` gives it.

    Rows that no block of 256 divides get the smaller blocks that llama.cpp falls back to, and rows that 32 do not
    divide stay as they are.

    Args:
        info: The model.
        mix: One of ``MIXES`` or ``PLAIN``.

    Returns:
        Full format names by unit.

    Raises:
        FormatError: There is no such mix, or llama.cpp has other rules for this architecture.
    """
    if mix not in _TYPES:
        error = unknown_name("llama.cpp mix", mix, list(MIXES))
        raise FormatError(error.message, error.hint)
    if info.architecture.startswith(("FalconFor", "RWFor")):
        raise FormatError(
            f"llama.cpp has rules of its own for {info.architecture}, which QuantLens does not know.",
            "Choose formats by budget, or one for all weights.",
        )
    values = [unit for unit in info.units if _tensor(unit) == "attn_v"]
    order = {block: place for place, block in enumerate(sorted({unit.block for unit in values}))}
    heads, experts = _shared_heads(info), _experts(info)
    tied = not any(unit.kind == "head" for unit in info.units)
    chosen = {}
    for unit in info.units:
        tensor = _tensor(unit)
        if unit.kind == "head" or (unit.kind == "embedding" and tied):
            form = "q8_0" if unit.columns % 256 or mix == "q8_0" else "q6_k"
        elif tensor == "attn_v":
            form = _attn_v(mix, order[unit.block], len(order), heads)
            form = "q5_k" if info.blocks == 80 and form in ("q3_k", "q4_k") else form  # llama.cpp's 70B
            form = "q8_0" if experts == 8 else form
        elif tensor == "attn_k":
            form = "q8_0" if experts == 8 else _TYPES[mix]
        elif tensor == "attn_output":
            form = _attn_output(mix, experts)
        elif tensor == "ffn_down":
            form = _ffn_down(mix, unit.block, info.blocks)
        else:
            form = _TYPES[mix]
        chosen[unit.name] = fitting(form, unit.columns)
    return chosen


def stored_bits(
    info: ModelInfo, assignment: Mapping[str, str], families: Mapping[str, FamilyInfo]
) -> dict[str, int]:
    """Bits that every weight of a model takes under an assignment, by name; one that is not named stays as it is.

    Args:
        info: The model.
        assignment: Full format names by unit.
        families: The known families of number formats.
    """
    bits = {}
    for unit in info.units:
        spec = read_name(assignment.get(unit.name, ORIGINAL))
        if spec.family == ORIGINAL:
            bits[unit.name] = unit.parameters * unit.bits
            continue
        family = families[spec.family]
        bits[unit.name] = costs.storage(family, spec, unit.rows, unit.columns, unit.bits).total
    return bits


def use_more_bits(place: int, count: int) -> bool:
    """Whether a block is in the first or the last eighth, or every third between: llama.cpp's rule of the same name."""
    return place < count // 8 or place >= 7 * count // 8 or (place - count // 8) % 3 == 2


def _attn_v(mix: str, place: int, count: int, heads: int) -> str:
    """The type of the values of the ``place``-th of ``count`` blocks, ``heads`` of whose queries share a key."""
    rules = {
        "q2_k": "q4_k" if heads >= 4 else "q3_k",
        "q3_k_m": "q5_k" if place < 2 else "q4_k",
        "q3_k_l": "q5_k",
        "q4_k_s": "q5_k" if place < 4 else "q4_k",
        "q4_k_m": "q6_k" if use_more_bits(place, count) else "q4_k",
        "q5_k_m": "q6_k" if use_more_bits(place, count) else "q5_k",
    }
    return rules.get(mix, _TYPES[mix])


def _attn_output(mix: str, experts: int) -> str:
    if experts == 8:
        return "q5_k" if mix in ("q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m") else _TYPES[mix]
    return {"q2_k": "q3_k", "q3_k_m": "q4_k", "q3_k_l": "q5_k"}.get(mix, _TYPES[mix])


def _ffn_down(mix: str, block: int, blocks: int) -> str:
    rules = {
        "q2_k": "q3_k",
        "q3_k_m": "q5_k" if block < blocks // 16 else "q4_k",
        "q3_k_l": "q5_k",
        "q4_k_s": "q5_k" if block < blocks // 8 else "q4_k",
        "q4_k_m": "q6_k" if use_more_bits(block, blocks) else "q4_k",
        "q5_k_m": "q6_k" if use_more_bits(block, blocks) else "q5_k",
    }
    return rules.get(mix, _TYPES[mix])


def _tensor(unit: Unit) -> str:
    """What llama.cpp calls a weight, if some mix treats it apart; else empty."""
    return "" if unit.block < 0 else _TENSORS.get(unit.role.split("[")[0], "")


def _shared_heads(info: ModelInfo) -> int:
    """How many query heads share a key head: rows of q over rows of k, 1 where both are not to be seen."""
    rows = {unit.role: unit.rows for unit in info.units}
    return rows["q_proj"] // rows["k_proj"] if "q_proj" in rows and "k_proj" in rows else 1


def _experts(info: ModelInfo) -> int:
    """How many experts a block has, 0 if none."""
    return len({unit.role for unit in info.units if unit.kind == "expert" and unit.role.startswith("down")})


def fitting(form: str, columns: int) -> str:
    """The type, or what llama.cpp falls back to where its blocks do not divide a row."""
    if form in _FALLBACK and columns % 256:
        form = _FALLBACK[form]
    return ORIGINAL if columns % 32 else form
