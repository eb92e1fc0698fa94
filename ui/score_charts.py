"""The views of a score table: map, formats, ranking, scores compared, rows; a click opens the layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from quant_core import plots
from quant_core.schema import ORIGINAL, ModelInfo, ScoreName, ScoreTable
from ui import selection, state, theme, what_if, words
from ui.format_names import short_names
from ui.score_view import SCORE_TITLES, SCORES, available, measured_on

VIEWS = {
    "map": "Map",
    "formats": "All formats",
    "ranking": "Ranking",
    "agreement": "Scores compared",
    "what-if": "What if",
    "table": "Table",
}
VIEW = state.choice_param("view", "the view", tuple(VIEWS))
SCALE = state.choice_param("scale", "the colour scale", ("own", "common"))
SHOW = state.choice_param("show", "what the map shows", ("score", "bits"))
SHOWN = {"score": "one format", "bits": "bits to reach a KL"}
REACH = state.number_param("reach", "the KL that a layer may cost", 0.001, 1e-9, 1e3)
CAREFUL = state.choice_param("careful", "which end of the interval counts", ("no", "yes"))
STEPS = tuple(float(f"{digit}e{power}") for power in range(-6, 0) for digit in (1, 2, 5))
"""KL that a layer may cost, in nats a token, to choose from."""
TOP = state.integer_param("top", "the number of layers", 20, 5, 500)
ACROSS = state.choice_param("across", "the score to compare with", ("weight", "output", "measured", "fisher"))


def chart_key(name: str) -> str:
    """A clickable chart's key: new whenever the layer was chosen elsewhere, so that no old click lingers."""
    known = _clicks()
    if known["unit"] != state.UNIT.get():
        known["unit"], known["turn"] = state.UNIT.get(), known["turn"] + 1
    return f"{name}:{known['turn']}"


def _clicks() -> dict[str, Any]:
    """The layer that the charts were drawn for last, and how often that changed without a click on them."""
    known: dict[str, Any] = st.session_state.setdefault("scores:clicks", {"unit": "", "turn": 0})
    return known


def open_clicked(key: str) -> None:
    """A cell or a dot was clicked: open its layer, and its format if it tells one."""
    unit, *form = plots.clicked(st.session_state.get(key)) or ("",)
    if unit:
        _clicks()["unit"] = unit
        state.UNIT.set(unit)
    if form:
        state.FORMAT.set(form[0])


def _chart(figure: go.Figure, name: str, alt: str) -> None:
    key = chart_key(name)
    with st.container(key=f"cells-{name}"):
        theme.chart(figure, key, alt, on_select=lambda: open_clicked(key), selection_mode="points")


def _cells(figure: go.Figure, data: plots.Fold, info: ModelInfo, name: str, alt: str) -> None:
    """A map: a click opens a layer or a block of experts, or a drag selects layers, as the user chose."""
    several = selection.DRAG.get() == "select"
    key = f"{name}:several" if several else chart_key(name)
    take = selection.taker(info, data, key) if several else lambda: _open_cell(info, data, key)
    with st.container(key=f"cells-{name}"):
        theme.chart(figure, key, alt, on_select=take, **selection.box(figure, several))


def _open_cell(info: ModelInfo, data: plots.Fold, key: str) -> None:
    """A cell was clicked: open its layer, or its block where it stands for several experts."""
    if not selection.open_block(info, data, key):
        open_clicked(key)


def _marked(info: ModelInfo, table: ScoreTable, data: plots.Fold) -> tuple[str, ...]:
    """The cells with an outline: of the selected layers, or of the one that is open."""
    if selection.DRAG.get() == "select":
        return data.drawn(selection.selected(info, table))
    return data.drawn([state.UNIT.get()])


def answer(info: ModelInfo, table: ScoreTable, score: ScoreName) -> None:
    """Which layers need many bits, in words, and the way to the map of them."""
    if score not in ("fisher", "measured"):
        return
    errors, limit = plots.INTERVAL if CAREFUL.get() == "yes" else 0.0, REACH.get()
    found = plots.bits_to_reach(info, table, limit, score, errors)
    sentence = plots.needs_text(plots.needs(info, table, limit, score, errors))
    with st.container(horizontal=True, vertical_alignment="center", key="answer"):
        st.markdown(
            f"{sentence} {plots.hungriest_text(info, found)}".strip(), width="stretch",
            help="What one layer may cost alone, in KL divergence from the original's predictions; what all cost is "
            "about the sum. 0.01 nats/token raise the perplexity on the model's own text by 1 %. The limit stands "
            "beside the map of bits.",
        )  # fmt: skip
        if VIEW.get() != "map" or SHOW.get() != "bits":
            st.button("Show the bits of every layer", key="scores:show-bits", on_click=_show_bits)
        else:
            st.caption(
                ":material/arrow_downward: The map below shows the bits of every layer.", width="content"
            )


def _show_bits() -> None:
    VIEW.set("map")
    SHOW.set("bits")


def places() -> tuple[DeltaGenerator, DeltaGenerator]:
    """Where the view and the layer stand: side by side, but a table takes the whole width."""
    if VIEW.get() == "table":
        return st.container(), st.container()
    chart, layer = st.columns([1.75, 1], gap="large")
    return chart, layer


def draw(
    info: ModelInfo, table: ScoreTable, tables: Sequence[ScoreTable], form: str, score: ScoreName
) -> None:
    """The view that the user chose."""
    st.html("<style>@media (max-width: 700px) {[class*='st-key-cells-'] .textpoint {display: none}}</style>")
    view = VIEW.get()
    if view == "map":
        _map(info, table, form, score)
    elif view == "formats":
        _format_map(info, table, score)
    elif view == "ranking":
        _ranking(info, table, form, score)
    elif view == "agreement":
        _agreement(info, table, tables, form, score)
    elif view == "what-if":
        what_if.draw(info, table, tables, form, score)
    else:
        _rows(info, table, form)


def _map(info: ModelInfo, table: ScoreTable, form: str, score: ScoreName) -> None:
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        st.segmented_control("Show", required=True, format_func=SHOWN.__getitem__, **SHOW.choice(list(SHOWN)))
        selection.switch("map")
        data = selection.folded(info, table, "map")
    if SHOW.get() == "bits":
        _bits_map(info, table, data, score)
    else:
        _score_map(info, table, data, form, score)


def _bits_map(info: ModelInfo, table: ScoreTable, data: plots.Fold, score: ScoreName) -> None:
    """The fewest bits with which each layer costs no more than a threshold, and in words which need many."""
    if score not in ("fisher", "measured"):
        st.caption(
            "Bits to reach a KL need a score that is one: choose **Predicted KL** or **Measured KL** above."
        )
        return
    left, right = st.columns([3, 2], gap="medium", vertical_alignment="bottom")
    left.select_slider(
        "KL that a layer may cost (nats/token)", **REACH.choice(sorted({*STEPS, REACH.get()})),
        format_func=plots.number,
        help="How far quantizing this layer alone may move the next-token distribution, on the calibration text. The "
        "map shows the format of fewest stored bits that stays below.",
    )  # fmt: skip
    st.session_state["scores:careful"] = CAREFUL.get() == "yes"
    right.toggle(
        "Upper end of 95 %", key="scores:careful",
        on_change=lambda: CAREFUL.set("yes" if st.session_state["scores:careful"] else "no"),
        help="On: the upper end of a score's 95 % interval has to stay below. Off: the score itself.",
    )  # fmt: skip
    errors = plots.INTERVAL if CAREFUL.get() == "yes" else 0.0
    sentence = plots.needs_text(plots.needs(info, table, REACH.get(), score, errors))
    found = plots.bits_to_reach(info, table, REACH.get(), score, errors)
    cells = plots.reach_map(data, found, {unit.name: unit.parameters for unit in info.units})
    titles = short_names(tuple(cells.forms)) | {ORIGINAL: "keep original"}
    title = f"Bits to reach {plots.number(REACH.get())} nats/token"
    figure = plots.draw_recipe_bands(cells, theme.palette(), _marked(info, table, data), titles, title)
    _cells(figure, data, info, "map", f"{title}, by block and role. {sentence.replace('**', '')}")


def _score_map(info: ModelInfo, table: ScoreTable, drawn: plots.Fold, form: str, score: ScoreName) -> None:
    st.session_state["scores:scale"] = SCALE.get() == "common"
    st.toggle(
        "Same colours for every format", key="scores:scale",
        on_change=lambda: SCALE.set("common" if st.session_state["scores:scale"] else "own"),
        help="On: colours can be compared between formats. Off: the whole scale for this format.",
    )  # fmt: skip
    data = plots.score_map(drawn.model, drawn.table, form, score, SCALE.get() == "common")
    what = "cells of experts added up" if drawn.closed else "layers"
    alt = f"{data.title} of {len(drawn.table.units)} {what}, by block and role, from {data.low:.2g} to {data.high:.2g}."
    _cells(plots.draw_score_map(data, theme.palette(), _marked(info, table, drawn)), drawn, info, "map", alt)
    if drawn.closed:
        st.caption("A cell is the sum over its block's experts, for errors that are shares their mean.")


def _format_map(info: ModelInfo, table: ScoreTable, score: ScoreName) -> None:
    drawn = selection.folded(info, table, "formats")
    data = plots.format_map(drawn.model, drawn.table, score)
    alt = f"{data.title}: {len(drawn.table.units)} rows, {len(table.formats)} formats."
    figure = plots.draw_score_map(data, theme.palette(), drawn.drawn([state.UNIT.get()]))
    key = chart_key("formats")
    with st.container(key="cells-formats"):
        theme.chart(figure, key, alt, on_select=lambda: _open_cell(info, drawn, key), selection_mode="points")


def _ranking(info: ModelInfo, table: ScoreTable, form: str, score: ScoreName) -> None:
    most = min(max(len(table.units), 6), 500)
    TOP.set(min(TOP.get(), most))
    st.slider("Layers shown", 5, most, **TOP.widget())
    data = plots.ranking(info, table, form, score, TOP.get())
    alt = f"The {len(data.units)} most sensitive layers in {form}: {', '.join(data.labels[:5])} and so on."
    _chart(plots.draw_ranking(data, theme.palette(), state.UNIT.get()), "ranking", alt)
    if not any(high > low for low, high in zip(data.lows, data.highs, strict=True)):
        st.caption("This score carries no standard error, so ties cannot be told.")
    elif data.runs:
        st.caption("A line on the right joins layers that cannot be told from the uppermost of them.")


def _agreement(
    info: ModelInfo, table: ScoreTable, tables: Sequence[ScoreTable], form: str, score: ScoreName
) -> None:
    """One score against another; a score that this table lacks comes from another sweep of the same model."""
    sources = {name: found for name in SCORES if (found := _source(name, form, table, tables))}
    others = [name for name in sources if name != score]
    if "measured" not in sources:
        st.caption(
            "Run a sweep with the score **Measured KL** to check the prediction against the truth here."
        )
    if not others:
        return
    across = cast(ScoreName, ACROSS.get() if ACROSS.get() in others else others[0])
    st.session_state["scores:across"] = across
    st.segmented_control(
        "Against", others, format_func=lambda name: SCORE_TITLES[name], key="scores:across", required=True,
        on_change=lambda: ACROSS.set(st.session_state["scores:across"]),
    )  # fmt: skip
    data = plots.score_agreement(info, sources[across], table, form, across, score)
    alt = f"{SCORE_TITLES[score]} against {SCORE_TITLES[across]} in {form}. {plots.rank_text(data)}"
    _chart(plots.draw_score_agreement(data, theme.palette(), state.UNIT.get()), "agreement", alt)
    st.dataframe(_correlations(info, sources, form), alt="Rank correlations of the scores", width="content")
    st.caption(
        f"Spearman's rank correlation in {form} of each pair of scores: 1 is the same order of layers."
    )
    if sources[across] is not table:
        st.caption(f"{SCORE_TITLES[across]} on {measured_on(sources[across])}.")


def _source(
    score: ScoreName, form: str, table: ScoreTable, tables: Sequence[ScoreTable]
) -> ScoreTable | None:
    """The table to take a score from: the one shown, else the newest that has it in this format."""
    return next((each for each in (table, *tables) if each.scores(score) and form in each.formats), None)


def _correlations(info: ModelInfo, sources: dict[ScoreName, ScoreTable], form: str) -> pd.DataFrame:
    names = list(sources)
    rows = [
        [plots.score_agreement(info, sources[a], sources[b], form, a, b).rank for b in names] for a in names
    ]
    titles = [SCORE_TITLES[name] for name in names]
    return pd.DataFrame(rows, index=titles, columns=titles).round(3)


def score_rows(info: ModelInfo, table: ScoreTable) -> pd.DataFrame:
    """Every unit in every format: bits, all scores and their standard errors, one row each."""
    units = {unit.name: unit for unit in info.units}
    rows = []
    for place, name in enumerate(table.units):
        unit = units.get(name)
        for column, form in enumerate(table.formats):
            row: dict[str, object] = {
                "unit": name,
                "block": unit.block if unit else None,
                "role": unit.role if unit else "",
                "weights": unit.parameters if unit else None,
                "format": form,
                "from": "state" if form in table.rescored else "sweep",
                "bits_per_weight": table.storage_bits[place][column] / unit.parameters if unit else None,
            }
            for score in available(table):
                row[score] = table.scores(score)[place][column]
            for score, errors in (("fisher", table.fisher_stderr), ("measured", table.measured_stderr)):
                if errors:
                    row[f"{score}_stderr"] = errors[place][column]
            rows.append(row)
    return pd.DataFrame(rows)


def _rows(info: ModelInfo, table: ScoreTable, form: str) -> None:
    frame = score_rows(info, table)
    shown = frame[frame["format"] == form].drop(columns=["format", "from"])
    shown = shown.sort_values(available(table)[0], ascending=False)
    config = {
        "unit": st.column_config.TextColumn("Layer", pinned=True),
        "block": st.column_config.NumberColumn("Block"),
        "role": st.column_config.TextColumn("Role"),
        "weights": st.column_config.NumberColumn("Weights", format="localized"),
        "bits_per_weight": st.column_config.NumberColumn("Bits a weight", format="%.2f"),
        "fisher": st.column_config.NumberColumn("Predicted KL (nats/token)", format="%.3g"),
        "fisher_stderr": st.column_config.NumberColumn("± standard error", format="%.2g"),
        "measured": st.column_config.NumberColumn("Measured KL (nats/token)", format="%.3g"),
        "measured_stderr": st.column_config.NumberColumn("± standard error ", format="%.2g"),
        "output": st.column_config.NumberColumn("Output error (share)", format="%.3g"),
        "weight": st.column_config.NumberColumn("Weight error (share)", format="%.3g"),
    }
    st.dataframe(shown, hide_index=True, height=420, column_config=config, alt=f"Scores in {form}")
    st.download_button(
        f"Download CSV ({len(frame):,} rows, all formats)", frame.to_csv(index=False),
        f"sensitivity-{words.fingerprint(info.fingerprint)}.csv", "text/csv", icon=":material/download:",
        on_click="ignore",
    )  # fmt: skip
