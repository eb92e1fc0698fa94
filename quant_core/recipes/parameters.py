"""A number format spelled out, so that a program that knows nothing of QuantLens can apply a recipe."""

from __future__ import annotations

from collections.abc import Mapping

from quant_core.schema import ORIGINAL, FamilyInfo, FormatSpec, Plain


def format_parameters(
    spec: FormatSpec, families: Mapping[str, FamilyInfo], original_bits: int
) -> dict[str, Plain]:
    """What a recipe says about a format beside its name.

    ``bits`` are those of a code. Groups run along the inputs, ``channel`` is one scale an output, ``block`` one a
    square of ``group_size``. A group size is 0 where there are no groups, and ``zero_point_bits`` is 0 where zero
    points are not stored.

    Args:
        spec: The format.
        families: The known families; ``original`` need not be among them.
        original_bits: Bits a value of the weight in the checkpoint.
    """
    if spec.family == ORIGINAL:
        return {"bits": original_bits}
    family = families[spec.family]
    said: dict[str, Plain] = {"bits": family.value_bits}
    if family.pack > 1:
        said["values_per_code"] = family.pack
    if family.symmetries:
        said["symmetric"] = spec.symmetry == "sym"
        said["zero_point_bits"] = {"asym": family.value_bits, "float": 16}.get(spec.symmetry, 0)
    said["granularity"] = "group" if family.block else spec.granularity
    said["group_size"] = spec.group_size or family.block
    said |= family.details
    if spec.double:
        said["double_quantization"] = True
    if spec.keep:
        said["kept_in_16_bits_per_mille"] = spec.keep
    if spec.method:
        said["rounding"] = spec.method
    return said
