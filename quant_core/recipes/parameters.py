"""A number format spelled out, so that a program that knows nothing of QuantLens can apply a recipe."""

from __future__ import annotations

import re

from quant_core.schema import ORIGINAL, FormatSpec, Plain


def format_parameters(spec: FormatSpec, original_bits: int) -> dict[str, Plain]:
    """What a recipe says about a format beside its name.

    ``bits`` are those of a code. Groups run along the inputs, ``channel`` is one scale an output. A group size is 0
    where there are no groups, and ``zero_point_bits`` is 0 where zero points are not stored.

    Args:
        spec: The format.
        original_bits: Bits a value of the weight in the checkpoint.
    """
    integer = re.fullmatch(r"int([0-9]+)", spec.family)
    if integer:
        return {
            "bits": int(integer[1]),
            "symmetric": spec.symmetry == "sym",
            "granularity": spec.granularity,
            "group_size": spec.group_size,
            "scale_dtype": "float16",
            "zero_point_bits": 0 if spec.symmetry == "sym" else int(integer[1]),
        }
    if spec.family == "nf4":
        return {"bits": 4, "group_size": spec.group_size, "scale_dtype": "float32", "codebook": "nf4"}
    if spec.family == "fp8_e4m3":
        return {"bits": 8, "granularity": spec.granularity, "scale_dtype": "float32"}
    if spec.family == ORIGINAL:
        return {"bits": original_bits}
    return {"granularity": spec.granularity, "group_size": spec.group_size, "symmetry": spec.symmetry}
