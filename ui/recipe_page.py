"""The recipe page's two parts: scores first if there are none, then the workbench, which redraws by itself."""

from __future__ import annotations

import streamlit as st

from quant_core.allocation.additivity import additivity
from quant_core.contrast import main_score
from quant_core.errors import QuantError
from quant_core.plots.pareto import Mark, mark
from quant_core.schema import (
    EvaluateRequest,
    Evaluation,
    ModelInfo,
    ScoreName,
    ScoreTable,
    Setup,
    Solution,
    digest,
)
from ui import (
    added_formats,
    calibrate,
    proof,
    recipe_budget,
    recipe_edit,
    recipe_pair,
    recipe_terms,
    score_form,
    scores,
    setup,
    state,
)
from ui import recipe_draft as drafts
from ui.format_names import format_name
from ui.jobs import latest, request_result, show_error, start_button, workspace
from ui.recipe_files import keep_and_load, understood
from ui.widgets import empty_state, notes, said

_MEASURED = "draft:measured"


def score_first(info: ModelInfo) -> ScoreTable | None:
    """The scores a recipe needs; where there are none, the sweep can be started right here."""
    sweep = scores.sweep(info)
    if sweep is not None:
        return added_formats.panel(info, sweep)
    st.markdown(
        "**A recipe needs scores first:** how much does the model lose when one layer takes a format?"
    )
    return score_form.run_or_show(info, score_form.settings(info))[0]


@st.fragment
def workbench(info: ModelInfo, table: ScoreTable) -> None:
    """Budget, verdict, front, bands and editors; only this part of the page runs again when the budget moves."""
    said()
    draft = drafts.current(info)
    marks = recipe_budget.landmarks(info, table, dict(draft.pins) if draft else {})
    refused = None
    try:
        draft = drafts.ensure(info, table)
    except QuantError as error:
        refused, draft = error, drafts.standing(info, table)
    recipe_terms.panel(info, table)
    place = recipe_budget.controls(info, table, marks)
    if refused is not None and draft is None and drafts.RECIPE_ID.get():
        _foreign(info, table, refused)
    elif refused is not None:
        recipe_budget.refusal(info, table, marks, refused, draft)
    if draft is None:
        recipe_budget.front_chart(info, table, None, marks, [], edited=False)
    else:
        _recipe(info, table, draft, marks)
    recipe_budget.slider(place, info, table, marks)
    st.caption(
        f"Predicted from {_score_name(table)} over {table.tokens:,} tokens of {table.text_label} "
        f"(seed {table.seed}). Weights that no recipe decides on keep the checkpoint's dtype."
        + _from_state(table)
    )
    notes(table.notes, "scores")


def _recipe(info: ModelInfo, table: ScoreTable, draft: drafts.Draft, marks: recipe_budget.Landmarks) -> None:
    """What the recipe costs and does, where it lies on the front, and every way to change it."""
    solution = drafts.priced(info, table, draft)
    request = drafts.measure_request(info, draft.assignment)
    measured = workspace().result(request)
    predicted = calibrate.figure(info, table, solution)
    place = proof.standing(info, table, draft)
    recipe_budget.verdict(info, table, solution, marks, measured, draft, predicted, place)
    drafts.keep_current(info, table)
    _actions(info, table, draft, request, measured, place is not None)
    understood(info)
    calibrate.progress(info, table)
    _measure(info, request, solution, measured, main_score(table))
    proved = proof.panel(info, table, draft)
    left, right = st.columns([5, 6], gap="medium")
    with left:
        known = [*_remembered(info, solution, measured), *proved]
        recipe_budget.front_chart(info, table, solution, marks, known, draft.edited)
    with right:
        recipe_edit.bands(info, table, draft)
    recipe_edit.editor(info, table, draft)
    recipe_pair.panel(info, table, draft, solution, measured)


def _score_name(table: ScoreTable) -> str:
    return "Fisher scores" if table.fisher else "KL measured one layer at a time"


def _from_state(table: ScoreTable) -> str:
    """Which of the formats were scored without the model, as a sentence that follows others."""
    names = ", ".join(format_name(name) for name in table.rescored)
    return f" From the score state, without running the model: {names}." if names else ""


def _foreign(info: ModelInfo, table: ScoreTable, error: QuantError) -> None:
    """A recipe that these scores cannot price: its formats can be scored, and it still works on the other pages."""
    understood(info)
    show_error(error)
    missing = drafts.unscored(info, table)
    if missing:
        added_formats.add_button(missing, table, "foreign:add")
    empty_state("The recipe can be compared and exported as it is.", "compare", "Compare it")
    st.button("Start anew from the budget", on_click=drafts.RECIPE_ID.set, args=("",))


def _actions(
    info: ModelInfo,
    table: ScoreTable,
    draft: drafts.Draft,
    request: EvaluateRequest,
    measured: Evaluation | None,
    proved: bool,
) -> None:
    """What can be done with the recipe; one that was measured among the finalists lacks no more than perplexity."""
    with st.container(horizontal=True, gap="small"):
        st.button(
            "Undo", icon=":material/undo:", key="undo", disabled=not drafts.can_undo(), on_click=drafts.undo,
            args=(info, table), shortcut="Ctrl+Z",
        )  # fmt: skip
        st.button(
            "Redo", icon=":material/redo:", key="redo", disabled=not drafts.can_redo(), on_click=drafts.redo,
            args=(info, table), shortcut="Ctrl+Y",
        )  # fmt: skip
        if draft.edited:
            st.button(
                "Solve again", icon=":material/calculate:", key="resolve", on_click=drafts.resolve, args=(info, table),
                help="The best recipe for the budget again; pinned layers keep their formats, other edits go.",
            )  # fmt: skip
        keep_and_load(info, table)
        if measured is None and latest(request) is None:
            start_button(request, "Measure perplexity too" if proved else "Measure it", primary=not proved)
        calibrate.button(info, table)


def _measure(
    info: ModelInfo,
    request: EvaluateRequest,
    solution: Solution,
    measured: Evaluation | None,
    by: ScoreName,
) -> None:
    """How the measurement is going, or how it compares with the prediction."""
    if measured is None:
        if latest(request) is not None:
            request_result(request, start="Measure it")
        return
    found = additivity(measured.kl_mean, measured.kl_stderr, solution.predicted_kl, solution.predicted_stderr)
    sums = "what its layers cost one by one" if by == "measured" else "what is predicted for its layers"
    ratio = (
        ""
        if found is None
        else f"{found.ratio:.2f} ± {1.96 * found.stderr:.2f} (95 %) times the sum of {sums}"
    )
    chosen = setup.current(info)
    unforeseen = setup.summary(
        Setup(activations=chosen.activations, kv_cache=chosen.kv_cache, trained=chosen.trained)
    )
    st.caption(
        f":material/check: Measured on {measured.tokens:,} tokens of {measured.text_label}: the whole recipe costs "
        f"{ratio or 'nothing'}. Perplexity {measured.perplexity:.2f} ± {measured.perplexity_stderr:.2f} "
        f"(original {measured.perplexity_original:.2f}), the same likeliest token at "
        f"{100 * measured.top1_agreement:.1f} % of the positions."
        + (f" The prediction knows nothing of what lies beyond weights: {unforeseen}." if unforeseen else "")
    )
    notes(measured.notes, "measured")


def _remembered(info: ModelInfo, solution: Solution, measured: Evaluation | None) -> list[Mark]:
    """Every recipe that was measured in this session, of the model that is open and under the setup that is chosen."""
    key = f"{_MEASURED}:{state.model_ref()}:{digest(setup.current(info))}"
    known: list[tuple[Solution, Evaluation]] = st.session_state.setdefault(key, [])
    if measured is not None and all(recipe.assignment != solution.assignment for recipe, _ in known):
        known.append((solution, measured))
    return [mark("measured", "measured", recipe, evaluation) for recipe, evaluation in known]
