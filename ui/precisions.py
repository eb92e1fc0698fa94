"""What a weight takes in a uniform format, before any layer has been scored: for the memory overview.

Codes plus the group's scale and, for asymmetric integers, its zero point (as wide as a code). Groups
that do not divide a row are padded; the padding is not counted here, as score tables count it exactly.
"""

from __future__ import annotations

import re

from quant_core.errors import FormatError, QuantError
from quant_core.schema import FormatSpec, ModelInfo
from ui.jobs import workspace

SCALE_BITS = {"int": 16, "nf": 32, "fp": 32}
"""Of a group's scale, by the letters a family's name begins with."""
SHOWN = ("int8", "fp8_e4m3", "int6", "int5", "int4", "nf4", "int3", "int2")


def bits_per_weight(spec: FormatSpec, columns: int) -> float:
    """Stored bits a weight of a matrix with ``columns`` inputs: codes, scales and zero points."""
    name = re.match(r"([a-z]+)(\d+)", spec.family)
    if name is None:
        raise FormatError(
            f"It is not known what {spec.name} takes.", "Score the layers: score tables know exactly."
        )
    code, scale = int(name[2]), SCALE_BITS.get(name[1], 16)
    shared = {"group": spec.group_size, "channel": columns, "tensor": 0, "none": 0}[spec.granularity]
    if not shared:
        return float(code)
    return code + (scale + (code if spec.symmetry == "asym" else 0)) / shared


def precisions(info: ModelInfo, group: int) -> dict[str, float]:
    """Bits a weight by the format's full name, the checkpoint's own first; widest row lengths count most."""
    decided = [unit for unit in info.units if unit.decided]
    weights = sum(unit.parameters for unit in decided)
    if not weights:
        return {}
    found = {"original": sum(unit.parameters * unit.bits for unit in decided) / weights}
    for family in SHOWN:
        try:
            spec = workspace().parse_format(family, group)
        except QuantError:
            continue
        bits = sum(unit.parameters * bits_per_weight(spec, unit.columns) for unit in decided) / weights
        found[spec.name] = bits
    return found
