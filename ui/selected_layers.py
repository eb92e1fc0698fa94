"""Beside the map of scores: the layers that are selected, what they add up to, and their formats in the recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from quant_core import plots
from quant_core.errors import QuantError
from quant_core.schema import ORIGINAL, ModelInfo, ScoreName, ScoreTable, Unit
from ui import recipe_draft as drafts
from ui import score_charts, score_view, selection, words
from ui.entry import link
from ui.format_names import format_name
from ui.recipe_edit import choices
from ui.widgets import Figure, figures, said, say

_FORM = "selected:format"


def beside(info: ModelInfo, table: ScoreTable, unit: Unit, form: str, score: ScoreName) -> None:
    """What stands beside the chart: the selected layers where a drag selects, else the layer that is open."""
    if score_charts.VIEW.get() == "map" and selection.DRAG.get() == "select":
        _panel(info, table, form, score)
    else:
        score_view.layer_panel(info, table, unit, form, score)


def _panel(info: ModelInfo, table: ScoreTable, form: str, score: ScoreName) -> None:
    said()
    selection.by_name(info, table)
    names = selection.selected(info, table)
    if not names:
        st.caption("Nothing is selected: drag a box over cells, or write which layers.")
        return
    chosen = set(names)
    units = [unit for unit in info.units if unit.name in chosen]
    figures(sums(info, table, units, form, score))
    st.caption(f"{plots.where(units)}.")
    _give(info, table, names, form)


def sums(
    info: ModelInfo, table: ScoreTable, units: Sequence[Unit], form: str, score: ScoreName
) -> list[Figure]:
    """How many layers and weights are selected, and what they cost and take in a format."""
    names = {unit.name for unit in units}
    weights = sum(unit.parameters for unit in units)
    scored = set(table.units)
    everything = sum(unit.parameters for unit in info.units if unit.name in scored)
    items = [
        Figure("Layers", f"{len(units):,}", f"Selected, of {len(table.units):,} that are scored."),
        Figure("Parameters", words.count(weights), "Weights of the selected layers.",
               f"{words.share(weights / everything)} of the scored"),
    ]  # fmt: skip
    title = format_name(form)
    if score in ("fisher", "measured"):
        column = plots.score_column(table, form, score)
        errors = plots.stderr_column(table, form, score)
        total = sum(max(column[name], 0.0) for name in names)
        spread = plots.INTERVAL * sum(errors.get(name, 0.0) for name in names)
        whole = sum(max(value, 0.0) for value in column.values())
        share = f", {words.share(total / whole)} of all" if whole else ""
        items.append(
            Figure(f"{score_view.SCORE_TITLES[score]}, summed", words.nats(total),
                   f"Sum of the scores of the selected layers in {title}, on {score_view.measured_on(table)}. Their "
                   "standard errors are added up too: all layers were scored on the same sequences.",
                   f"± {words.significant(spread, 2)} (95 %){share}")
        )  # fmt: skip
    place = table.formats.index(form)
    stored = sum(
        row[place] for name, row in zip(table.units, table.storage_bits, strict=True) if name in names
    )
    items.append(
        Figure(f"Size in {title}", words.size(stored / 8), "All stored bits, scales and zero points included.",
               words.bits(stored / weights))
    )  # fmt: skip
    return items


def _give(info: ModelInfo, table: ScoreTable, names: Sequence[str], form: str) -> None:
    offered = choices(table)
    if st.session_state.get(_FORM) not in offered:
        st.session_state[_FORM] = form
    chosen = st.selectbox(
        "In the recipe, give them", offered, key=_FORM, format_func=format_name, persist_state="session",
        help="The layers are pinned: they keep the format when the recipe's budget moves.",
    )  # fmt: skip
    with st.container(horizontal=True):
        st.button(
            "Give and pin", type="primary", icon=":material/lock:", key="selected:give", on_click=_change,
            args=(info, table, lambda: drafts.edit(info, table, dict.fromkeys(names, chosen or ORIGINAL)), len(names)),
        )  # fmt: skip
        st.button(
            "Pin as they are", key="selected:pin", on_click=_change,
            args=(info, table, lambda: drafts.pin(info, table, names, True), len(names)),
            help="They keep the formats that the recipe gives them now.",
        )  # fmt: skip
        st.button(
            "Undo", icon=":material/undo:", key="selected:undo", disabled=not drafts.can_undo(),
            on_click=drafts.undo, args=(info, table),
        )  # fmt: skip
    link("recipe", "See them in the recipe")


def _change(info: ModelInfo, table: ScoreTable, act: Callable[[], None], count: int) -> None:
    """Change the recipe under work, or the one that the budget gives, and say so."""
    try:
        before = drafts.ensure(info, table)
    except QuantError as error:
        say(str(error), ":material/block:")
        return
    act()
    if drafts.current(info) != before:
        layers = "layer is" if count == 1 else "layers are"
        say(f"{count:,} {layers} pinned in the recipe.", ":material/lock:")
