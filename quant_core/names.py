"""Names of number formats, ``family[/granularity][/symmetry][/dq][/keepP][@method]``, and of weights.

``parse_format`` reads what a person types (``int4``, ``INT4/sym/g128``, ``fp8``, ``int3@gptq``) with the families' help
and returns the full format; ``read_name`` reads a full name as programs write it. Both are inverses of
``FormatSpec.name``. Free of torch, for the server and the worker.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import cast

from quant_core.errors import FormatError, QuantError
from quant_core.registry import unknown_name
from quant_core.schema import ORIGINAL, FamilyInfo, FormatSpec, MethodInfo, Symmetry

ALIASES = {"fp8": "fp8_e4m3"}
KEEP = (1, 2, 5, 10)
"""Thousandths of the weights that a format can keep in 16 bits."""
SQUARE = 128
"""Side of the squares that share a scale under the granularity ``block``."""


def parse_format(
    text: str,
    families: Mapping[str, FamilyInfo],
    group: int = 64,
    methods: Mapping[str, MethodInfo] | None = None,
) -> FormatSpec:
    """The format that ``text`` names.

    The parts behind the family may come in any order and any case; what is left out is the family's default.

    Args:
        text: ``int4``, ``int4/g128``, ``int8/channel/sym``, ``fp8``, ``q4_k``, ``int3/keep0.5@gptq``, ``original``.
        families: The known families by name; ``original`` need not be among them.
        group: Group size where the family's default has groups and ``text`` names no granularity.
        methods: The known rounding methods by name; None takes a method at its word.

    Raises:
        FormatError: The family or the method is unknown, they do not go together, or the family has no such
            granularity, group size or symmetry.
    """
    form, at, method = text.lower().partition("@")
    head, *rest = (part.strip() for part in form.split("/"))
    name = ALIASES.get(head, head)
    if name == ORIGINAL:
        if rest or at:
            raise FormatError(
                f"{text!r} is no number format.", "'original' has no granularity, symmetry or method."
            )
        return FormatSpec(ORIGINAL)
    if name not in families:
        error = unknown_name("number format", head, list(dict.fromkeys([*families, *ALIASES, ORIGINAL])))
        raise FormatError(error.message, error.hint)
    family = families[name]
    asked = _read_parts(text, name, rest, allowed(family))
    default = _read_parts(name, name, family.default.format(group=group).split("/") if family.default else [])
    spec = asked if asked.granularity != "none" else replace(
        asked, granularity=default.granularity, group_size=default.group_size
    )  # fmt: skip
    spec = spec if spec.symmetry != "none" else replace(spec, symmetry=default.symmetry)
    _check(spec, family)
    if at:
        spec = replace(spec, method=parse_method(method.strip(), methods, family.name))
    return spec


def parse_method(text: str, methods: Mapping[str, MethodInfo] | None, family: str) -> str:
    """A rounding method as its full name: options in their order, those at their default left out.

    Args:
        text: ``gptq``, ``gptq:order=none:damping=0.05``; ``nearest`` is the empty name.
        methods: The known methods by name; None takes the text at its word.
        family: The family of formats it is to round to.

    Raises:
        FormatError: There is no such method or option, or the method does not work with the family.
    """
    name, *options = text.split(":")
    if methods is None or (name == "nearest" and not options):
        return "" if name == "nearest" else text
    if name not in methods:
        error = unknown_name("rounding method", name, ["nearest", *methods])
        raise FormatError(error.message, error.hint)
    method = methods[name]
    if family not in method.families:
        reason = method.except_for.get(family, f"It works with {', '.join(method.families)}.")
        raise FormatError(f"{method.title} cannot round to {family}.", reason)
    return _with_options(text, method)


def parse_scheme(text: str, known: Mapping[str, MethodInfo], kind: str) -> str:
    """A way to treat activations or the KV cache as its full name: options in their order, defaults left out.

    Args:
        text: ``int8/token``, ``int8/static:range=entropy``; empty for none, which stays empty.
        known: What there is, by name.
        kind: What it is called in messages (``activation scheme``).

    Raises:
        FormatError: There is no such name or option.
    """
    text = text.strip().lower()
    name = text.split(":", maxsplit=1)[0]
    if not text:
        return ""
    if name not in known:
        error = unknown_name(kind, name, known)
        raise FormatError(error.message, error.hint)
    return _with_options(text, known[name])


def _with_options(text: str, method: MethodInfo) -> str:
    """``text`` with its options in their order, those at their default left out."""
    chosen = method_options(text, method)
    changed = [
        f"{option.name}={chosen[option.name]}"
        for option in method.options
        if chosen[option.name] != option.choices[0]
    ]
    return ":".join([method.name, *changed])


def method_options(text: str, method: MethodInfo) -> dict[str, str]:
    """Every option of a method by name, as ``text`` (``gptq:order=none``) sets it; ``FormatError`` if it cannot."""
    chosen = {option.name: option.choices[0] for option in method.options}
    for part in text.split(":")[1:]:
        name, _, value = part.partition("=")
        if name not in chosen:
            known = f"It has {', '.join(chosen)}." if chosen else "It has none."
            raise FormatError(f"{method.title} has no option {name!r}.", known)
        choices = next(option.choices for option in method.options if option.name == name)
        if value not in choices:
            raise FormatError(f"{method.title} has no {name} {value!r}.", f"It takes {', '.join(choices)}.")
        chosen[name] = value
    return chosen


@lru_cache(maxsize=4096)
def read_name(name: str) -> FormatSpec:
    """The format of a full name such as ``int4/g64/asym``; ``FormatError`` if it is none.

    Takes the name at its word: whether the family exists and offers this is ``parse_format``'s to say.
    """
    form, _, method = name.partition("@")
    family, *rest = form.split("/")
    hint = "A full name reads family/granularity/symmetry."
    spec = replace(_read_parts(name, family, rest, hint), method=method)
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


def _read_parts(text: str, family: str, parts: Sequence[str], hint: str = "") -> FormatSpec:
    """What the parts behind the family say, in any order, each at most once; ``hint`` goes into the error."""
    found = FormatSpec(family)
    for part in parts:
        sized = re.fullmatch(r"([gb])([0-9]{1,9})", part)
        share = re.fullmatch(r"keep([0-9]\.[0-9])", part)
        if sized and found.granularity == "none":
            found = replace(
                found, granularity="group" if sized[1] == "g" else "block", group_size=int(sized[2])
            )
        elif part in ("channel", "tensor") and found.granularity == "none":
            found = replace(found, granularity="channel" if part == "channel" else "tensor")
        elif part in ("asym", "sym", "float") and found.symmetry == "none":
            found = replace(found, symmetry=cast("Symmetry", part))
        elif part == "dq" and not found.double:
            found = replace(found, double=True)
        elif share and not found.keep and round(float(share[1]) * 10) in KEEP:
            found = replace(found, keep=round(float(share[1]) * 10))
        else:
            raise FormatError(f"{text!r} is no number format: {part!r} does not fit there.", hint)
    return found


def _check(spec: FormatSpec, family: FamilyInfo) -> None:
    """Raise ``FormatError`` unless the family offers the format."""
    if spec.granularity not in family.granularities:
        raise FormatError(f"{family.name} has no granularity {spec.granularity!r}.", allowed(family))
    if spec.granularity == "group" and spec.group_size not in family.group_sizes:
        raise FormatError(f"{family.name} has no groups of {spec.group_size}.", allowed(family))
    if spec.granularity == "block" and spec.group_size != SQUARE:
        raise FormatError(f"{family.name} has no squares of {spec.group_size}.", allowed(family))
    if spec.symmetry != "none" and spec.symmetry not in family.symmetries:
        raise FormatError(f"{family.name} has no symmetry {spec.symmetry!r}.", allowed(family))
    if spec.double and not family.double:
        raise FormatError(f"{family.name} does not quantize its scales.", allowed(family))


def granularities(family: FamilyInfo) -> list[str]:
    """The parts of a name that say who shares a scale, in the family's order; empty where there is no choice."""
    parts: list[str] = []
    for granularity in family.granularities:
        if granularity == "group":
            parts += [f"g{size}" for size in family.group_sizes]
        elif granularity == "block":
            parts.append(f"b{SQUARE}")
        elif granularity != "none":
            parts.append(granularity)
    return parts


def allowed(family: FamilyInfo) -> str:
    """One sentence with every part the family takes."""
    choices = granularities(family)
    scales = f"{family.name} takes {', '.join(choices)}" if choices else f"{family.name} takes no granularity"
    sentence = f"{scales}; {' or '.join(family.symmetries)}" if family.symmetries else scales
    return f"{sentence}; dq." if family.double else f"{sentence}."
