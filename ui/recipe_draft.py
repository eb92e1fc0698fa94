"""The recipe under work: a format for every layer, the budget and the pins behind it, undo, and its place in
the URL.

The truth is ``Draft.assignment``, a {unit: format} dict. Moving the budget solves anew and keeps the pins; an
edit changes what it names and nothing else. Every edit is saved in the store and named in the URL, so that a
reload, a second tab or another page finds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import streamlit as st

from quant_core import schema
from quant_core.contrast import main_score
from quant_core.errors import QuantError
from quant_core.schema import (
    Budget,
    EvaluateRequest,
    Evaluation,
    ModelInfo,
    Recipe,
    ScoreTable,
    Setup,
    Solution,
    Terms,
)
from ui import scores, setup, state, terms
from ui.jobs import workspace
from ui.widgets import say

_DRAFT, _UNDO, _REDO, _SAVED = "draft:now", "draft:undo", "draft:redo", "draft:saved"
_DRAG, _OVER = "draft:drag", "draft:over"
_LIMIT = 100


def _read_budget(text: str) -> Budget:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(bits|MB)", text)
    if match is None or float(match[1]) <= 0:
        raise ValueError(text)
    return Budget("bits", float(match[1])) if match[2] == "bits" else Budget("bytes", float(match[1]) * 1e6)


def budget_text(budget: Budget) -> str:
    """A budget as the URL and sentences write it: ``4.5bits``, ``9.2MB``."""
    return f"{budget.value:.6g}bits" if budget.kind == "bits" else f"{budget.value / 1e6:.6g}MB"


RECIPE_ID = state.RECIPE
BUDGET = state.Param("budget", Budget("bits", 4.5), _read_budget, "the budget", budget_text)


@dataclass(frozen=True)
class Draft:
    """A recipe under work; ``edited`` says that it is not (any more) what the solver answers for the budget."""

    fingerprint: str
    assignment: Mapping[str, str]
    """Every decided unit to its full format name, ``original`` included."""
    budget: Budget
    pins: Mapping[str, str]
    edited: bool = False
    terms: Terms = field(default_factory=Terms)


def current(info: ModelInfo) -> Draft | None:
    """The draft of this model in this session, if there is one."""
    draft = st.session_state.get(_DRAFT)
    return draft if isinstance(draft, Draft) and draft.fingerprint == info.fingerprint else None


def ensure(info: ModelInfo, table: ScoreTable) -> Draft:
    """The draft of this session; else the recipe that the URL names; else what the budget in the URL gives.

    Raises:
        QuantError: The budget cannot be met, or the named recipe has formats without scores here.
    """
    if RECIPE_ID.get() not in ("", _saved_id()):
        st.session_state.pop(_DRAFT, None)  # a link named another recipe
    draft = current(info)
    asked = terms.current(info)
    if draft is not None and _fits(draft, table) and (draft.budget, draft.terms) == (BUDGET.get(), asked):
        return draft
    pins = draft.pins if draft is not None else {}
    if draft is None and RECIPE_ID.get():
        draft = _loaded(info, table, RECIPE_ID.get())
        if BUDGET.get() in (draft.budget, BUDGET.default) and asked in (draft.terms, Terms()):
            BUDGET.set(draft.budget)
            terms.take(draft.terms)
            draft = replace(draft, terms=terms.current(info))
            st.session_state[_DRAFT] = draft
            st.session_state[_SAVED] = (draft, None, setup.current(info), RECIPE_ID.get())
            return draft
        pins = draft.pins
    known = {*table.formats, schema.ORIGINAL}
    units = set(table.units)
    pins = {unit: name for unit, name in pins.items() if unit in units and name in known}
    budget = BUDGET.get()
    solution = workspace().solve(info, table, budget, pins, main_score(table), terms=asked)
    draft = Draft(info.fingerprint, dict(solution.assignment), budget, pins, terms=asked)
    st.session_state[_DRAFT] = draft
    return draft


def _fits(draft: Draft, table: ScoreTable) -> bool:
    """Whether a table has scores for all that a draft names: an added format may have been taken away again."""
    return set(draft.assignment) == set(table.units) and set(draft.assignment.values()) <= {
        *table.formats, schema.ORIGINAL,
    }  # fmt: skip


def standing(info: ModelInfo, table: ScoreTable) -> Draft | None:
    """The draft as it stands: the last recipe that fitted while the budget asks for the impossible."""
    draft = current(info)
    return draft if draft is not None and _fits(draft, table) else None


def _loaded(info: ModelInfo, table: ScoreTable, recipe_id: str) -> Draft:
    recipe = workspace().recipe(recipe_id)
    if recipe.fingerprint != info.fingerprint:
        raise QuantError(
            "The recipe in the link belongs to another model.", "Open that model, or start anew."
        )
    return from_recipe(info, table, recipe)


def unscored(info: ModelInfo, table: ScoreTable) -> list[str]:
    """Formats of the recipe that the URL names, if it is of this model, that a table has no scores for."""
    try:
        recipe = workspace().recipe(RECIPE_ID.get())
    except QuantError:
        return []
    if recipe.fingerprint != info.fingerprint:
        return []
    used = {recipe.units[unit].format for unit in table.units if unit in recipe.units}
    return sorted(used - {*table.formats, schema.ORIGINAL})


def from_recipe(info: ModelInfo, table: ScoreTable, recipe: Recipe) -> Draft:
    """A draft to go on from a saved recipe.

    Raises:
        QuantError: The recipe uses formats that this table has no scores for.
    """
    assignment = {unit: recipe.units[unit].format for unit in table.units if unit in recipe.units}
    solution = workspace().price(info, table, assignment, main_score(table))
    budget = recipe.budget or Budget("bits", round(solution.average_bits, 4))
    pins = {unit: name for unit, name in recipe.pins.items() if assignment.get(unit) == name}
    asked = terms.bare(recipe.terms)
    try:
        solved = workspace().solve(info, table, budget, pins, main_score(table), terms=asked).assignment
    except QuantError:
        solved = {}
    edited = dict(solved) != dict(solution.assignment)
    return Draft(info.fingerprint, dict(solution.assignment), budget, pins, edited, asked)


def move_budget(info: ModelInfo, table: ScoreTable, budget: Budget, drag: int = 0) -> None:
    """Solve for another budget, pins kept; an impossible one leaves the draft and is told by ``ensure``.

    Moves of one ``drag`` (0 for none) are one step for undo. The last of them may come in after the step was taken
    back, and must not bring it back.
    """
    if drag and drag == st.session_state.get(_OVER):
        return
    dragging = bool(drag) and drag == st.session_state.get(_DRAG)
    st.session_state[_DRAG] = drag
    draft = current(info)
    BUDGET.set(budget)
    pins, asked = draft.pins if draft else {}, terms.current(info)
    try:
        solution = workspace().solve(info, table, budget, pins, main_score(table), terms=asked)
    except QuantError:
        return
    after = Draft(info.fingerprint, dict(solution.assignment), budget, pins, terms=asked)
    _advance(None if dragging else draft, after)
    if not after.pins:
        RECIPE_ID.set("")


def edit(info: ModelInfo, table: ScoreTable, changes: Mapping[str, str], pin: bool = True) -> None:
    """Give units other formats, and pin them there if asked; nothing else changes but what shares their format.

    What the target or a rule forbids is left as it is, and the reason is said.
    """
    draft = current(info)
    if draft is None:
        return
    try:
        changed = workspace().moved(info, table, changes, draft.terms)
    except QuantError as error:
        say(str(error), ":material/block:")
        return
    pins = {**draft.pins, **changed} if pin else {u: f for u, f in draft.pins.items() if u not in changed}
    after = replace(draft, assignment={**draft.assignment, **changed}, pins=pins, edited=True)
    if after != draft:
        _advance(draft, after)
        save(info, table)


def pin(info: ModelInfo, table: ScoreTable, units: Iterable[str], on: bool) -> None:
    """Pin units to the formats they have, or release them, with what shares their format under the target."""
    draft = current(info)
    if draft is None:
        return
    wanted = {unit: draft.assignment[unit] for unit in units if unit in draft.assignment}
    chosen = set(workspace().together(info, table, wanted, draft.terms))
    kept = {unit: name for unit, name in draft.pins.items() if unit not in chosen}
    added = {unit: draft.assignment[unit] for unit in chosen} if on else {}
    _advance(draft, replace(draft, pins={**kept, **added}))
    save(info, table)


def resolve(info: ModelInfo, table: ScoreTable) -> None:
    """Have the solver answer for the budget again; pins are kept, other edits go."""
    move_budget(info, table, BUDGET.get())
    save(info, table)


def matches(table: ScoreTable, pattern: str) -> tuple[str, ...]:
    """Units whose name matches a pattern with ``*`` and ``?``; brackets are literal, case counts."""
    literal = pattern.strip().replace("[", "[[]")
    return tuple(unit for unit in table.units if fnmatchcase(unit, literal))


# --- undo ---------------------------------------------------------------------------------------------------


def _advance(before: Draft | None, after: Draft) -> None:
    st.session_state[_DRAFT] = after
    if before is not None and before != after:
        past: list[Draft] = st.session_state.setdefault(_UNDO, [])
        past.append(before)
        del past[:-_LIMIT]
        st.session_state[_REDO] = []


def can_undo() -> bool:
    """Whether there is a step to take back."""
    return bool(st.session_state.get(_UNDO))


def can_redo() -> bool:
    """Whether there is a step that was taken back."""
    return bool(st.session_state.get(_REDO))


def undo(info: ModelInfo, table: ScoreTable) -> None:
    """Take the last step back."""
    _step(info, table, _UNDO, _REDO)


def redo(info: ModelInfo, table: ScoreTable) -> None:
    """Take the last step forward again."""
    _step(info, table, _REDO, _UNDO)


def _step(info: ModelInfo, table: ScoreTable, source: str, target: str) -> None:
    steps: list[Draft] = st.session_state.get(source, [])
    st.session_state[_OVER] = st.session_state.get(_DRAG, 0)
    now = current(info)
    if not steps or now is None:
        return
    draft = steps.pop()
    st.session_state.setdefault(target, []).append(now)
    st.session_state[_DRAFT] = draft
    return_to(draft)
    save(info, table)


def return_to(draft: Draft) -> None:
    """Ask for the budget and the terms of a draft."""
    BUDGET.set(draft.budget)
    terms.take(draft.terms)


# --- the recipe as a thing to keep --------------------------------------------------------------------------


def priced(info: ModelInfo, table: ScoreTable, draft: Draft) -> Solution:
    """Size and predicted KL of a draft."""
    return workspace().price(info, table, draft.assignment, main_score(table))


def measure_request(
    info: ModelInfo, assignment: Mapping[str, str], under: Setup | None = None
) -> EvaluateRequest:
    """The measurement of an assignment on the bundled evaluation text, under the chosen setup or another."""
    changed = {unit: name for unit, name in assignment.items() if name != "original"}
    roots = workspace().inspect_request(info.ref).roots
    return EvaluateRequest(
        info.ref, info.fingerprint, changed, setup=under or setup.current(info), roots=roots
    )


def measured(info: ModelInfo, assignment: Mapping[str, str]) -> Evaluation | None:
    """What was measured of an assignment before, if anything."""
    return workspace().result(measure_request(info, assignment))


def save(info: ModelInfo, table: ScoreTable) -> str:
    """Keep the draft in the store and name it in the URL; gives its id."""
    draft = current(info)
    if draft is None:
        return ""
    evaluation, chosen = measured(info, draft.assignment), setup.current(info)
    before = st.session_state.get(_SAVED)
    if before is None or before[:3] != (draft, evaluation, chosen):
        recipe = workspace().make_recipe(
            info, table, priced(info, table, draft), draft.budget, draft.pins, evaluation, chosen, draft.terms
        )
        st.session_state[_SAVED] = before = (draft, evaluation, chosen, workspace().save_recipe(recipe))
    setup.seen(before[3])
    RECIPE_ID.set(before[3])
    return str(before[3])


def keep_current(info: ModelInfo, table: ScoreTable) -> None:
    """Save the draft again if the URL names it and its setup has changed since."""
    before = st.session_state.get(_SAVED)
    if before is not None and RECIPE_ID.get() == before[3] and before[2] != setup.current(info):
        save(info, table)


def _saved_id() -> str:
    """The id under which the draft was saved last."""
    before = st.session_state.get(_SAVED)
    return str(before[3]) if before is not None else ""


def adopt(info: ModelInfo, recipe: Recipe) -> None:
    """Make a recipe from a file the one under work; the draft that was there can be had back by undo."""
    before = st.session_state.pop(_DRAFT, None)
    if isinstance(before, Draft):
        st.session_state.setdefault(_UNDO, []).append(before)
    recipe_id = workspace().save_recipe(recipe)
    setup.take(recipe.setup)
    setup.seen(recipe_id)
    RECIPE_ID.set(recipe_id)
    BUDGET.set(recipe.budget or BUDGET.default)
    terms.take(recipe.terms)


def current_recipe(info: ModelInfo) -> Recipe | None:
    """The recipe under work, for the pages that use it: the draft (the last one that fitted, if the budget is
    impossible), else the one that the URL names, else none.

    Raises:
        QuantError: The URL names a recipe that the store has not or that belongs to another model.
    """
    table = scores.table(info)
    if table is not None and (current(info) is not None or not RECIPE_ID.get()):
        try:
            ensure(info, table)
        except QuantError:
            if standing(info, table) is None:
                raise
        save(info, table)
    if not RECIPE_ID.get():
        return None
    recipe = workspace().recipe(RECIPE_ID.get())
    if recipe.fingerprint != info.fingerprint:
        raise QuantError(
            "The recipe in the link belongs to another model.", "Open that model, or make a recipe."
        )
    chosen = setup.current(info)
    if chosen == recipe.setup or set(recipe.units) != {unit.name for unit in info.units}:
        return recipe
    return schema.replace(recipe, setup=chosen, measured=measured(info, recipe.assignment()))
