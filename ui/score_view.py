"""Score tables on screen: which format and score are shown, what they add up to, and one layer's share."""

from __future__ import annotations

from typing import Any, cast

import streamlit as st

from quant_core import plots
from quant_core.schema import ModelInfo, ScoreName, ScoreTable, Solution, Unit
from ui import layers, scores, state, theme, words
from ui.entry import link
from ui.format_names import format_name, short_names
from ui.jobs import guarded, workspace
from ui.widgets import Figure, figures, notes

SCORES: tuple[ScoreName, ...] = ("fisher", "measured", "output", "weight")
SCORE_TITLES: dict[ScoreName, str] = {
    "fisher": "Predicted KL",
    "measured": "Measured KL",
    "output": "Output error",
    "weight": "Weight error",
}
SCORE_HELP = (
    "**Predicted KL**: what quantizing this layer alone adds to the model's KL divergence, from one forward and "
    "backward pass (Fisher score). **Measured KL**: the same, measured layer by layer. **Output error**: "
    "|ΔW·x|² / |W·x|² on the calibration text. **Weight error**: |ΔW|² / |W|²; needs no text, and says little about "
    "what matters to the model."
)
REASON_HELP = (
    "The layer's KL divided by the median layer's, as a product. **Weights**: its weight error |ΔW|² / |W|² against "
    "the median's. **Inputs**: its output error |ΔW·x|² / |W·x|² against the median's, divided by that. **Model**: "
    "the rest, how strongly the predictions react to an error of this output."
)
_PROPOSED = "scores:proposed"
TIES = 4
"""Tied layers that are named; of more their number is told."""
MANY_LAYERS = 2000
"""Of more layers, only those of one block are listed."""
MANY_FORMATS = 12
"""Up to so many formats stand side by side to choose from; more are a list."""


def measured_on(table: ScoreTable) -> str:
    """Text, tokens and seed behind a table, for a caption."""
    if not table.tokens:
        return f"the weights alone, {words.duration(table.seconds)} of computing"
    return (
        f"{table.tokens:,} tokens in {table.sequences:,} sequences of {table.text_label}, "
        + (f"read {table.labels} times, " if table.labels > 1 else "")
        + f"seed {table.seed}, {words.duration(table.seconds)} of computing"
    )


def available(table: ScoreTable) -> list[ScoreName]:
    """The scores that a table holds, the most telling first."""
    return [score for score in SCORES if table.scores(score)]


def controls(table: ScoreTable) -> tuple[str, ScoreName]:
    """Which format and which score of the table are shown."""
    place = st.container(horizontal=True, gap="medium", vertical_alignment="bottom")
    form = shown_format(table)
    labels = short_names(table.formats)
    labels |= {name: f"{labels[name]} (from the state)" for name in table.rescored}
    st.session_state["scores:format"] = form
    chosen: dict[str, Any] = {
        "key": "scores:format", "format_func": labels.__getitem__, "help": "The scores of every layer in this format.",
        "on_change": lambda: state.FORMAT.set(st.session_state["scores:format"]),
    }  # fmt: skip
    if len(table.formats) <= MANY_FORMATS:
        place.segmented_control("Format", table.formats, required=True, wrap=True, **chosen)
    else:
        place.selectbox(f"Format ({len(table.formats)})", table.formats, width=300, **chosen)
    names = available(table)
    score = cast(ScoreName, state.SCORE.get() if state.SCORE.get() in names else names[0])
    several = len(names) > 1  # the one that a sweep knows first is nobody's choice, and not to be remembered
    key = "scores:score" if several else "scores:only-score"
    st.session_state[key] = score
    place.segmented_control(
        "Score", names, format_func=lambda name: SCORE_TITLES[name], key=key, required=True, wrap=True,
        on_change=(lambda: state.SCORE.set(st.session_state[key])) if several else None, help=SCORE_HELP,
    )  # fmt: skip
    return form, score


def shown_format(table: ScoreTable) -> str:
    """The format that is open if the table has it, else one of its family, else one of the default's."""
    wanted = state.FORMAT.get()
    if wanted in table.formats:
        return wanted
    for family in (wanted, state.FORMAT.default):
        alike = [name for name in table.formats if _family(name) == _family(family)]
        if alike:
            return alike[0]
    return table.formats[len(table.formats) // 2]


def _family(name: str) -> str:
    return name.partition("@")[0].partition("/")[0]


def _phrase(score: ScoreName) -> str:
    title = SCORE_TITLES[score]
    return title[0].lower() + title[1:]


def summary(info: ModelInfo, table: ScoreTable, form: str, score: ScoreName) -> None:
    """What the format costs if every layer takes it, and where that cost sits."""
    column = plots.score_column(table, form, score)
    order = sorted(column, key=lambda name: -column[name])
    units = {unit.name: unit for unit in info.units}
    total = sum(max(value, 0.0) for value in column.values())
    items = []
    if score in ("fisher", "measured"):
        whole = guarded(lambda: workspace().price(info, table, dict.fromkeys(table.units, form), score))
        if whole is not None:
            items += _uniform_figures(whole, table, form, score)
    if order and total > 0:
        first = units.get(order[0])
        tenth = max(len(order) // 10, 1)
        share = sum(max(column[name], 0.0) for name in order[:tenth]) / total
        items.append(Figure("Most sensitive", first.role if first else order[0],
                            f"{order[0]}: {_value(column[order[0]], score)} in {form}.",
                            f"in block {first.block}" if first and first.block >= 0 else ""))  # fmt: skip
        items.append(Figure(f"Held by the top {tenth}", words.share(share),
                            f"Share of the sum that the {tenth} most sensitive of {len(order)} layers hold. The more, "
                            "the more a mixed recipe can gain."))  # fmt: skip
    figures(items)
    notes(table.notes, "scores")


def _uniform_figures(whole: Solution, table: ScoreTable, form: str, score: ScoreName) -> list[Figure]:
    spread = f"± {plots.number(1.96 * whole.predicted_stderr, 2)} (95 %)" if whole.predicted_stderr else ""
    return [
        Figure("KL with this format for all", words.nats(whole.predicted_kl),
               f"Sum of the {_phrase(score)} over {len(table.units)} layers in {form}. Holds up to about 0.3 "
               f"nats/token; above that, measure.", spread),
        Figure("Size with it", words.bits(whole.average_bits),
               "Average stored bits a decided weight, scales and zero points included."),
    ]  # fmt: skip


def _value(value: float, score: ScoreName) -> str:
    return plots.quantity(value, plots.SCORES[score].unit)


def open_layer(info: ModelInfo, table: ScoreTable) -> Unit:
    """The layer that is open, one that the table holds; as long as nobody chose one, the most sensitive."""
    known = set(table.units)
    if state.UNIT.get() in ("", st.session_state.get(_PROPOSED)):
        names = available(table)
        score = cast(ScoreName, state.SCORE.get() if state.SCORE.get() in names else names[0])
        column = plots.score_column(table, shown_format(table), score)
        state.UNIT.set(max(column, key=column.__getitem__))
        st.session_state[_PROPOSED] = state.UNIT.get()
    return layers.current([unit for unit in info.units if unit.name in known])


def layer_panel(info: ModelInfo, table: ScoreTable, unit: Unit, form: str, score: ScoreName) -> None:
    """The layer that is open, in all formats; a selectbox does what a click on a cell does."""
    known = set(table.units)
    if len(known) > MANY_LAYERS:  # a list of all would slow down every click
        known = {each.name for each in info.units if each.block == unit.block and each.name in known}
    titles = {each.name: layers.title(each) for each in info.units if each.name in known}
    st.session_state["scores:unit"] = unit.name
    st.selectbox(
        "Layer", list(titles), format_func=lambda name: titles.get(name, name), key="scores:unit",
        on_change=lambda: state.UNIT.set(st.session_state["scores:unit"]),
        help="Pick a layer here or click it in the chart."
        + (" The list holds the block that is open." if len(table.units) > MANY_LAYERS else ""),
    )  # fmt: skip
    st.caption(f"`{unit.name}` · {unit.parameters:,} weights")
    if score in ("fisher", "measured") and (found := plots.reason(table, unit.name, form, score)):
        st.markdown(f"**Why in {format_name(form)}:** {plots.reason_text(found)}", help=REASON_HELP)
    _ties(info, table, unit, form, score)
    data = plots.format_profile(info, table, unit.name, score)
    alt = f"{SCORE_TITLES[score]} of {unit.name} in {len(data.formats)} formats."
    theme.chart(plots.draw_format_profile(data, theme.palette()), "profile", alt)
    link("weights", "Open its weights", unit=unit.name, format=form)


def _ties(info: ModelInfo, table: ScoreTable, unit: Unit, form: str, score: ScoreName) -> None:
    """Which layers' scores cannot be told from this one's."""
    errors = plots.stderr_column(table, form, score)
    if not errors:
        return
    alike = set(plots.tied_with(unit.name, plots.score_column(table, form, score), errors))
    names = [plots.short_name(each) for each in info.units if each.name in alike]
    if not names:
        st.caption(f"In {format_name(form)} its cost can be told from every other layer's.")
        return
    more = f" and {len(names) - TIES} more" if len(names) > TIES else ""
    st.caption(
        f"In {format_name(form)} it costs as much as {', '.join(names[:TIES])}{more}, as far as these scores can tell: "
        "the differences are within their 95 % intervals."
    )


def layer_cost(info: ModelInfo, unit: Unit, form: str) -> None:
    """On the weights page: what this layer costs the model in this format, if that is known."""
    table = scores.table(info)
    score = available(table)[0] if table else "fisher"
    column = plots.score_column(table, form, score) if table else {}
    if table is None or unit.name not in column:
        return
    order = sorted(column.values(), reverse=True)
    st.markdown(
        f"**What it costs the model:** {_value(column[unit.name], score)} of {_phrase(score)} in "
        f"{format_name(form)}, rank {order.index(column[unit.name]) + 1} of {len(order)}."
    )
    st.caption(f"On {measured_on(table)}.")
