"""Choosing the formats of a sweep: families by kind or by name, a group size, and the ways to round."""

from __future__ import annotations

import streamlit as st

from quant_core.workspace import DEFAULT_FORMATS
from ui import state
from ui.format_names import (
    GROUP,
    NEAREST,
    Columns,
    columns,
    families,
    format_name,
    kind_title,
    kinds,
    methods,
)
from ui.format_picker import rounding_title

_SHOWN = 4
"""Families named in a sentence about many."""


def formats_picker(
    param: state.Param[tuple[str, ...]],
    rounding: state.Param[tuple[str, ...]],
    label: str = "Formats",
    key: str = "formats",
) -> tuple[str, ...]:
    """The columns of a sweep by full name: every format chosen, rounded in every way chosen.

    Args:
        param: Keeps the families, or full names where another than the default was typed.
        rounding: Keeps the rounding methods.
        label: What the list is called.
        key: Prefix of the widgets' keys.
    """
    chosen = [name for name in param.get() if name] or list(param.default)
    _presets(param, chosen, key)
    left, right = st.columns([5, 1.4], vertical_alignment="top")
    st.session_state[f"{key}:families"] = chosen
    left.multiselect(
        label,
        list(dict.fromkeys([*(name for names in kinds().values() for name in names), *chosen])),
        format_func=_listed,
        key=f"{key}:families",
        accept_new_options=True,
        wrap=True,
        on_change=lambda: param.set(tuple(st.session_state[f"{key}:families"])),
        placeholder="Choose formats, or type a full name",
        help="Number formats that each layer is tried in. Type to search by name or kind; a full name such as "
        "`int3/g64/asym/keep0.5` works too.",
    )
    sizes = _group_sizes(chosen)
    if sizes:
        right.selectbox(
            "Group size",
            **state.GROUP.choice(sizes, f"{key}:group"),
            help="How many weights share a scale where a format leaves it open; fewer is more exact and takes more "
            "bits. A format that lacks the size takes its nearest.",
        )
    methods_chosen = _rounding(rounding, key)
    made = columns(chosen, state.GROUP.get(), methods_chosen)
    _explain(made)
    return made.names


def _listed(name: str) -> str:
    """A family in the list: its kind first, so that typing it finds them all."""
    family = families().get(name)
    return format_name(name) if family is None else f"{kind_title(family.kind)}: {family.title}"


def _presets(param: state.Param[tuple[str, ...]], chosen: list[str], key: str) -> None:
    """One press for many: the usual formats, a kind more or less, everything."""
    with st.container(horizontal=True, gap="xsmall", vertical_alignment="center", key=f"{key}-presets"):
        st.caption("Take", width="content")
        _preset(
            "The usual", DEFAULT_FORMATS, param, f"{key}:usual", "Integers of 2 to 8 bits, and one table."
        )
        headings = kinds()
        for kind, names in headings.items():
            rest = [name for name in chosen if name not in names]
            if len(rest) + len(names) == len(chosen):
                label, target, help = "−", rest or list(param.default), "Without"
            else:
                label, target, help = "+", list(dict.fromkeys([*chosen, *names])), "With"
            _preset(
                f"{label} {kind_title(kind)}", tuple(target), param, f"{key}:kind:{kind}",
                f"{help} all {len(names)} formats of this kind.",
            )  # fmt: skip
        everything = tuple(name for names in headings.values() for name in names)
        _preset(
            f"All {len(everything)}", everything, param, f"{key}:all", "Every format there is; a long sweep."
        )


def _preset(
    label: str, names: tuple[str, ...], param: state.Param[tuple[str, ...]], key: str, help: str
) -> None:
    st.button(label, key=key, type="tertiary", on_click=param.set, args=(tuple(names),), help=help)


def _group_sizes(chosen: list[str]) -> list[int]:
    """The group sizes that every chosen family with the choice has, or else that any has."""
    known = families()
    sizes = [
        set(known[name].group_sizes) for name in chosen if name in known and GROUP in known[name].default
    ]
    return sorted(set.intersection(*sizes) or set.union(*sizes)) if sizes else []


def _rounding(param: state.Param[tuple[str, ...]], key: str) -> tuple[str, ...]:
    """The ways to round; several make several columns of each format, of which a recipe takes the best a layer."""
    known = methods()
    chosen = [name for name in param.get() if name == NEAREST or name in known] or [NEAREST]
    if not known:
        return tuple(chosen)
    st.session_state[f"{key}:rounding"] = chosen
    st.pills(
        "Rounding",
        [NEAREST, *known],
        selection_mode="multi",
        format_func=rounding_title,
        key=f"{key}:rounding",
        on_change=lambda: param.set(tuple(st.session_state[f"{key}:rounding"]) or (NEAREST,)),
        help="How weights are rounded to each format. With several, every format is tried in every way, and a "
        "recipe can take another way for each layer.  \n"
        + "  \n".join(f"**{method.title}**: {method.help}" for method in known.values()),
    )
    return tuple(chosen)


def _explain(made: Columns) -> None:
    """What could not be combined, in a sentence a method."""
    known, found = families(), methods()
    lines = []
    for name, refused in made.refused.items():
        titles = ", ".join(known[family].title for family in refused[:_SHOWN])
        more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        reasons = {found[name].except_for.get(family, "") for family in refused}
        why = f" {reasons.pop()}" if len(reasons) == 1 else ""
        lines.append(f"{found[name].title} is left out for {titles}{more}.{why}")
    if made.unknown:
        lines.append(f":orange[No format is called {', '.join(made.unknown)}.]")
    if lines:
        st.caption("  \n".join(lines))
