"""What several tools' settings share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from quant_core.errors import FormatError
from quant_core.names import parse_format
from quant_core.schema import Catalog, FormatSpec, ModelInfo, Unit


def bits(spec: FormatSpec) -> int:
    """Bits of an integer family."""
    return int(spec.family.removeprefix("int"))


def group(spec: FormatSpec) -> int:
    """Values that share a scale, -1 for a whole row."""
    return spec.group_size if spec.granularity == "group" else -1


def as_json(data: object) -> str:
    """Readable JSON."""
    return json.dumps(data, indent=2) + "\n"


def modules(info: ModelInfo) -> dict[str, Unit | None]:
    """The layers of a model by module name, with None for a head that shares the embedding's storage."""
    found: dict[str, Unit | None] = {unit.name.removesuffix(".weight"): unit for unit in info.units}
    for unit in info.units:
        for name in unit.tied:
            found.setdefault(name.removesuffix(".weight"), None)
    return found


def known_format(text: str, catalog: Catalog) -> str:
    """The full name of a format, empty if there is none like it here."""
    families = {family.name: family for family in catalog.families}
    methods = {method.name: method for method in catalog.methods}
    try:
        return parse_format(text, families, methods=methods).name
    except FormatError:
        return ""


def listed(names: Collection[str], most: int = 3) -> str:
    """Some names, and how many more."""
    shown = ", ".join(name if len(name) <= 60 else f"{name[:57]}..." for name in list(names)[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def left(kinds: Iterable[str], stays: Mapping[str, str], tool: str) -> list[str]:
    """A note for each kind of weight (``Unit.kind``) that was named, and that the tool does not quantize here."""
    words = {"conv1d": "Conv1D layers", "embedding": "embeddings", "expert": "experts", "head": "heads"}
    return [
        f"{count} {words[kind]} stay as they are for {tool}: {stays[kind]}."
        for kind, count in Counter(kinds).items()
    ]
