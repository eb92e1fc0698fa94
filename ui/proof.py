"""Finalists proved: the best few recipes by prediction, measured side by side; the measured best wins."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
import streamlit as st

from quant_core.allocation.proof import CLEAR, Place, ranking, verdict
from quant_core.contrast import main_score
from quant_core.errors import QuantError
from quant_core.plots.pareto import Mark
from quant_core.schema import EVALUATION, ModelInfo, Proof, ProveRequest, ScoreTable, Solution, digest
from ui import recipe_draft as drafts
from ui import setup, state, words
from ui.format_names import format_name, short_names
from ui.jobs import latest, request_result, start_button, workspace
from ui.scores import table_key
from ui.widgets import notes

_PANEL = "proof:panel"
TOKENS = state.integer_param("held-out", "the number of held-out tokens", ProveRequest.tokens, 256, 262_144)
"""Of the evaluation text, on which finalists are measured."""
_NAMED = 3
"""Layers of a difference that are named."""


class Finalist(NamedTuple):
    """A recipe to measure, and what to call it."""

    solution: Solution
    name: str
    uniform: bool = False
    """Whether it is one format for every layer."""


def panel(info: ModelInfo, table: ScoreTable, draft: drafts.Draft) -> list[Mark]:
    """Offers to measure the finalists, shows how that is going, or who won; gives what was measured for the front.

    Nothing is worked out while it is closed, as it is at first where nobody has measured several recipes yet.
    """
    box = st.expander(
        "Prove it: measure the finalists side by side",
        icon=":material/trophy:",
        expanded=_begun(),
        key=_PANEL,
        on_change="rerun",
    )
    if not box.open:
        return []
    found = finalists(info, table, draft)
    request = _request(info, found)
    proof = workspace().result(request)
    with box:
        if proof is None:
            _offer(request, latest(request) is not None)
            return []
        places = ranking(proof.kl)
        _table(info, found, places, proof)
        _take(info, table, draft, found[places[0].recipe].solution)
        notes(proof.notes, "proof")
    return [_mark(found[place.recipe], index, place) for index, place in enumerate(places)]


def _begun() -> bool:
    """Whether anybody has measured several recipes."""
    return any(job.kind in ("prove", "recommend") for job in workspace().jobs(50))


class Standing(NamedTuple):
    """How the recipe on the page did among the finalists."""

    kl: float
    """Measured, in nats a token."""
    stderr: float
    """Over sequences."""
    measured_on: str
    sentence: str
    """Its place, and what one format for all layers measures."""


def standing(info: ModelInfo, table: ScoreTable, draft: drafts.Draft) -> Standing | None:
    """How the recipe on the page did among the finalists, if they were measured."""
    if not _begun():
        return None
    found = finalists(info, table, draft)
    proof = workspace().result(_request(info, found))
    if proof is None:
        return None
    places = ranking(proof.kl)
    own = next(
        index for index, place in enumerate(places)
        if dict(found[place.recipe].solution.assignment) == dict(draft.assignment)
    )  # fmt: skip
    place = places[own]
    name = "**The measured best" if own == 0 else f"**Place {own + 1}"
    tie = ", tied with the best" if own and place.tied else ""
    others = [
        f" {found[other.recipe].name}, {words.size(found[other.recipe].solution.total_bytes)}, measures "
        f"{words.significant(other.kl)}."
        for other in places
        if found[other.recipe].uniform and other is not place
    ]
    return Standing(
        place.kl, place.stderr, f"{proof.tokens:,} tokens of {proof.text_label}",
        f"{name} of {len(places)} recipes{tie}**: {words.significant(place.kl)} ± "
        f"{words.significant(CLEAR * place.stderr, 2)} nats/token.{''.join(others)}",
    )  # fmt: skip


def _mark(finalist: Finalist, index: int, place: Place) -> Mark:
    solution = finalist.solution
    label = f"{finalist.name}, place {index + 1}"
    return Mark("measured", label, solution.average_bits, solution.total_bytes, place.kl, place.stderr)


def finalists(info: ModelInfo, table: ScoreTable, draft: drafts.Draft) -> tuple[Finalist, ...]:
    """The best recipe by prediction and its neighbours within half a percent of its size, the recipe on the page, and
    the best uniform format that fits the budget.

    The same ones come in the same order, whichever of them is on the page.
    """
    key = f"{table_key(table)} {draft.budget} {sorted(draft.pins.items())} {draft.terms}"
    found = dict(_predicted(key, info, table, draft))
    own = drafts.priced(info, table, draft)
    found.setdefault(digest(own.assignment), Finalist(own, "edited by hand"))
    return tuple(found[key] for key in sorted(found))


@st.cache_resource(max_entries=64, show_spinner=False)
def _predicted(key: str, _info: ModelInfo, _table: ScoreTable, _draft: drafts.Draft) -> dict[str, Finalist]:
    """The finalists that do not depend on the recipe on the page."""
    asked = (_draft.budget, _draft.pins, main_score(_table), _draft.terms)
    try:
        found = workspace().contenders(_info, _table, *asked)
    except QuantError:  # the budget asks for the impossible: the page says so
        return {}
    return {
        key: Finalist(one.solution, called(one.place, one.form), bool(one.form)) for key, one in found.items()
    }


def called(place: int, form: str) -> str:
    """What to call a contender."""
    if form:
        return f"{format_name(form)} everywhere"
    return f"predicted number {place + 1}" if place else "predicted best"


def _request(info: ModelInfo, found: tuple[Finalist, ...]) -> ProveRequest:
    """The job that measures them on the bundled evaluation text, each with the layers that it changes."""
    recipes = [each.solution.assignment for each in found]
    return workspace().prove_request(info, recipes, setup.current(info), EVALUATION, TOKENS.get())


def _offer(request: ProveRequest, begun: bool) -> None:
    st.caption(
        "A prediction can be further off than its interval says. This measures "
        f"{len(request.assignments)} recipes on the same {request.tokens:,} tokens of {request.text.label}: this one, "
        "the best ones of its size by prediction, and one format for all layers. The measured best wins."
    )
    if begun:
        request_result(request, start="Prove it")
    else:
        start_button(request, "Prove it")


def _table(info: ModelInfo, found: tuple[Finalist, ...], places: tuple[Place, ...], proof: Proof) -> None:
    first = found[places[0].recipe].solution
    rows = []
    for index, place in enumerate(places):
        finalist = found[place.recipe]
        solution = finalist.solution
        behind = f"+{words.significant(place.behind)} ± {words.significant(1.96 * place.behind_stderr, 2)}"
        rows.append(
            {
                "Place": f"{index + 1}{' (tied)' if index and place.tied else ''}",
                "Recipe": finalist.name,
                "Measured KL": f"{words.significant(place.kl)} ± {words.significant(1.96 * place.stderr, 2)}",
                "Behind the first": behind if index else "–",
                "Predicted KL": words.significant(solution.predicted_kl),
                "Bits a weight": f"{solution.average_bits:.3f}",
                "Unlike the first": differences(info, first, solution) if index else "–",
            }
        )
    name = found[places[0].recipe].name
    kl = words.nats(places[0].kl)
    st.markdown(f":material/trophy: **Measured best: {name}**, {kl}. {verdict(places)}")
    st.dataframe(
        pd.DataFrame(rows), hide_index=True, width="stretch",
        column_config={"Unlike the first": st.column_config.TextColumn(width="large")},
    )  # fmt: skip
    st.caption(
        f"KL in nats a token on {proof.tokens:,} tokens of {proof.text_label}, ± 95 % over its sequences. All recipes "
        "read the same tokens, so that differences are surer than the values themselves."
    )


def differences(info: ModelInfo, first: Solution, other: Solution) -> str:
    """In which layers a recipe differs, in words: ``2 layers: block 3 up_proj INT4 → INT3, …``."""
    units = {unit.name: unit for unit in info.units}
    pairs = {
        name: (first.assignment[name], form)
        for name, form in other.assignment.items()
        if first.assignment[name] != form
    }
    if len(pairs) > len(other.assignment) / 2:
        return f"{len(pairs)} of {len(other.assignment)} layers"
    shown = short_names(tuple(dict.fromkeys(form for pair in pairs.values() for form in pair)))
    parts = [
        f"block {units[name].block} {units[name].role} {shown[before]} → {shown[after]}"
        for name, (before, after) in list(pairs.items())[:_NAMED]
    ]
    more = f", {len(pairs) - _NAMED} more" if len(pairs) > _NAMED else ""
    return f"{len(pairs)} {'layer' if len(pairs) == 1 else 'layers'}: {', '.join(parts)}{more}"


def _take(info: ModelInfo, table: ScoreTable, draft: drafts.Draft, winner: Solution) -> None:
    if dict(winner.assignment) != dict(draft.assignment):
        st.button(
            "Take the winner", icon=":material/check:", key="proof:take", on_click=drafts.edit,
            args=(info, table, dict(winner.assignment), False),
            help="The recipe on this page becomes the measured best; Undo takes it back.",
        )  # fmt: skip
