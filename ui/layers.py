"""Which layer is meant: a picker."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from quant_core.schema import ModelInfo, Unit
from ui import state

_ALL = "all"
_ANYWHERE = "outside"
_BLOCK, _ROLE, _STEP, _PICK = "layer:block", "layer:role", "layer:step", "layer:pick"


def current(units: Sequence[Unit]) -> Unit:
    """The layer that is open; the first decided one if none is, or if the model has no layer of that name."""
    known = {unit.name: unit for unit in units}
    name = state.UNIT.get()
    if name not in known:
        if name:
            st.warning(
                f"There is no layer named “{name}” here; showing the first one.", icon=":material/link_off:"
            )
        name = next((unit.name for unit in units if unit.decided), units[0].name)
        state.UNIT.set(name)
    return known[name]


def picker(info: ModelInfo) -> Unit:
    """Choose any unit of the model: by block, by role, by name, or one step on."""
    unit = current(info.units)
    blocks = [_ALL, *dict.fromkeys(_block(each) for each in info.units)]
    roles = [_ALL, *dict.fromkeys(each.role for each in info.units)]
    if not _passing([unit]):
        st.session_state[_BLOCK] = st.session_state[_ROLE] = _ALL
    st.session_state.setdefault(_BLOCK, _ALL)
    st.session_state.setdefault(_ROLE, _ALL)
    left, middle, right, steps = st.columns([1.1, 1.3, 3.2, 1.9], vertical_alignment="bottom")
    left.selectbox(
        "Block", blocks, format_func=lambda block: f"all {info.blocks}" if block == _ALL else block, key=_BLOCK,
        on_change=_follow, args=(info,), persist_state="session",
        help="Show only layers of one transformer block.",
    )  # fmt: skip
    middle.selectbox(
        "Role", roles, key=_ROLE, on_change=_follow, args=(info,), persist_state="session",
        help="Show only layers that do the same thing in every block.",
    )  # fmt: skip
    shown = _passing(info.units)
    names = [each.name for each in shown]
    titles = {each.name: title(each) for each in shown}
    st.session_state[_PICK] = unit.name
    right.selectbox(
        f"Layer ({len(shown):,} of {len(info.units):,})", names, format_func=lambda name: titles.get(name, name),
        key=_PICK, on_change=lambda: state.UNIT.set(st.session_state[_PICK]),
        help="Every weight that can be quantized. Type to search.",
    )  # fmt: skip
    place = names.index(unit.name)
    with steps.container(horizontal=True, gap="xsmall", wrap=False):
        for label, icon, step in (("Previous", "chevron_left", -1), ("Next", "chevron_right", 1)):
            st.button(
                label, icon=f":material/{icon}:", key=f"{_STEP}:{label}", on_click=state.UNIT.set,
                args=(names[(place + step) % len(names)],),
            )  # fmt: skip
    return unit


def title(unit: Unit) -> str:
    """How a layer is called in a list: ``block 3 · q_proj · 512 × 512``."""
    where = f"block {unit.block} · " if unit.block >= 0 else ""
    return f"{where}{unit.role} · {unit.rows:,} × {unit.columns:,}"


def _block(unit: Unit) -> str:
    return str(unit.block) if unit.block >= 0 else _ANYWHERE


def _passing(units: Sequence[Unit]) -> list[Unit]:
    """The units that the filters let through."""
    block, role = st.session_state.get(_BLOCK, _ALL), st.session_state.get(_ROLE, _ALL)
    return [unit for unit in units if block in (_ALL, _block(unit)) and role in (_ALL, unit.role)]


def _follow(info: ModelInfo) -> None:
    """A filter changed: stay, or go to the first layer that passes; filters that exclude all give way."""
    passing = _passing(info.units)
    if not passing:
        st.session_state[_BLOCK] = st.session_state[_ROLE] = _ALL
    elif state.UNIT.get() not in {unit.name for unit in passing}:
        state.UNIT.set(passing[0].name)
