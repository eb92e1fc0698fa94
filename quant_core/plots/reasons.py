"""Why a layer costs more or less than others: its weights, its inputs, or what the model makes of its output.

For a unit u in a format, against the median of all scored units: with w the weight error |ΔW|²/|W|², o the output error
|ΔW·x|²/|W·x|² and k the KL, k/median(k) is the product of three factors. (1) w/median(w): how badly the format fits its
weights. (2) the same for o, divided by (1): how much its inputs stress the weights that err. (3) the rest: how strongly
the model reacts to an error of this output. The factors say where a cost arises, not what would cure it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from quant_core.plots._common import number
from quant_core.plots.sensitivity import score_column
from quant_core.schema import ScoreName, ScoreTable

ALIKE = 1.25
"""A cost within this factor of the median's is called about the same."""


class Reason(NamedTuple):
    """A unit's KL as a multiple of the median unit's, and its three factors; their product is ``times``."""

    times: float
    weights: float
    inputs: float
    model: float


def reason(table: ScoreTable, unit: str, form: str, score: ScoreName = "fisher") -> Reason | None:
    """Where a unit's cost in a format comes from.

    Args:
        table: Its scores.
        unit: Its name.
        form: The format's name, one of the table's.
        score: The KL to explain, ``fisher`` or ``measured``.

    Returns:
        None where the table lacks one of the three scores, or where one of them or its median is not positive.
    """
    ratios = []
    for name in (score, "output", "weight"):
        column = score_column(table, form, name) if table.scores(name) else {}
        middle = float(np.median(list(column.values()))) if column else 0.0
        if unit not in column or column[unit] <= 0 or middle <= 0:
            return None
        ratios.append(column[unit] / middle)
    cost, output, weight = ratios
    return Reason(cost, weight, output / weight, cost / output)


def reason_text(found: Reason) -> str:
    """The factors in words, and the one that weighs most."""
    lead = (
        "It costs about as much as the median layer"
        if 1 / ALIKE < found.times < ALIKE
        else f"It costs {number(found.times, 2)} times what the median layer costs"
    )
    factors = {
        "its weights fit the format worse": found.weights,
        "its inputs stress the weights that err more": found.inputs,
        "the model reacts to its output more strongly": found.model,
    }
    if found.times < 1:
        factors = {
            "its weights fit the format better": 1 / found.weights,
            "its inputs stress the weights that err less": 1 / found.inputs,
            "the model reacts to its output more weakly": 1 / found.model,
        }
    most = max(factors, key=factors.__getitem__)
    why = "" if 1 / ALIKE < found.times < ALIKE else f", above all because {most}"
    return (
        f"{lead}{why}: weights × {number(found.weights, 2)}, inputs × {number(found.inputs, 2)}, "
        f"model × {number(found.model, 2)}."
    )
