"""Choosing one number format and how to round to it: every field is what the catalog says about the family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import streamlit as st

from quant_core.errors import QuantError
from quant_core.names import KEEP, granularities, method_options
from quant_core.schema import FamilyInfo, FormatSpec, MethodInfo, Unit
from ui import state, words
from ui.format_names import (
    NEAREST,
    default_format,
    families,
    format_name,
    kind_title,
    kinds,
    method_name,
    methods,
    source_text,
)
from ui.jobs import workspace

T = TypeVar("T")

_WIDE, _FIELD = 190, 160
"""Pixels of a field: two fit beside each other on a phone."""
_SYMMETRIES = {"asym": "asymmetric", "sym": "symmetric", "float": "asymmetric, float"}
_SCALES = {"channel": "a row", "tensor": "the whole tensor"}


def format_picker(
    param: state.Param[str] = state.FORMAT, key: str = "format", unit: Unit | None = None
) -> str:
    """The format, its scales, and how to round to it, as the catalog offers them; gives and keeps the full name.

    Args:
        param: Where the choice lives, in memory and URL.
        key: Prefix of the widgets' keys, for a page with two pickers.
        unit: A weight to say the stored bits of.
    """
    spec = _current(param)
    family = families()[spec.family]
    fields = _Fields(param, key, spec)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        _family(fields, family)
        _scales(fields, family)
        _extras(fields, family)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        _rounding(fields, family)
    st.caption("  \n".join(_explained(spec, family, unit)))
    return spec.name


class _Fields:
    """The picker's fields: each shows a part of the format and, when it changes, gives the whole a new name."""

    def __init__(self, param: state.Param[str], key: str, spec: FormatSpec) -> None:
        self.param, self.key, self.spec = param, key, spec

    def select(self, part: str, label: str, options: Sequence[T], value: T, change: Any, **more: Any) -> None:
        """A field for one part; ``change`` gives the new full name for what was chosen."""
        key = f"{self.key}:{part}"
        st.session_state[key] = value
        st.selectbox(
            label, options, key=key, on_change=lambda: self.param.set(change(st.session_state[key])),
            **{"width": _FIELD, **more},
        )  # fmt: skip

    def name(self, **changes: Any) -> str:
        """The format's name with some parts changed."""
        return replace(self.spec, **changes).name


def _current(param: state.Param[str]) -> FormatSpec:
    """The chosen format; a name that the catalog lacks gives way to the default, with a sentence."""
    try:
        spec = workspace().parse_format(param.get())
        if spec.family not in families():
            raise QuantError(f"{param.get()} is no format to quantize to.")
    except QuantError as error:
        st.warning(f"{error.message} Showing {param.default} instead.", icon=":material/link_off:")
        param.set(param.default)
        spec = workspace().parse_format(param.default)
    return spec


def _family(fields: _Fields, family: FamilyInfo) -> None:
    known, headings = families(), kinds()
    fields.select(
        "kind", "Kind", list(headings), family.kind,
        lambda kind: _moved(fields.spec, _nearest([known[name] for name in headings[kind]], family)),
        format_func=kind_title, help="What sort of number format; the list beside it holds those of the sort.",
    )  # fmt: skip
    fields.select(
        "family", "Format", headings[family.kind], family.name, lambda name: _moved(fields.spec, known[name]),
        format_func=lambda name: known[name].title, help=family.help, width=_WIDE,
    )  # fmt: skip


def _nearest(among: Sequence[FamilyInfo], family: FamilyInfo) -> FamilyInfo:
    """The family whose codes take about as many bits."""
    return min(among, key=lambda other: abs(other.value_bits / other.pack - family.value_bits / family.pack))


def _moved(spec: FormatSpec, family: FamilyInfo) -> str:
    """The nearest to a format that another family has: what that does not offer becomes its default."""
    now = workspace().parse_format(default_format(family.name, spec.group_size or state.GROUP.get()))
    scale = _scale(spec)
    if scale in granularities(family) and spec.granularity != "group":
        now = replace(now, granularity=spec.granularity, group_size=spec.group_size)
    if spec.symmetry in family.symmetries:
        now = replace(now, symmetry=spec.symmetry)
    method = methods().get(spec.method.split(":")[0])
    able = method is not None and family.name in method.families
    return replace(
        now, double=spec.double and family.double, keep=spec.keep, method=spec.method if able else ""
    ).name


def _scale(spec: FormatSpec) -> str:
    """The part of a name that says who shares a scale."""
    sized = {"group": "g", "block": "b"}.get(spec.granularity)
    return f"{sized}{spec.group_size}" if sized else spec.granularity


def _scale_title(part: str) -> str:
    if part in _SCALES:
        return _SCALES[part]
    size = part[1:]
    return f"{size} weights" if part.startswith("g") else f"{size} × {size} weights"


def _scales(fields: _Fields, family: FamilyInfo) -> None:
    parts = granularities(family)
    if len(parts) > 1:
        fields.select(
            "scale", "One scale for", parts, _scale(fields.spec), lambda part: _rescaled(fields.spec, part),
            format_func=_scale_title,
            help="How many weights, of one row along the inputs, share a scale: the fewer, the less error and the "
            "more bits.",
        )  # fmt: skip
    if len(family.symmetries) > 1:
        fields.select(
            "symmetry", "Zero point", family.symmetries, fields.spec.symmetry,
            lambda symmetry: fields.name(symmetry=symmetry), format_func=_SYMMETRIES.__getitem__,
            help="A symmetric grid is centred on 0. An asymmetric one stores a zero point with each scale, which fits "
            "skewed weights: a whole number as wide as a code, or a 16-bit float.",
        )  # fmt: skip


def _rescaled(spec: FormatSpec, part: str) -> str:
    """A format with another part for its scales."""
    scales = workspace().parse_format(f"{spec.family}/{part}")
    return replace(spec, granularity=scales.granularity, group_size=scales.group_size).name


def _rounding(fields: _Fields, family: FamilyInfo) -> None:
    known = methods()
    able = [NEAREST, *(name for name, method in known.items() if family.name in method.families)]
    chosen = fields.spec.method.split(":")[0] or NEAREST
    if known:
        fields.select(
            "method", "Rounding", able, chosen,
            lambda name: fields.name(method="" if name == NEAREST else name),
            format_func=rounding_title, width=_WIDE,
            help=known[chosen].help if chosen in known else "Every weight takes the nearest value of its grid.",
        )  # fmt: skip
    if chosen in known:
        _options(fields, known[chosen])


def rounding_title(name: str) -> str:
    """A rounding method in a list."""
    return "to nearest" if name == NEAREST else method_name(name)


def _options(fields: _Fields, method: MethodInfo) -> None:
    """What the method leaves open, each in a field of its own."""
    values = method_options(fields.spec.method, method)
    for option in method.options:

        def change(choice: str, name: str = option.name) -> str:
            chosen = {**values, name: choice}
            text = ":".join([method.name, *(f"{part}={value}" for part, value in chosen.items())])
            return workspace().parse_format(fields.name(method=text)).name

        fields.select(
            f"option:{option.name}", option.title, option.choices, values[option.name], change,
            help=option.help, width=_FIELD,
        )  # fmt: skip


def _extras(fields: _Fields, family: FamilyInfo) -> None:
    fields.select(
        "keep", "Kept in 16 bits", (0, *KEEP), fields.spec.keep, lambda keep: fields.name(keep=keep),
        format_func=lambda keep: f"largest {keep / 10:g} %" if keep else "none",
        help="Dense and sparse: the largest weights of the layer are kept as they are, with their places, beside the "
        "quantized rest, whose grids they then no longer stretch.",
    )  # fmt: skip
    if family.double:
        fields.select(
            "double", "Scales stored in", (False, True), fields.spec.double,
            lambda double: fields.name(double=double),
            format_func=lambda double: "8 bits" if double else f"{family.scale_bits} bits",
            help="Double quantization: the scales are themselves quantized, in blocks of 256.",
        )  # fmt: skip


def _explained(spec: FormatSpec, family: FamilyInfo, unit: Unit | None) -> list[str]:
    """What was chosen, what it takes, and where it comes from, a line each."""
    shown = f"**{format_name(spec.name)}** `{spec.name}`"
    if unit is not None:
        bits = workspace().stored_bits(unit, spec.name) / unit.parameters
        shown += f" · {words.bits(bits)} a weight here, everything stored with it included"
    lines = [shown, f"{family.title}: {_cited(family.help, family.source)}"]
    known = methods()
    method = known.get(spec.method.split(":")[0])
    if method is not None:
        lines.append(f"{method.title}: {_cited(method.help, method.source)}{learns(method)}")
    reasons: dict[str, list[str]] = {}
    for other in known.values():
        if family.name not in other.families:
            reason = other.except_for.get(family.name, f"does not work with {family.title}.")
            reasons.setdefault(reason, []).append(other.title)
    if reasons:
        lines.append(
            "Not here: " + " · ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
        )
    return lines


def learns(method: MethodInfo) -> str:
    """Whether a method reads text first, as a sentence that follows others."""
    return " Learns from the calibration text, so the first look takes a while." if method.needs else ""


def _cited(help: str, source: str) -> str:
    return f"{help} ({source_text(source)})" if source else help
