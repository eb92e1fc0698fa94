"""What several tools' settings share."""

from __future__ import annotations

import json

from quant_core.schema import FormatSpec


def bits(spec: FormatSpec) -> int:
    """Bits of an integer family."""
    return int(spec.family.removeprefix("int"))


def group(spec: FormatSpec) -> int:
    """Values that share a scale, -1 for a whole row."""
    return spec.group_size if spec.granularity == "group" else -1


def as_json(data: object) -> str:
    """Readable JSON."""
    return json.dumps(data, indent=2) + "\n"
