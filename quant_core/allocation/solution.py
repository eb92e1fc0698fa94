"""What a choice of formats costs and is predicted to do, whoever made it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from quant_core.allocation.problem import IntArray, NamedProblem, build_problem
from quant_core.schema import ModelInfo, ScoreName, ScoreTable, Solution


def solution(named: NamedProblem, choice: IntArray) -> Solution:
    """A choice by name, with its sums.

    Args:
        named: The problem and its names.
        choice: (rows,) format index of each row of the problem, that is of each unit unless a target ties some.

    Returns:
        The predicted KL is the sum of the scores. Its standard error is the sum of theirs, an upper bound: all units
        are scored on the same sequences, so their errors move together and do not average out.
    """
    problem, rows = named.problem, np.arange(len(choice))
    bits = int(problem.bits[rows, choice].sum())
    return Solution(
        assignment=named.assignment(choice),
        average_bits=problem.average_bits(bits),
        total_bytes=problem.total_bytes(bits),
        predicted_kl=float(problem.cost[rows, choice].sum()),
        predicted_stderr=float(problem.stderr[rows, choice].sum()),
    )


def price(
    info: ModelInfo, table: ScoreTable, assignment: Mapping[str, str], score: ScoreName = "fisher"
) -> Solution:
    """What an assignment made by hand costs; units it does not name keep their original weights.

    Args:
        info: The model.
        table: Its scores.
        assignment: Decided unit to full format name.
        score: Which score predicts the KL.

    Raises:
        QuantError: A unit is not decided on in the table, or the table does not fit; see ``build_problem``.
        FormatError: A format has no scores.
    """
    named = build_problem(info, table, score)
    return solution(named, named.choice(assignment))
