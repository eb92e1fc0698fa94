"""The upper half of the recipe page: the budget, what it buys, and where that lies on the Pareto front."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from quant_core.allocation.solver import InfeasibleBudget
from quant_core.contrast import main_score
from quant_core.errors import QuantError
from quant_core.plots.pareto import Mark, draw_pareto_front, mark, pareto_front, some_points
from quant_core.schema import (
    Budget,
    Evaluation,
    ModelInfo,
    ParetoPoint,
    ScoreTable,
    Solution,
    Terms,
    Use,
    replace,
)
from ui import recipe_draft as drafts
from ui import recipe_references, recipe_terms, terms, theme, words
from ui.entry import link
from ui.format_names import format_name, short_names
from ui.jobs import workspace
from ui.live_slider import live_slider
from ui.proof import Standing
from ui.scores import table_key
from ui.widgets import Figure, figures, say

_EXACT, _KIND, _PRESET = "budget:exact", "budget:kind", "budget:preset"
MANY_PRESETS = 9
"""Up to so many uniform formats have a button each."""


class Landmarks(NamedTuple):
    """What does not move with the budget: one format for all, as far as the target holds it, and the front."""

    uniform: dict[str, Solution]
    front: tuple[ParetoPoint, ...]
    """By rising size."""
    line: Sequence[ParetoPoint]
    """Those of them that are drawn."""
    ends: str
    """Where a limit has the front begin or end, in words."""


def landmarks(info: ModelInfo, table: ScoreTable, pins: dict[str, str]) -> Landmarks:
    """The landmarks of a table under pins, target, rules and limits; computed once and then kept."""
    asked, key = terms.current(info), table_key(table)
    uniform = _uniform(f"{key} {asked.target}", asked.target, info, table)
    front, line, ends = _front(f"{key} {asked}", tuple(sorted(pins.items())), asked, info, table)
    return Landmarks(uniform, front, line, ends)


@st.cache_resource(max_entries=16, show_spinner=False)
def _uniform(key: str, _target: str, _info: ModelInfo, _table: ScoreTable) -> dict[str, Solution]:
    score, desk = main_score(_table), workspace()
    held = desk.held(_target, _info, _table.units, _table.formats)
    found = {name: desk.price(_info, _table, dict.fromkeys(_table.units, name), score)
             for name in held or _table.formats}  # fmt: skip
    return {name: found[name] for name in sorted(found, key=lambda name: found[name].average_bits)}


@st.cache_resource(max_entries=64, show_spinner=False)
def _front(
    key: str, pins: tuple[tuple[str, str], ...], _asked: Terms, _info: ModelInfo, _table: ScoreTable
) -> tuple[tuple[ParetoPoint, ...], Sequence[ParetoPoint], str]:
    try:
        front, ends = workspace().curve(_info, _table, dict(pins), main_score(_table), terms=_asked)
        return front, some_points(front), ends
    except QuantError:
        return (), (), ""  # nothing can meet the terms; the page says why


def controls(info: ModelInfo, table: ScoreTable, marks: Landmarks) -> DeltaGenerator:
    """Unit, exact number, and one chip for the size of each uniform format; gives the slider's place among them."""
    budget = drafts.BUDGET.get()
    left, middle, right = st.columns([1.5, 4, 1.3], vertical_alignment="bottom")
    st.session_state[_KIND] = budget.kind
    left.segmented_control(
        "Budget in", ["bits", "bytes"], format_func={"bits": "Average bits", "bytes": "MB"}.__getitem__,
        required=True, key=_KIND, on_change=_change_kind, args=(info, table),
        help="Average bits: all stored bits of the decided layers, scales and zero points included, divided by "
        "their number of weights. Megabytes: all weights of the model, undecided ones included (1 MB = 10⁶ bytes).",
    )  # fmt: skip
    st.session_state[_EXACT] = round(_value(budget), 4)
    right.number_input(
        "Exactly", min_value=0.0, step=_limits(marks, budget.kind)[2], format="%.3f", key=_EXACT,
        on_change=_take_exact, args=(info, table),
        help="Any number; the slider spans what is sensible.",
    )  # fmt: skip
    _presets(info, table, marks)
    return middle


def _presets(info: ModelInfo, table: ScoreTable, marks: Landmarks) -> None:
    """The sizes of the uniform formats, one press each; a list where there are many. Methods change no size."""
    kind = drafts.BUDGET.get().kind
    targets: dict[str, Budget] = {}
    for name, solution in marks.uniform.items():
        targets.setdefault(name.partition("@")[0], _budget_of(solution, kind))
    shown = short_names(tuple(targets))
    with st.container(horizontal=True, gap="xsmall", vertical_alignment="center", key="presets"):
        st.caption("Same size as", width="content")
        if len(targets) > MANY_PRESETS:
            st.session_state[_PRESET] = None
            st.selectbox(
                "Same size as", list(targets), format_func=lambda name: f"{shown[name]} · {_short(targets[name])}",
                key=_PRESET, on_change=_take_preset, args=(info, table, targets), label_visibility="collapsed",
                placeholder="a uniform format …", width=300,
            )  # fmt: skip
            return
        for name, target in targets.items():
            st.button(
                f"{shown[name]} · {_short(target)}", key=f"preset:{name}", type="tertiary",
                on_click=drafts.move_budget, args=(info, table, target),
                help=f"Set the budget to what {format_name(name)} takes when every layer has it.",
            )  # fmt: skip


def _take_preset(info: ModelInfo, table: ScoreTable, targets: dict[str, Budget]) -> None:
    name = st.session_state[_PRESET]
    if name in targets:
        drafts.move_budget(info, table, targets[name])


def slider(place: DeltaGenerator, info: ModelInfo, table: ScoreTable, marks: Landmarks) -> None:
    """The budget slider; drawn last, because its next value comes as soon as it is there again."""
    budget = drafts.BUDGET.get()
    low, high, step = _limits(marks, budget.kind)
    with place:
        live_slider(
            "Budget", low, high, min(max(_value(budget), low), high), step, "bits" if budget.kind == "bits" else "MB",
            "budget:slider", lambda move: drafts.move_budget(info, table, _budget(move.value), move.drag),
        )  # fmt: skip


def _value(budget: Budget) -> float:
    """The number that is shown for a budget: bits a weight, or megabytes."""
    return budget.value if budget.kind == "bits" else budget.value / 1e6


def _limits(marks: Landmarks, kind: str) -> tuple[float, float, float]:
    """Ends and step of the slider: from the floor to the largest uniform format."""
    points = marks.front
    sizes = [_size(solution, kind) for solution in marks.uniform.values()]
    floor = min([*sizes, *(_size(point, kind) for point in points[:1])])
    low, high = -(-floor * 100 // 1) / 100, max(sizes) + 0.01
    return low, max(round(high, 2), low + 0.1), 0.01 if kind == "bits" or high - low < 50 else 0.1


def _size(thing: Solution | ParetoPoint, kind: str) -> float:
    return thing.average_bits if kind == "bits" else thing.total_bytes / 1e6


def _budget_of(solution: Solution, kind: str) -> Budget:
    if kind == "bits":
        return Budget("bits", solution.average_bits)
    return Budget("bytes", solution.total_bytes)


def _short(budget: Budget) -> str:
    return f"{budget.value:.2f} bits" if budget.kind == "bits" else words.size(budget.value)


def _change_kind(info: ModelInfo, table: ScoreTable) -> None:
    """Say the same budget in the other unit."""
    kind = st.session_state[_KIND]
    scored = set(table.units)
    decided = [unit for unit in info.units if unit.name in scored]
    weights = sum(unit.parameters for unit in decided)
    fixed = info.original_bits - sum(unit.parameters * unit.bits for unit in decided)
    value = drafts.BUDGET.get().value
    if kind != drafts.BUDGET.get().kind:
        changed = (value * weights + fixed) / 8 if kind == "bytes" else (value * 8 - fixed) / weights
        drafts.move_budget(info, table, Budget(kind, max(changed, 1e-6)))


def _take_exact(info: ModelInfo, table: ScoreTable) -> None:
    value = float(st.session_state[_EXACT] or 0.0)
    if value > 0:
        drafts.move_budget(info, table, _budget(value))
    else:
        say("A budget is a positive number.", ":material/error:")


def _budget(value: float) -> Budget:
    """A number in the unit that is shown, as a budget."""
    kind = drafts.BUDGET.get().kind
    return Budget(kind, value if kind == "bits" else value * 1e6)


def verdict(
    info: ModelInfo,
    table: ScoreTable,
    solution: Solution,
    marks: Landmarks,
    measured: Evaluation | None,
    draft: drafts.Draft,
    calibrated: Figure | None = None,
    place: Standing | None = None,
) -> None:
    """What the recipe costs and does, and one sentence on what mixing formats bought, or on its place if measured.

    ``calibrated`` stands in the place of the sum of scores, if there is one.
    """
    share = 8 * solution.total_bytes / info.original_bits
    items = [
        Figure("Average bits", words.bits(solution.average_bits), "All stored bits of the decided layers, scales and "
               "zero points included, divided by their number of weights."),
        Figure("All weights", words.size(solution.total_bytes), "The whole model: decided layers in their formats, "
               f"the rest as in the checkpoint ({words.size(info.original_bits / 8)} in all). 1 MB = 10⁶ bytes.",
               f"{words.share(share)} of the original"),
        calibrated or
        Figure("Predicted KL", f"{words.significant(solution.predicted_kl)} nats", "Sum of the layers' scores: how far "
               "the next-token distribution is expected to move, in nats a token, on text like the calibration text. "
               "The interval (95 %) is the sampling error of that text.",
               f"± {words.significant(1.96 * solution.predicted_stderr, 2)} (95 %)"),
    ]  # fmt: skip
    if measured is not None:
        items.append(
            Figure("Measured KL", f"{words.significant(measured.kl_mean)} nats", "Mean over "
                   f"{measured.tokens:,} tokens of {measured.text_label}, which is apart from the calibration text.",
                   f"± {words.significant(1.96 * measured.kl_stderr, 2)} (95 %)")
        )  # fmt: skip
    elif place is not None:
        items.append(
            Figure("Measured KL", f"{words.significant(place.kl)} nats", f"Mean over {place.measured_on}, which is "
                   "apart from the calibration text.", f"± {words.significant(1.96 * place.stderr, 2)} (95 %)")
        )  # fmt: skip
    figures([*items, *recipe_terms.usage_figures(info, table, solution.assignment)])
    if unused := recipe_terms.headroom(info, table, draft, solution):
        st.caption(f":material/straighten: {unused}")
    if place is not None:
        st.markdown(f":material/trophy: {place.sentence}")
        link("compare", "Read its text")
    elif draft.edited:
        st.caption(
            ":material/edit: Edited by hand, or the measured best: this is not the solver's answer to the budget."
        )
    else:
        st.caption(against_uniform(solution, marks))


def against_uniform(solution: Solution, marks: Landmarks) -> str:
    """What mixing buys at the size of the nearest uniform format; empty without one."""
    if not marks.uniform:
        return ""
    name, uniform = min(
        marks.uniform.items(),
        key=lambda item: (round(abs(item[1].average_bits - solution.average_bits), 6), item[1].predicted_kl),
    )
    size = uniform.average_bits + 1e-9
    place = bisect_right(marks.front, size, key=lambda point: point.average_bits)
    best = marks.front[place - 1].predicted_kl if place else 0.0
    if best <= 0:
        return ""
    gain = uniform.predicted_kl / best
    same = (
        f"{format_name(name)} for every layer ({words.bits(uniform.average_bits)}) is predicted to cost "
        f"{words.nats(uniform.predicted_kl)}, "
    )
    if gain < 0.995:
        return (
            f"{same}the best mix of that size under these pins, rules and limits {words.significant(best)}."
        )
    if gain < 1.005:
        return f"{same}and no mix of that size does better."
    return f"{same}the best mix of that size {words.significant(best)}: **{gain:.2f} times less**."


def front_chart(
    info: ModelInfo,
    table: ScoreTable,
    solution: Solution | None,
    marks: Landmarks,
    measured: list[Mark],
    edited: bool,
) -> None:
    """The front with this recipe if there is one, recipes by rule, and every recipe that was measured in this
    session.
    """
    shown: list[Mark] = [mark("uniform", name, uniform) for name, uniform in marks.uniform.items()]
    shown += measured
    alt = "Pareto front of size and predicted KL"
    largest = max(uniform.average_bits for uniform in marks.uniform.values())
    if solution is not None:
        shown += recipe_references.marks(info, table, solution.average_bits)
        shown.append(mark("edited" if edited else "current", "this recipe", solution))
        alt += (
            f"; this recipe has {words.bits(solution.average_bits)} and {words.nats(solution.predicted_kl)}"
        )
        largest = max(largest, solution.average_bits)
    points = [point for point in marks.line if point.average_bits <= largest * 1.02]
    draft = drafts.current(info)
    pinned = draft is not None and (bool(draft.pins) or replace(draft.terms, use=Use()) != Terms())
    figure = draw_pareto_front(pareto_front(points, shown, drafts.BUDGET.get().kind), theme.palette(), pinned)
    figure.update_layout(uirevision="front")
    theme.chart(figure, "front", " ".join([f"{alt}.", marks.ends]).strip())
    if marks.ends:
        st.caption(f":material/block: {marks.ends}")


def refusal(
    info: ModelInfo, table: ScoreTable, marks: Landmarks, error: QuantError, draft: drafts.Draft | None
) -> None:
    """An impossible budget: the engine's sentence with floor and ceiling, and two steps back onto the ground.

    What was there before, if anything, stays in view below it.
    """
    st.error(f"{error.message}\n\n{error.hint}", icon=":material/error:")
    with st.container(horizontal=True):
        if marks.front and isinstance(error, InfeasibleBudget):
            floor = marks.front[0]
            target = Budget("bits", _up(floor.average_bits))
            if drafts.BUDGET.get().kind == "bytes":
                target = Budget("bytes", _up(floor.total_bytes / 1e6) * 1e6)
            st.button(
                f"Use the smallest: {_short(target)}", on_click=drafts.move_budget, args=(info, table, target)
            )
        if draft is not None:
            st.button(
                f"Back to {_short(draft.budget)}", icon=":material/undo:", key="refusal:back",
                on_click=drafts.return_to, args=(draft,),
            )  # fmt: skip
    if draft is not None:
        st.caption(f"Below is still the recipe for {_short(draft.budget)}.")


def _up(value: float) -> float:
    return -(-value * 100 // 1) / 100
