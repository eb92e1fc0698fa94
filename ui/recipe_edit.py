"""The lower half of the recipe page: change the format of layers by clicking, by pattern, or in a table;
pins.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from quant_core.contrast import main_score
from quant_core.errors import QuantError
from quant_core.plots import Fold, where
from quant_core.plots.bands import RecipeBands, draw_recipe_bands, recipe_bands
from quant_core.plots.sizes import stored_bits
from quant_core.recipes import MIXES
from quant_core.schema import ORIGINAL, Limits, ModelInfo, ScoreTable
from ui import added_formats, recipe_terms, selection, terms, theme, words
from ui import recipe_draft as drafts
from ui.format_names import format_name, method_name, short_names
from ui.jobs import workspace
from ui.recipe_draft import Draft
from ui.score_view import MANY_FORMATS, MANY_LAYERS

_BANDS, _CHOSEN, _TABLE, _PATTERN = "bands", "edit:chosen", "edit:table", "edit:pattern"
_PIN = "edit:pin"
MANY_COLOURS = 10
"""Up to so many formats have a colour each, whether in use or not; of more only those in use have one."""


def choices(table: ScoreTable) -> list[str]:
    """Formats that a layer may take: those with scores, by rising size, and the original."""
    sizes = _stored(table)
    return [name for _, name in sorted(zip(sizes, table.formats, strict=True))] + [ORIGINAL]


def uniform_bits(info: ModelInfo, table: ScoreTable) -> dict[str, float]:
    """Average stored bits a weight of each format in ``choices``, if every decided layer has it."""
    scored = set(table.units)
    decided = [unit for unit in info.units if unit.name in scored]
    weights = sum(unit.parameters for unit in decided)
    found = {ORIGINAL: sum(unit.parameters * unit.bits for unit in decided) / weights}
    found |= {name: size / weights for name, size in zip(table.formats, _stored(table), strict=True)}
    return {name: found[name] for name in choices(table)}


def _stored(table: ScoreTable) -> list[int]:
    """Bits that all layers take in each format."""
    whole = np.array(table.storage_bits, np.int64).reshape(-1, len(table.formats)).sum(axis=0)
    return [int(size) for size in whole]


def layer_scores(table: ScoreTable, assignment: Mapping[str, str]) -> dict[str, float]:
    """Predicted KL of each unit in its format, in nats a token."""
    matrix = table.scores(main_score(table))
    column = {name: index for index, name in enumerate(table.formats)}
    return {
        unit: max(matrix[row][column[assignment[unit]]], 0.0) if assignment[unit] in column else 0.0
        for row, unit in enumerate(table.units)
    }


def bands(info: ModelInfo, table: ScoreTable, draft: Draft) -> None:
    """Block by role, coloured by format; a click chooses a layer for the editor below."""
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        several = selection.switch("bands")
        drawn = selection.folded(info, table, "bands")
    chosen = drawn.drawn(selection.selected(info, table))
    data, titles = drawn_bands(info, table, drawn, draft.assignment, draft.pins)
    figure = draw_recipe_bands(data, theme.palette(), chosen, titles)
    figure.update_layout(uirevision="bands")
    take = selection.taker(info, drawn, _BANDS)

    def clicked() -> None:
        if several or not selection.open_block(info, drawn, _BANDS):
            take()

    theme.chart(
        figure, _BANDS, f"Format of every layer, by block and role: {mix_text(draft.assignment)}.", on_select=clicked,
        **selection.box(figure, several),
    )  # fmt: skip


def mix_text(assignment: Mapping[str, str]) -> str:
    """How many layers have which format: ``41 in int4/g64/asym, 15 in int8/g64/asym``."""
    return ", ".join(f"{count:,} in {name}" for name, count in Counter(assignment.values()).most_common())


def drawn_bands(
    info: ModelInfo,
    table: ScoreTable,
    drawn: Fold,
    assignment: Mapping[str, str],
    pins: Iterable[str] = (),
    others: Iterable[str] = (),
) -> tuple[RecipeBands, dict[str, str]]:
    """A recipe's formats on the map that is drawn, and what they are called; a cell of several experts shows the
    format of most.

    All formats have a key, not only those in use (and ``others``): each keeps its colour, and the chart its height,
    when the budget moves.
    """
    most, mixed = drawn.most(assignment)
    bits = drawn.sums(stored_bits(info, table, assignment))
    data = recipe_bands(
        drawn.model, most, {name: int(value) for name, value in bits.items()}, drawn.drawn(pins),
        drawn.sums(layer_scores(table, assignment)), mixed,
    )  # fmt: skip
    keys = uniform_bits(info, table)
    if len({name.partition("@")[0] for name in keys}) > MANY_COLOURS:
        used = {*data.formats, *others}
        keys = {name: value for name, value in keys.items() if name in used}
    data = data._replace(formats=tuple(keys), bits=tuple(keys.values()))
    titles = short_names(tuple(data.forms)) | {method: method_name(method) for method in data.methods}
    return data, titles


def editor(info: ModelInfo, table: ScoreTable, draft: Draft) -> None:
    """Ways to change formats, one open at a time, and the pins."""
    held = len(terms.RULES.get())
    one, pattern, rows, mixes, pins, rules = st.tabs(
        [
            "Chosen layers",
            "By pattern",
            "Table",
            "llama.cpp mixes",
            f"Pins ({len(draft.pins)})",
            f"Rules ({held})",
        ],
        on_change="rerun",
        key="edit:tab",
    )
    if one.open:
        with one:
            _edit_chosen(info, table, draft)
    if pattern.open:
        with pattern:
            _edit_pattern(info, table)
    if rows.open:
        with rows:
            _edit_table(info, table, draft)
    if mixes.open:
        with mixes:
            _take_mix(info, table)
    if pins.open:
        with pins:
            _edit_pins(info, table, draft)
    if rules.open:
        with rules:
            recipe_terms.rules_editor(info, table)


def _pin_toggle() -> None:
    st.session_state.setdefault(_PIN, True)
    st.toggle(
        "Pin what I change", key=_PIN, persist_state="session",
        help="A pinned layer keeps its format when the budget moves.",
    )  # fmt: skip


def _edit_chosen(info: ModelInfo, table: ScoreTable, draft: Draft) -> None:
    names = choices(table)
    chosen = _chosen(info, table)
    if not chosen:
        st.caption("Click a cell above to change its format, or draw a box over several.")
        return
    formats = {draft.assignment[unit] for unit in chosen}
    st.session_state["edit:format"] = formats.pop() if len(formats) == 1 else None
    field: dict[str, Any] = {
        "format_func": _with_cost(table, chosen), "key": "edit:format",
        "on_change": lambda: _apply(info, table, dict.fromkeys(chosen, st.session_state["edit:format"])),
        "help": "Behind each format: the predicted KL of the chosen layers in it, in nats a token.",
    }  # fmt: skip
    if len(names) <= MANY_FORMATS:
        st.segmented_control("Format", names, wrap=True, **field)
    else:
        st.selectbox("Format", names, placeholder="several formats", width=420, **field)
    held = [unit for unit in chosen if unit in draft.pins]
    with st.container(horizontal=True, vertical_alignment="center"):
        if held:
            st.button(
                f"Release {len(held)} pin{'s' if len(held) > 1 else ''}", icon=":material/lock_open:",
                key="edit:release", on_click=drafts.pin, args=(info, table, held, False),
            )  # fmt: skip
        else:
            st.button(
                "Pin as it is", icon=":material/lock:", key="edit:hold", on_click=drafts.pin,
                args=(info, table, chosen, True),
            )  # fmt: skip
        _pin_toggle()
    if len(chosen) == 1 and chosen[0] not in draft.pins:
        _trades(info, table, draft, chosen[0])


def _chosen(info: ModelInfo, table: ScoreTable) -> list[str]:
    """The layers to edit, chosen above or here: by name, as long as a list of all is short from a list."""
    if len(table.units) > MANY_LAYERS:
        selection.by_name(info, table)
        chosen = selection.selected(info, table)
        if chosen:
            known = set(chosen)
            units = [unit for unit in info.units if unit.name in known]
            st.caption(f"{len(chosen):,} layers: {where(units)}.")
        return chosen
    st.session_state[_CHOSEN] = selection.selected(info, table)
    return st.multiselect(
        "Layers", list(table.units), key=_CHOSEN, format_func=short_unit,
        on_change=lambda: selection.select(info, st.session_state[_CHOSEN]),
        placeholder="Click cells above, or choose layers here",
        help="Clicking a cell above chooses its layer; this list is the same choice by keyboard.",
    )  # fmt: skip


def _trades(info: ModelInfo, table: ScoreTable, draft: Draft, unit: str) -> None:
    """What another format for a layer would take from another one, at the same budget."""
    try:
        found = workspace().trades(
            info,
            table,
            draft.assignment,
            unit,
            draft.budget,
            draft.pins,
            main_score(table),
            draft.terms,
        )
    except QuantError:
        return  # an edited recipe that the target cannot hold has no trades under it
    short = short_names((*table.formats, ORIGINAL))
    lines = []
    for trade in found:
        change = f"{'+' if trade.added >= 0 else '−'}{words.significant(abs(trade.added), 2)} nats"
        partner = (
            f"{short_unit(trade.partner)} {short[trade.before]} → {short[trade.after]}, "
            if trade.partner
            else ""
        )
        lines.append(f"- **{short[trade.form]}**: {partner}predicted KL {change}")
    if lines:
        with st.expander("What would another format take from other layers?", icon=":material/swap_horiz:"):
            st.markdown("\n".join(lines))
            further = "" if draft.terms.limits == Limits() else " and every further limit"
            st.caption(
                "Each with the best change of one other layer that keeps to "
                f"{drafts.budget_text(draft.budget)}{further}."
            )


def _with_cost(table: ScoreTable, units: Sequence[str]) -> Callable[[str], str]:
    matrix = table.scores(main_score(table))
    place = {unit: row for row, unit in enumerate(table.units)}
    rows = [place[unit] for unit in units]
    short = short_names(table.formats)

    def text(name: str) -> str:
        if name == ORIGINAL:
            return "original · 0"
        column = table.formats.index(name)
        cost = sum(max(matrix[row][column], 0.0) for row in rows)
        return f"{short[name]} · {words.significant(cost, 2)}"

    return text


def _apply(info: ModelInfo, table: ScoreTable, changes: Mapping[str, str | None]) -> None:
    drafts.edit(
        info,
        table,
        {unit: name for unit, name in changes.items() if name},
        bool(st.session_state.get(_PIN, True)),
    )


def _edit_pattern(info: ModelInfo, table: ScoreTable) -> None:
    left, middle, right = st.columns([3, 2, 1], vertical_alignment="bottom")
    pattern = left.text_input(
        "Layers whose name matches", value="*.down_proj*", key=_PATTERN, live=True, persist_state="session",
        help="* stands for any text, ? for one letter: *.layers.0.* is the first block, * is every layer.",
    )  # fmt: skip
    name = middle.selectbox("get", choices(table), format_func=format_name, key="edit:pattern-format")
    found = drafts.matches(table, pattern or "")
    right.button(
        "Apply", type="primary", disabled=not found, key="edit:pattern-apply", width="stretch",
        on_click=_apply, args=(info, table, dict.fromkeys(found, name)),
    )  # fmt: skip
    if found:
        examples = ", ".join(short_unit(unit) for unit in found[:3])
        st.caption(
            f"{len(found)} of {len(table.units)} layers match: {examples}{' …' if len(found) > 3 else ''}"
        )
    else:
        st.caption(f":orange[No layer matches.] Names look like `{table.units[0]}`.")
    _pin_toggle()


def _take_mix(info: ModelInfo, table: ScoreTable) -> None:
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    name = left.selectbox(
        "Formats as llama-quantize gives them", list(MIXES), format_func=str.upper, index=list(MIXES).index("q4_k_m"),
        key="edit:mix", help="The rules by which llama.cpp mixes its formats, whatever the scores say: a recipe to "
        "compare yours with.",
    )  # fmt: skip
    try:
        mix = workspace().gguf_mix(info, name)
    except QuantError as error:
        st.caption(f":orange[{error}]")
        return
    wanted = {unit: mix[unit] for unit in table.units}
    missing = sorted(set(wanted.values()) - set(table.formats))
    right.button(
        "Apply", type="primary", disabled=bool(missing), key="edit:mix-apply", width="stretch",
        on_click=_apply, args=(info, table, wanted),
    )  # fmt: skip
    if missing:
        titles = ", ".join(format_name(form) for form in missing)
        if added_formats.add_button(missing, table, "edit:mix-add"):
            st.caption(f":orange[There are no scores yet for {titles}.]")
        else:
            st.caption(
                f":orange[The sweep lacks {titles}.] Score the layers in them too, on the Sensitivity page."
            )
    else:
        counts = Counter(wanted.values())
        st.caption(" · ".join(f"{format_name(form)}: {count} layers" for form, count in counts.most_common()))
    _pin_toggle()


def _edit_table(info: ModelInfo, table: ScoreTable, draft: Draft) -> None:
    """Every layer in a row; formats and pins are edited in place, multi-line paste and fill-down included.

    Of very many layers the experts of a role in a block are one row, whose changes all of them take, until their block
    is opened.
    """
    drawn = selection.folded(info, table, "table")
    frame = table_rows(info, table, drawn, draft)
    key = f"{_TABLE}:{st.session_state.get(_TABLE, 0)}"
    st.data_editor(
        frame, key=key, hide_index=True, height=380,
        disabled=["layer", "block", "weights", "mixed", "bits", "kl"],
        on_change=take_rows, args=(info, table, drawn, key), alt="Format, pin and predicted KL of every layer",
        placeholder="several",
        column_config={
            "layer": st.column_config.TextColumn("Layer", width="medium", pinned=True),
            "block": st.column_config.NumberColumn("Block", width="small"),
            "weights": st.column_config.NumberColumn("Weights", format="compact", width="small"),
            "format": st.column_config.SelectboxColumn(
                "Format", options=choices(table), required=not drawn.closed, width="medium",
                format_func=lambda name: format_name(str(name)),
                help="Empty where the experts have several formats; what you choose, all of them take."
                if drawn.closed
                else None,
            ),
            "mixed": st.column_config.TextColumn("Experts", width="medium"),
            "pinned": st.column_config.CheckboxColumn("Pin", width="small"),
            "bits": st.column_config.NumberColumn("Bits", format="%.2f", width="small", help="Stored bits a weight."),
            "kl": st.column_config.NumberColumn(
                "KL (10⁻³ nats)", format="%.4f",
                help="Predicted KL of this layer alone, or of a row's experts together, in 0.001 nats a token.",
            ),
        },
    )  # fmt: skip
    _pin_toggle()


def table_rows(info: ModelInfo, table: ScoreTable, drawn: Fold, draft: Draft) -> pd.DataFrame:
    """A row for each drawn unit: its weights, the format of all that it stands for, pin, bits a weight and KL."""
    rows = drawn.table.units
    members = [drawn.behind([row]) for row in rows]
    blocks = {unit.name: unit.block for unit in info.units}
    weights = drawn.sums({unit.name: unit.parameters for unit in info.units})
    bits = drawn.sums(stored_bits(info, table, draft.assignment))
    cost = drawn.sums(layer_scores(table, draft.assignment))
    most, mixed = drawn.most(draft.assignment)
    short = short_names(choices(table))
    frame = pd.DataFrame(
        {
            "layer": [_row_name(row) if drawn.needed else short_unit(row) for row in rows],
            "block": [blocks[names[0]] for names in members],
            "weights": [int(weights[row]) for row in rows],
            "format": [None if row in mixed else most[row] for row in rows],
            "mixed": [_experts(names, draft, short) for names in members],
            "pinned": [all(name in draft.pins for name in names) for names in members],
            "bits": [bits[row] / weights[row] for row in rows],
            "kl": [cost[row] * 1e3 for row in rows],
        }
    )
    return frame if drawn.closed else frame.drop(columns="mixed")


def _row_name(name: str) -> str:
    """As ``short_unit``, without the block, which has a column: ``mlp.experts.up_proj[*]``."""
    return re.sub(r"^.*?\.\d+\.", "", short_unit(name))


def _experts(names: Sequence[str], draft: Draft, short: Mapping[str, str]) -> str:
    """How many experts a row stands for, and how many have which format where they differ; empty for one layer."""
    if len(names) == 1:
        return ""
    counts = Counter(draft.assignment[name] for name in names).most_common()
    told = ", ".join(f"{count:,} {short[form]}" for form, count in counts)
    return told if len(counts) > 1 else f"{len(names):,}"


def take_rows(info: ModelInfo, table: ScoreTable, drawn: Fold, key: str) -> None:
    """Apply what was changed in the table's rows, to all that a row stands for: formats first, then pins."""
    rows = st.session_state[key].get("edited_rows", {})
    st.session_state[_TABLE] = (
        st.session_state.get(_TABLE, 0) + 1
    )  # the edits are taken: start a fresh editor
    changed = [(drawn.behind([drawn.table.units[int(row)]]), change) for row, change in rows.items()]
    _apply(
        info,
        table,
        {name: change["format"] for names, change in changed if "format" in change for name in names},
    )
    for on in (True, False):
        units = [name for names, change in changed if change.get("pinned") is on for name in names]
        if units:
            drafts.pin(info, table, units, on)


def _edit_pins(info: ModelInfo, table: ScoreTable, draft: Draft) -> None:
    if not draft.pins:
        st.caption("No layer is pinned. A pinned layer keeps its format when the budget moves.")
        return
    frame = pd.DataFrame(
        {"Layer": list(draft.pins), "Format": [format_name(name) for name in draft.pins.values()]}
    )
    picked = st.dataframe(
        frame, hide_index=True, on_select="rerun", selection_mode="multi-row", key="edit:pins",
        alt="Pinned layers and their formats",
    )  # fmt: skip
    rows = [list(draft.pins)[row] for row in picked["selection"]["rows"] if row < len(draft.pins)]
    with st.container(horizontal=True):
        st.button(
            "Release the selected", disabled=not rows, on_click=drafts.pin, args=(info, table, rows, False)
        )
        st.button("Release all", on_click=drafts.pin, args=(info, table, list(draft.pins), False))


def short_unit(name: str) -> str:
    """``model.layers.3.mlp.down_proj.weight`` as ``layers.3.mlp.down_proj``."""
    return name.removeprefix("model.").removeprefix("transformer.").removesuffix(".weight")
