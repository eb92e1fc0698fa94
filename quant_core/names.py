"""Names of number formats, ``family[/granularity[/symmetry]]``, and of weights, for the server and the worker.

``parse_format`` reads what a person types (``int4``, ``INT4/sym/g128``, ``fp8``) with the families' help and
returns the full format; ``read_name`` reads a full name as programs write it. Both are inverses of
``FormatSpec.name``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from quant_core.errors import FormatError, QuantError
from quant_core.registry import unknown_name
from quant_core.schema import ORIGINAL, FamilyInfo, FormatSpec, Granularity

ALIASES = {"fp8": "fp8_e4m3"}


class _Parts(NamedTuple):
    """What the parts behind the family say; "none" where they say nothing."""

    granularity: Granularity = "none"
    group_size: int = 0
    symmetry: Literal["asym", "sym", "none"] = "none"


def parse_format(text: str, families: Mapping[str, FamilyInfo], group: int = 64) -> FormatSpec:
    """The format that ``text`` names.

    The parts behind the family may come in any order and any case; what is left out is the family's default.

    Args:
        text: ``int4``, ``int4/g128``, ``int8/channel/sym``, ``fp8``, ``original``.
        families: The known families by name; ``original`` need not be among them.
        group: Group size where the family's default has groups and ``text`` names no granularity.

    Raises:
        FormatError: The family is unknown, or it has no such granularity, group size or symmetry.
    """
    head, *rest = (part.strip() for part in text.lower().split("/"))
    name = ALIASES.get(head, head)
    if name == ORIGINAL:
        if rest:
            raise FormatError(f"{text!r} is no number format.", "'original' has no granularity or symmetry.")
        return FormatSpec(ORIGINAL)
    if name not in families:
        error = unknown_name("number format", head, list(dict.fromkeys([*families, *ALIASES, ORIGINAL])))
        raise FormatError(error.message, error.hint)
    family = families[name]
    asked = _read_parts(text, rest, _allowed(family))
    default = _read_parts(name, family.default.format(group=group).split("/") if family.default else [], "")
    granularity, group_size = asked[:2] if asked.granularity != "none" else default[:2]
    symmetry = asked.symmetry if asked.symmetry != "none" else default.symmetry
    spec = FormatSpec(name, granularity, group_size, symmetry)
    _check(spec, family)
    return spec


def read_name(name: str) -> FormatSpec:
    """The format of a full name such as ``int4/g64/asym``; ``FormatError`` if it is none.

    Takes the name at its word: whether the family exists and offers this is ``parse_format``'s to say.
    """
    family, *rest = name.split("/")
    spec = FormatSpec(family, *_read_parts(name, rest, "A full name reads family/granularity/symmetry."))
    if not family or spec.name != name:
        raise FormatError(f"{name!r} is no full format name.", "Full names look like 'int4/g64/asym'.")
    return spec


def unknown_weight(name: str, weights: Collection[str]) -> QuantError:
    """The error for a weight that is not among ``weights``; its hint is the nearest name, or any as an example."""
    error = unknown_name("weight", name, list(weights))
    example = next(iter(weights), "")
    return (
        error if error.hint.startswith("Did") else QuantError(error.message, f"Names look like {example!r}.")
    )


def _read_parts(text: str, parts: Sequence[str], hint: str) -> _Parts:
    """Granularity, group size and symmetry in any order, each at most once; ``hint`` goes into the error."""
    found = _Parts()
    for part in parts:
        grouped = re.fullmatch(r"g([0-9]{1,9})", part)
        if (grouped or part in ("channel", "tensor")) and found.granularity == "none":
            if grouped:
                found = found._replace(granularity="group", group_size=int(grouped[1]))
            else:
                found = found._replace(granularity="channel" if part == "channel" else "tensor")
        elif part in ("asym", "sym") and found.symmetry == "none":
            found = found._replace(symmetry="asym" if part == "asym" else "sym")
        else:
            raise FormatError(f"{text!r} is no number format: {part!r} does not fit there.", hint)
    return found


def _check(spec: FormatSpec, family: FamilyInfo) -> None:
    """Raise ``FormatError`` unless the family offers the format."""
    if spec.granularity not in family.granularities:
        raise FormatError(f"{family.name} has no granularity {spec.granularity!r}.", _allowed(family))
    if spec.granularity == "group" and spec.group_size not in family.group_sizes:
        raise FormatError(f"{family.name} has no groups of {spec.group_size}.", _allowed(family))
    if spec.symmetry != "none" and spec.symmetry not in family.symmetries:
        raise FormatError(f"{family.name} has no symmetry {spec.symmetry!r}.", _allowed(family))


def _allowed(family: FamilyInfo) -> str:
    """One sentence with every part the family takes."""
    parts = [part for part in family.granularities if part in ("tensor", "channel")]
    groups = [f"g{size}" for size in family.group_sizes] if "group" in family.granularities else []
    choices = [*parts, *groups]
    scales = f"{family.name} takes {', '.join(choices)}" if choices else f"{family.name} takes no granularity"
    return f"{scales}; {' or '.join(family.symmetries)}." if family.symmetries else f"{scales}."
