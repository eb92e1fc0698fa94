"""Several layers at once: the selection that the maps share, by box or by name, in the URL, and what it adds up to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from quant_core import plots
from quant_core.schema import ModelInfo, ScoreTable
from ui import state
from ui.scores import table_key

_LONGEST = 300
"""Letters that a selection takes in the URL; a longer one is only remembered."""
_RANGE = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")
_NAMES = "selection:names"
MODES = {"open": "one layer", "select": "several"}


def _read(text: str) -> tuple[int, ...]:
    if len(text) > _LONGEST:
        raise ValueError(text)
    found: list[int] = []
    for part in text.split("."):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ValueError(text)
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < first + 100_000:
            raise ValueError(text)
        found += range(first, last + 1)
    return tuple(found)


def _write(places: tuple[int, ...]) -> str:
    runs = [
        [place for _, place in run] for _, run in groupby(enumerate(places), lambda pair: pair[1] - pair[0])
    ]
    text = ".".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return text if len(text) <= _LONGEST else ""


LAYERS: state.Param[tuple[int, ...]] = state.Param("layers", (), _read, "the selected layers", _write)
"""Places of the selected layers in the model, rising: ``0-6.14``."""
DRAG = state.choice_param("drag", "what a drag does", tuple(MODES))
INSIDE = state.integer_param("inside", "the block whose experts are shown", -1, -1, 100_000)
state.MODELS_OWN += [LAYERS, INSIDE]


def selected(info: ModelInfo, table: ScoreTable) -> list[str]:
    """The selected layers that a table holds, in the model's order."""
    known = set(table.units)
    names = [info.units[place].name for place in LAYERS.get() if place < len(info.units)]
    return [name for name in names if name in known]


def select(info: ModelInfo, names: Iterable[str]) -> None:
    """Make these the selected layers."""
    wanted = set(names)
    LAYERS.set(tuple(place for place, unit in enumerate(info.units) if unit.name in wanted))


def named(info: ModelInfo, table: ScoreTable, text: str) -> list[str]:
    """Layers that meet every word of a text: a pattern of their name, or blocks as ``0-3`` or ``5``."""
    known = set(table.units)
    found = [unit for unit in info.units if unit.name in known] if text.split() else []
    for word in text.split():
        match = _RANGE.fullmatch(word)
        if match is not None:
            first, last = int(match[1]), int(match[2] or match[1])
            found = [unit for unit in found if first <= unit.block <= last]
        else:
            literal = word.replace("[", "[[]")
            found = [
                unit for unit in found
                if fnmatchcase(unit.name, literal) or fnmatchcase(unit.name.removesuffix(".weight"), literal)
            ]  # fmt: skip
    return [unit.name for unit in found]


def by_name(info: ModelInfo, table: ScoreTable) -> None:
    """The keyboard's way to select: a pattern, blocks, or both."""
    st.session_state.setdefault(_NAMES, "")

    def take() -> None:
        select(info, named(info, table, st.session_state[_NAMES]))

    text = st.text_input(
        "Select by name or block", key=_NAMES, on_change=take, persist_state="session",
        placeholder="*.down_proj, 0-3, or 0-3 *.down_proj",
        help="A pattern of the name (* stands for any text, ? for one letter), blocks as 0-3 or 5, or both.",
    )  # fmt: skip
    if text and not named(info, table, text):
        st.caption(f":orange[No layer matches.] Names look like `{table.units[0]}`.")


def switch(place: str) -> bool:
    """Whether a drag over the map selects layers, after a control that says so; ``place`` tells the maps apart."""
    st.segmented_control(
        "Choose", required=True, format_func=MODES.__getitem__, **DRAG.choice(list(MODES), f"drag:{place}"),
        help="One layer: click a cell. Several: drag a box over cells; hold Shift to add another box.",
    )  # fmt: skip
    return DRAG.get() == "select"


def folded(info: ModelInfo, table: ScoreTable, place: str) -> plots.Fold:
    """What maps draw; where experts had to be folded, after a control that opens a block."""
    whole = _fold(table_key(table), INSIDE.get(), info, table)
    if whole.needed:
        blocks = [-1, *dict.fromkeys(unit.block for unit in info.units if unit.block >= 0)]
        st.selectbox(
            "Blocks", **INSIDE.choice(blocks, f"inside:{place}"), width=260,
            format_func=lambda block: "all, experts added up" if block < 0 else f"block {block}, expert by expert",
            help="There are too many experts to show at once: all of a block and role are one cell until you open "
            "their block here or by a click.",
        )  # fmt: skip
    return whole


@st.cache_resource(max_entries=16, show_spinner=False)
def _fold(key: str, block: int, _info: ModelInfo, _table: ScoreTable) -> plots.Fold:
    return plots.fold(_info, _table, block)


def open_block(info: ModelInfo, data: plots.Fold, key: str) -> bool:
    """Open the block of the clicked cell of a chart if the cell stands for several experts; whether it does."""
    behind = data.behind(plots.clicked(st.session_state.get(key))[:1])
    if len(behind) > 1:
        INSIDE.set(next(unit.block for unit in info.units if unit.name == behind[0]))
    return len(behind) > 1


def box(figure: go.Figure, on: bool) -> dict[str, Any]:
    """Have a drag over a map draw a box, if ``on``; gives what the chart has to be told besides."""
    if not on:
        return {"selection_mode": "points"}
    figure.update_layout(dragmode="select", newselection_mode="gradual")
    return {"selection_mode": ("points", "box")}


def taker(info: ModelInfo, data: plots.Fold, key: str) -> Callable[[], None]:
    """The callback of a map whose chart has ``key``: what a box or a click marked is selected."""

    def take() -> None:
        names = plots.all_clicked(st.session_state.get(key))
        if names:
            select(info, data.behind(names))

    return take
