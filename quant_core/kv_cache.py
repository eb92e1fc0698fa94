"""Quantized KV caches: their names, and what they take in bits; free of torch, for the server and the worker.

A cached key or value of one token in one head is a row of ``head_dim`` numbers. It is rounded as a row of a weight
is, by a number format, with a scale (and zero point) of its own or several for groups along it. So the cost of a row
is the cost of a weight of one row: an ``int4`` row of 64 takes 64 x 4 bits, 16 for its scale and 4 for its zero point.

Sheng et al. 2023, "FlexGen" (arXiv:2303.06865), section 5, rounds the cache in groups; Liu et al. 2024, "KIVI"
(arXiv:2402.02750), shows that keys do better with a scale a channel shared by 32 or more tokens, which needs a tail
of tokens in 16 bits until a group is full. Here keys and values both have their scales by token, so that a token is
rounded once, the same way whether the text comes at once or token by token.
"""

from __future__ import annotations

from collections.abc import Mapping

from quant_core import costs
from quant_core.names import method_options, parse_format, parse_scheme
from quant_core.schema import FamilyInfo, FormatSpec, MethodInfo, Option

_GROUP = Option(
    "group",
    "Values a scale",
    "How many neighbouring values of a head share a scale: the whole head, or groups of this many.",
    ("head", "64", "32"),
)
KV_CACHES = {
    info.name: info
    for info in (
        MethodInfo(
            "int8",
            "INT8 KV cache",
            "256 evenly spaced values a head and token, with a 16-bit scale and a zero point; hardly ever seen.",
            "Sheng et al. 2023, arXiv:2303.06865",
            options=(_GROUP,),
        ),
        MethodInfo(
            "int4",
            "INT4 KV cache",
            "16 evenly spaced values a head and token, with a 16-bit scale and a zero point; a quarter of the size.",
            "Liu et al. 2024, arXiv:2402.02750",
            options=(_GROUP,),
        ),
        MethodInfo(
            "fp8",
            "FP8 KV cache",
            "FP8 E4M3 with a 32-bit scale a head and token.",
            "Micikevicius et al. 2022, arXiv:2209.05433",
        ),
    )
}
"""What a KV cache can be held in, by name."""
_FORMATS = {"int8": "int8/{}/asym", "int4": "int4/{}/asym", "fp8": "fp8_e4m3/{}"}


def kv_format(text: str, families: Mapping[str, FamilyInfo]) -> FormatSpec:
    """The number format that the rows (token x head, head_dim) of a cache named ``text`` are rounded to.

    Raises:
        FormatError: There is no such cache, or it has no such option.
    """
    name = parse_scheme(text, KV_CACHES, "KV cache")
    kind = name.split(":", maxsplit=1)[0]
    group = method_options(name, KV_CACHES[kind]).get("group", "head")
    return parse_format(_FORMATS[kind].format("channel" if group == "head" else f"g{group}"), families)


def kv_bits(text: str, head_dim: int, families: Mapping[str, FamilyInfo], original_bits: int = 16) -> float:
    """Bits that a cached value takes, its share of scales and zero points included.

    Args:
        text: The cache's name; empty for one that is not quantized.
        head_dim: Values a head has for one token.
        families: The families of number formats, by name.
        original_bits: Bits a value takes in a cache that is not quantized.
    """
    if not text:
        return float(original_bits)
    spec = kv_format(text, families)
    return costs.storage(families[spec.family], spec, 1, head_dim, original_bits).total / head_dim
