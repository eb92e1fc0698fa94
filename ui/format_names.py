"""What formats and methods are called on screen, and which columns a sweep gets; everything comes from the catalog."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from quant_core import plots
from quant_core.errors import QuantError
from quant_core.schema import ORIGINAL, FamilyInfo, MethodInfo
from quant_core.workspace import DEFAULT_FORMATS
from ui import state
from ui.jobs import workspace

NEAREST = "nearest"
"""What rounding without a method is called in addresses and lists."""
GROUP = "{group}"


def families() -> dict[str, FamilyInfo]:
    """The families of the catalog by name, without the original."""
    return {family.name: family for family in workspace().catalog.families if family.name != ORIGINAL}


def methods() -> dict[str, MethodInfo]:
    """The rounding methods of the catalog by name."""
    return {method.name: method for method in workspace().catalog.methods}


def kinds() -> dict[str, list[str]]:
    """The families' names under their headings; first the heading of the format that is open by default."""
    known = families()
    first = known.get(state.FORMAT.default.partition("/")[0])
    order = dict.fromkeys([*([first.kind] if first else []), *(family.kind for family in known.values())])
    return {kind: [name for name, family in known.items() if family.kind == kind] for kind in order}


def kind_title(kind: str) -> str:
    """A heading as it begins a line."""
    return kind[:1].upper() + kind[1:]


def source_text(source: str) -> str:
    """Where a family or a method comes from, preprints as links."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)


def format_name(name: str) -> str:
    """A full or shortened format name for the screen: ``int3/g64/asym@gptq`` as ``INT3 g64 asym · GPTQ``."""
    form, _, method = name.partition("@")
    family, *rest = form.split("/")
    known = families().get(family)
    words = [known.title if known else family.capitalize() if family == ORIGINAL else family]
    words += [f"+ {part.removeprefix('keep')} % kept" if part.startswith("keep") else part for part in rest]
    return " · ".join(part for part in (" ".join(words), method_name(method)) if part)


def method_name(text: str) -> str:
    """A rounding method for the screen: ``gptq:order=none`` as ``GPTQ (order none)``."""
    return method_text(text, methods())


def method_text(text: str, known: Mapping[str, MethodInfo]) -> str:
    """A method with what differs from its defaults, for the screen."""
    name, *options = text.split(":")
    shown = known[name].title if name in known else name
    changed = ", ".join(option.replace("=", " ") for option in options)
    return f"{shown} ({changed})" if changed else shown


def short_names(names: Sequence[str]) -> dict[str, str]:
    """What tells formats apart, for the screen: ``INT4`` where no other INT4 is among them."""
    return {
        name: format_name(short) for name, short in zip(names, plots.short_formats(tuple(names)), strict=True)
    }


def default_format(family: str, group: int) -> str:
    """The full name of a family's default, at the group size it offers that comes nearest to ``group``.

    A full name, or a part of one, stands for what it says. Raises ``QuantError`` for a name that is none.
    """
    info = families().get(family)
    if info is not None and GROUP in info.default and info.group_sizes:
        group = min(info.group_sizes, key=lambda size: (abs(size - group), size))
    return workspace().parse_format(family, group).name


class Columns(NamedTuple):
    """The formats of a sweep by full name, and the combinations that cannot be."""

    names: tuple[str, ...]
    refused: Mapping[str, tuple[str, ...]]
    """Rounding methods by name, with the families among those chosen that they cannot round to."""
    unknown: tuple[str, ...]
    """What was chosen and names no format."""


def columns(chosen: Iterable[str], group: int, rounding: Sequence[str]) -> Columns:
    """Every chosen format rounded by every chosen method that can; to nearest where none of them can.

    Args:
        chosen: Families, or full names where something else than the default is wanted; a method in a name stays.
        group: Group size where a family leaves it open.
        rounding: Names of methods, ``NEAREST`` among them.
    """
    known = methods()
    wanted = [name for name in rounding if name == NEAREST or name in known] or [NEAREST]
    names: list[str] = []
    refused: dict[str, dict[str, None]] = {}
    unknown: list[str] = []
    for each in _in_order(chosen):
        try:
            form = default_format(each, group)
        except QuantError:
            unknown.append(each)
            continue
        family = form.partition("/")[0].partition("@")[0]
        if family == ORIGINAL:
            continue
        if "@" in form:
            names.append(form)
            continue
        able = [name for name in wanted if name == NEAREST or family in known[name].families]
        for name in wanted:
            if name not in able:
                refused.setdefault(name, {})[family] = None
        names += [form if name == NEAREST else f"{form}@{name}" for name in able or [NEAREST]]
    return Columns(
        tuple(dict.fromkeys(names)),
        {name: tuple(found) for name, found in refused.items()},
        tuple(unknown),
    )


def _in_order(chosen: Iterable[str]) -> list[str]:
    """Whatever the order of choosing was, the same formats are the same sweep: the usual ones, then the catalog's."""
    place = {name: index for index, name in enumerate(dict.fromkeys([*DEFAULT_FORMATS, *families()]))}
    return sorted(dict.fromkeys(chosen), key=lambda name: (place.get(name, len(place)), name))
