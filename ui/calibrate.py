"""Calibrating the prediction: a few recipes measured once, and from then on an interval that holds what is measured."""

from __future__ import annotations

import streamlit as st

from quant_core.allocation.calibration import RECIPES, Calibration, Interval
from quant_core.contrast import main_score
from quant_core.schema import ModelInfo, ProveRequest, ScoreTable, Solution
from ui import setup, words
from ui.jobs import guarded, latest, request_result, submit, workspace
from ui.scores import table_key
from ui.widgets import Figure

LABEL = "Calibrate the prediction"


def figure(info: ModelInfo, table: ScoreTable, solution: Solution) -> Figure | None:
    """The calibrated prediction of a recipe with its interval; None as long as nothing is calibrated."""
    calibration = _learned(info, table)
    proof = workspace().result(_request(info, table)) if calibration is not None else None
    if proof is None or calibration is None:
        return None
    found = workspace().interval(info, table, calibration, solution.assignment, main_score(table))
    return Figure(
        "Predicted KL", f"{words.significant(found.kl)} nats",
        f"Sum of the layers' scores ({words.significant(solution.predicted_kl)}), corrected by what "
        f"{calibration.recipes} recipes of other mixes measured on {proof.tokens:,} tokens of {proof.text_label}, in "
        "nats a token. 95 of 100 recipes are to measure within the interval on that text.",
        f"{words.significant(found.low, 2)} to {words.significant(found.high, 2)} (95 %)",
    )  # fmt: skip


def predicted(info: ModelInfo, table: ScoreTable, solution: Solution) -> Interval:
    """The predicted KL of a recipe with its 95 % interval: calibrated, or the sum of the scores with its error."""
    calibration = _learned(info, table)
    if calibration is not None:
        return workspace().interval(info, table, calibration, solution.assignment, main_score(table))
    reach = 1.96 * solution.predicted_stderr
    return Interval(
        solution.predicted_kl, max(solution.predicted_kl - reach, 0.0), solution.predicted_kl + reach
    )


def _learned(info: ModelInfo, table: ScoreTable) -> Calibration | None:
    if not _begun(info):
        return None
    request = _request(info, table)
    return guarded(lambda: workspace().calibrated(info, table, request, main_score(table)))


def button(info: ModelInfo, table: ScoreTable) -> None:
    """The button that calibrates; none once that is under way or done."""
    if not _begun(info) or (workspace().result(request := _request(info, table)) or latest(request)) is None:
        st.button(
            LABEL, icon=":material/straighten:", key="calibrate", on_click=_start, args=(info, table),
            help=f"Measures {RECIPES} recipes of other mixes once, about a minute for the bundled "
            "model. The prediction of every recipe is then corrected, and its interval holds what a measurement finds.",
        )  # fmt: skip


def _start(info: ModelInfo, table: ScoreTable) -> None:
    submit(_request(info, table))


def progress(info: ModelInfo, table: ScoreTable) -> None:
    """How the calibration is going, why it failed, or that it is done."""
    if not _begun(info):
        return
    request = _request(info, table)
    if latest(request) is not None or workspace().result(request) is not None:
        proof = request_result(request, start=LABEL)
        if proof is not None:
            st.caption(
                f":material/straighten: The prediction is calibrated on {len(proof.kl)} measured recipes "
                f"({proof.tokens:,} tokens of {proof.text_label})."
            )


def _begun(info: ModelInfo) -> bool:
    """Whether recipes of this model were measured side by side, or are about to be.

    As long as none were, nothing can be calibrated, and the recipes for it need not be worked out, which takes seconds
    for a model of tens of thousands of layers.
    """
    desk = workspace()
    return bool(desk.finished(info.fingerprint, 0).proofs) or any(
        job.kind == "prove" for job in desk.jobs(50)
    )


def _request(info: ModelInfo, table: ScoreTable) -> ProveRequest:
    """The job that measures the recipes to calibrate on: the same for every recipe of these scores."""
    return workspace().prove_request(info, _recipes(table_key(table), info, table), setup.current(info))


@st.cache_resource(max_entries=16, show_spinner=False)
def _recipes(key: str, _info: ModelInfo, _table: ScoreTable) -> tuple[dict[str, str], ...]:
    return workspace().calibration_recipes(_info, _table, main_score(_table))
