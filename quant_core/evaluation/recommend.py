"""The whole way in one job: score the layers, solve for the budget, measure the finalists on text that was held out.

Scores and measurements are answers of their own, stored under their own requests: what is there already is not done
again, a job that was stopped goes on behind its last part, and the pages for each find them.
"""

from __future__ import annotations

from quant_core.allocation.contenders import contenders, to_measure
from quant_core.jobs.context import ChainContext
from quant_core.schema import ProveRequest, Recommendation, RecommendRequest

SCORED = 0.7
"""Share of the time until the scores are there: about what they take of it on the bundled model."""


def recommend(context: ChainContext, request: RecommendRequest) -> Recommendation:
    """The finalists of a budget, measured.

    Raises:
        BudgetError: Nothing meets the budget and the terms.
        Cancelled: The job was stopped; the parts that are done are kept for its next start.
    """
    info = context.loaded(request.model, request.roots, request.fingerprint).info
    table = context.answer(request.sweep, 0.0, SCORED)
    context.progress(SCORED, "Choosing the finalists")
    found = contenders(info, table, request.budget, terms=request.terms)
    recipes = [found[key] for key in sorted(found)]
    proof = context.answer(
        ProveRequest(
            request.model,
            request.fingerprint,
            to_measure(one.solution.assignment for one in recipes),
            request.held_out,
            request.held_out_tokens,
            roots=request.roots,
        ),
        SCORED,
        1.0,
    )
    return Recommendation(
        request.fingerprint,
        tuple(one.solution for one in recipes),
        tuple(one.form for one in recipes),
        proof,
    )
