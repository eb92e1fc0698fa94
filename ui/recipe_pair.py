"""Two recipes, A and B: A is held, B is the one under work; what differs, layer by layer, and what that does.

A is a saved recipe whose id the URL carries, so that a reload or a shared link finds it again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import streamlit as st

from quant_core.contrast import Changes, changes, main_score
from quant_core.errors import QuantError
from quant_core.plots import INTERVAL, draw_recipe_bands, stored_bits
from quant_core.schema import ORIGINAL, Evaluation, ModelInfo, Recipe, ScoreTable, Solution
from ui import added_formats, calibrate, recipe_edit, recipe_files, selection, setup, state, theme, words
from ui import recipe_draft as drafts
from ui.format_names import format_name
from ui.jobs import show_error, workspace
from ui.widgets import say

HELD = state.text_param("held", "the recipe held as A", pattern=r"[\w-]{0,64}")
state.MODELS_OWN.append(HELD)
_FILE, _FAILURE, _STORED = "pair:file", "pair:failure", "pair:stored"


FEW = 100
"""Up to so many layers both maps are drawn at once; of more they wait to be opened, to keep the slider quick."""


class Side(NamedTuple):
    """One of the two recipes."""

    assignment: Mapping[str, str]
    """Of every scored unit."""
    stored: Mapping[str, int]
    """Bits of each."""
    bits: float
    """Average, stored a decided weight."""
    bytes: float
    solution: Solution | None
    """What the scores on the page say of it; None where they lack one of its formats."""
    measured: Evaluation | None


def panel(
    info: ModelInfo, table: ScoreTable, draft: drafts.Draft, solution: Solution, measured: Evaluation | None
) -> None:
    """Ways to hold a recipe as A, and, once one is held, the two side by side."""
    with st.container(border=True, key="pair"):
        st.markdown("**A and B**")
        recipe = _held(info)
        _buttons(info, table, recipe)
        if recipe is None:
            st.caption("Hold a recipe as A, go on with this one as B, and see what the difference is.")
            return
        first = _first(info, table, recipe)
        bits = stored_bits(info, table, draft.assignment)
        second = Side(draft.assignment, bits, solution.average_bits, solution.total_bytes, solution, measured)
        found = changes(info, table, (first.assignment, second.assignment), (first.stored, second.stored))
        _cautions(info, table, recipe, first)
        _figures(info, table, first, second, found)
        if not found.units:
            st.caption("Both give every layer the same format.")
            return
        _layers(found)
        _bands(info, table, draft, first, found)


def _held(info: ModelInfo) -> Recipe | None:
    """The recipe that is held; none, after a sentence, if it is not to be had."""
    if not HELD.get():
        return None
    try:
        recipe = workspace().recipe(HELD.get())
        if recipe.fingerprint != info.fingerprint:
            raise QuantError("The recipe held as A belongs to another model.", "Hold one of this model.")
    except QuantError as error:
        show_error(error)
        return None
    return recipe


def _first(info: ModelInfo, table: ScoreTable, recipe: Recipe) -> Side:
    entries = {unit: recipe.units[unit] for unit in table.units if unit in recipe.units}
    assignment = {unit: entry.format for unit, entry in entries.items()}
    weights = {unit.name: unit.parameters for unit in info.units}
    scored = {*table.formats, ORIGINAL}
    stored = stored_bits(info, table, assignment) | {
        unit: round(entry.bits * weights[unit]) for unit, entry in entries.items() if entry.format not in scored
    }  # fmt: skip
    solution = (
        workspace().price(info, table, assignment, main_score(table))
        if scored.issuperset(assignment.values())
        else None
    )
    under = drafts.measure_request(info, recipe.assignment(), recipe.setup)
    measured = workspace().result(under) or recipe.measured
    return Side(assignment, stored, recipe.average_bits, recipe.total_bytes, solution, measured)


def _buttons(info: ModelInfo, table: ScoreTable, recipe: Recipe | None) -> None:
    with st.container(horizontal=True, gap="small"):
        st.button(
            "Hold as A" if recipe is None else "Hold this one as A", icon=":material/push_pin:", key="pair:hold",
            on_click=lambda: HELD.set(drafts.save(info, table)),
            help="Keeps the recipe as it is now; what you change from here on is B.",
        )  # fmt: skip
        with st.popover("Choose A", icon=":material/folder_open:"):
            _choose(info)
        if recipe is not None:
            st.button(
                "Swap A and B", icon=":material/swap_vert:", key="pair:swap", on_click=_swap,
                args=(info, table, recipe),
            )  # fmt: skip
            st.button(
                "Go back to A", icon=":material/undo:", key="pair:back", on_click=drafts.adopt, args=(info, recipe),
                help="Work goes on from A; Undo brings B back.",
            )  # fmt: skip
        if HELD.get():
            st.button("Let go of A", icon=":material/close:", key="pair:drop", on_click=HELD.set, args=("",))


def _swap(info: ModelInfo, table: ScoreTable, recipe: Recipe) -> None:
    """The recipe under work is held, and what was held goes under work."""
    HELD.set(drafts.save(info, table))
    drafts.adopt(info, recipe)


def _choose(info: ModelInfo) -> None:
    """A saved recipe or a file as A."""
    saved = {
        one.id: f"{words.bits(one.average_bits)}, {words.size(one.bytes)}, predicted {words.nats(one.predicted_kl)} · "
        f"{one.id[:8]}"
        for one in workspace().newest_recipes(info.fingerprint)
    }  # fmt: skip
    st.session_state[_STORED] = HELD.get() if HELD.get() in saved else None
    st.selectbox(
        "A saved recipe", list(saved), format_func=lambda name: saved.get(name, name), key=_STORED,
        placeholder="the newest first" if saved else "none is saved yet",
        on_change=lambda: HELD.set(st.session_state[_STORED] or ""),
        help="Every edit is saved, and so is what was measured or proved.",
    )  # fmt: skip
    st.file_uploader(
        "Or a file: a recipe, or settings for llm-compressor, GPTQModel or llama-quantize",
        type=["json", "yaml", "yml", "txt", "sh"],
        key=_FILE,
        on_change=_take_file,
        args=(info,),
    )
    failure = st.session_state.get(_FAILURE)
    if isinstance(failure, QuantError):
        show_error(failure)


def _take_file(info: ModelInfo) -> None:
    file = st.session_state.get(_FILE)
    st.session_state.pop(_FAILURE, None)
    if file is None:
        return
    try:
        HELD.set(workspace().save_recipe(recipe_files.read(file.name, file.getvalue(), info).recipe))
    except QuantError as error:
        st.session_state[_FAILURE] = error
    else:
        say(f"{file.name} is A now.", ":material/check_circle:")


def _cautions(info: ModelInfo, table: ScoreTable, recipe: Recipe, first: Side) -> None:
    """Why the two cannot be compared in full."""
    chosen = setup.current(info)
    if recipe.setup != chosen:
        asked, here = (
            setup.summary(each) or "nothing beside the weights' formats" for each in (recipe.setup, chosen)
        )
        st.caption(
            f":material/info: A was made with {asked}, B with {here}: predictions know of the weights alone."
        )
    if first.solution is None:
        missing = sorted(set(first.assignment.values()) - {*table.formats, ORIGINAL})
        names = ", ".join(format_name(name) for name in missing)
        st.caption(
            f":material/info: A has formats that are not scored here, so that its KL is not predicted: {names}."
        )
        added_formats.add_button(missing, table, "pair:add")


def _figures(info: ModelInfo, table: ScoreTable, first: Side, second: Side, found: Changes) -> None:
    """Size, bits, predicted and measured KL of both, and the difference."""
    size, bits = second.bytes - first.bytes, second.bits - first.bits
    rows = [
        ("All weights", words.size(first.bytes), words.size(second.bytes), _sign(size) + words.size(abs(size))),
        ("Average bits a weight", words.bits(first.bits), words.bits(second.bits), _sign(bits) + words.bits(abs(bits))),
        ("Predicted KL (95 %)", *(_predicted(info, table, side) for side in (first, second)),
         "–" if found.kl is None else _change(found.kl, found.stderr)),
    ]  # fmt: skip
    if first.measured is not None or second.measured is not None:
        rows.append(
            ("Measured KL (95 %)", _measured(first.measured), _measured(second.measured),
             measured_change(first.measured, second.measured))
        )  # fmt: skip
    frame = pd.DataFrame(rows, columns=["", "A, held", "B, under work", "B − A"]).set_index("")
    st.table(frame, border="horizontal")
    corrected = any(
        side.solution and calibrate.predicted(info, table, side.solution).kl != side.solution.predicted_kl
        for side in (first, second)
    )
    st.caption(
        (
            "B − A is of the sums of scores, before they are corrected by what was measured. "
            if corrected
            else ""
        )
        + "The interval of a predicted difference takes a layer's scores in two formats as independent and adds up "
        f"over layers: it is wider than need be. KL predicted on {table.tokens:,} tokens of {table.text_label}, "
        "measured on text apart from it."
    )


def _sign(value: float) -> str:
    return "+" if value > 0 else "−" if value < 0 else ""


def _change(value: float, stderr: float) -> str:
    return f"{_sign(value)}{words.significant(abs(value))} ± {words.significant(INTERVAL * stderr, 2)} nats/token"


def _predicted(info: ModelInfo, table: ScoreTable, side: Side) -> str:
    if side.solution is None:
        return "not scored"
    found = calibrate.predicted(info, table, side.solution)
    low, high = (words.significant(end, 2) for end in (found.low, found.high))
    return f"{words.nats(found.kl)} ({low} to {high})"


def _measured(found: Evaluation | None) -> str:
    if found is None:
        return "not measured"
    spread = words.significant(INTERVAL * found.kl_stderr, 2)
    return f"{words.significant(found.kl_mean)} ± {spread} nats/token"


def measured_change(first: Evaluation | None, second: Evaluation | None) -> str:
    """The difference of two measurements, if both were made on the same tokens."""
    if first is None or second is None:
        return "–"
    if (first.text_hash, first.tokens) != (second.text_hash, second.tokens):
        return "on other text"
    return _change(second.kl_mean - first.kl_mean, math.hypot(first.kl_stderr, second.kl_stderr))


def _layers(found: Changes) -> None:
    count = len(found.units)
    st.markdown(f"**{count:,} {'layer differs' if count == 1 else 'layers differ'}**")
    frame = pd.DataFrame(
        {
            "layer": [recipe_edit.short_unit(one.unit) for one in found.units],
            "A": [format_name(one.formats[0]) for one in found.units],
            "B": [format_name(one.formats[1]) for one in found.units],
            "bits": [one.bits for one in found.units],
            "kl": [None if one.kl is None else one.kl * 1e3 for one in found.units],
            "spread": [None if one.kl is None else INTERVAL * one.stderr * 1e3 for one in found.units],
        }
    )
    st.dataframe(
        frame, hide_index=True, height=min(38 + 35 * count, 320), alt="Layers that differ, the largest effect first",
        column_config={
            "layer": st.column_config.TextColumn("Layer", pinned=True),
            "bits": st.column_config.NumberColumn(
                "Bits, B − A", format="%+.2f", help="Change in stored bits a weight, scales included."
            ),
            "kl": st.column_config.NumberColumn(
                "KL, B − A (10⁻³ nats)", format="%+.4f",
                help="Change in the predicted KL of this layer alone, in 0.001 nats a token.",
            ),
            "spread": st.column_config.NumberColumn("± 95 % (10⁻³ nats)", format="%.4f"),
        },
    )  # fmt: skip


def _bands(info: ModelInfo, table: ScoreTable, draft: drafts.Draft, first: Side, found: Changes) -> None:
    """Both recipes on the map, one above the other, with an outline around what differs."""
    if first.solution is None:
        return
    box = st.expander(
        "Both on the map", icon=":material/grid_on:", key="pair:bands", on_change="rerun",
        expanded=len(table.units) <= FEW,
    )  # fmt: skip
    if not box.open:
        return
    with box:
        _both(info, table, draft, first, found)


def _both(info: ModelInfo, table: ScoreTable, draft: drafts.Draft, first: Side, found: Changes) -> None:
    drawn = selection.folded(info, table, "pair")
    marked = drawn.drawn(_units(found))
    used = {*first.assignment.values(), *draft.assignment.values()}
    for name, assignment, pins in (("A", first.assignment, ()), ("B", draft.assignment, tuple(draft.pins))):
        data, titles = recipe_edit.drawn_bands(info, table, drawn, assignment, pins, used)
        figure = draw_recipe_bands(data, theme.palette(), marked, titles, f"{name}: format of every layer")
        mix = recipe_edit.mix_text(assignment)
        theme.chart(figure, f"pair-{name}", f"{name}, by block and role: {mix}. Outlined is what differs.")


def _units(found: Changes) -> Sequence[str]:
    return [one.unit for one in found.units]
