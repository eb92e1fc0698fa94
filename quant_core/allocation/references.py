"""Recipes by rule, priced: what a solved recipe of the same size has to be better than.

Three rules that people use: one format for all layers; the first and the last block in 8 bits and one format for the
rest; and llama.cpp's own mix of the same name as its most downloaded files, Q4_K_M.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from quant_core import recipes
from quant_core.allocation.problem import NamedProblem, build_problem
from quant_core.allocation.solution import solution
from quant_core.errors import FormatError
from quant_core.schema import ORIGINAL, ModelInfo, ScoreName, ScoreTable, Solution

MIX = "q4_k_m"
EDGE = (7.5, 9.0)
"""Average bits of what counts as a format of 8 bits, scales included."""


class Reference(NamedTuple):
    """A recipe by rule."""

    kind: Literal["uniform", "edges", "mix"]
    form: str
    """The format of all layers, or of those between the edges; of a mix its name."""
    edge: str
    """The format of the first and the last block; empty for the other kinds."""
    solution: Solution


def references(
    info: ModelInfo, table: ScoreTable, average_bits: float, score: ScoreName = "fisher"
) -> list[Reference]:
    """Every uniform recipe by rising size, then the other rules' recipes at a budget, as far as formats are scored.

    Args:
        info: The model.
        table: Its scores.
        average_bits: What the recipe with better edges may take; the best one that fits is chosen, if any does.
        score: Which score predicts the KL.
    """
    return fitting(by_rule(info, table, score), average_bits)


def by_rule(info: ModelInfo, table: ScoreTable, score: ScoreName = "fisher") -> list[Reference]:
    """As ``references``, with the recipes with better edges of all sizes."""
    named = build_problem(info, table, score)
    uniform = [
        Reference("uniform", form, "", _priced(named, recipes.uniform(info, table, form)))
        for form in table.formats
    ]
    uniform.sort(key=lambda one: one.solution.average_bits)
    mix = _mix(info, table, named)
    return [*uniform, *_edges(info, table, named, uniform), *([mix] if mix else [])]


def fitting(found: Sequence[Reference], average_bits: float) -> list[Reference]:
    """Recipes of ``by_rule``, of those with better edges only the best that takes at most ``average_bits``, if any."""
    edges = [one for one in found if one.kind == "edges"]
    small = [one for one in edges if one.solution.average_bits <= average_bits * (1 + 1e-9)]
    best = min(small, key=lambda one: one.solution.predicted_kl, default=None)
    return [one for one in found if one.kind != "edges" or one is best]


def _priced(named: NamedProblem, assignment: Mapping[str, str]) -> Solution:
    return solution(named, named.choice(assignment))


def _edges(
    info: ModelInfo, table: ScoreTable, named: NamedProblem, uniform: list[Reference]
) -> list[Reference]:
    """The first and last block in the best format of 8 bits, the rest in each smaller one."""
    wide = [one for one in uniform if EDGE[0] <= one.solution.average_bits <= EDGE[1]]
    if not wide:
        return []
    edge = min(wide, key=lambda one: one.solution.predicted_kl).form
    return [
        Reference(
            "edges", rest.form, edge, _priced(named, recipes.first_and_last_at(info, table, edge, rest.form))
        )
        for rest in uniform
        if rest.solution.average_bits < EDGE[0]
    ]


def _mix(info: ModelInfo, table: ScoreTable, named: NamedProblem) -> Reference | None:
    """llama.cpp's mix, where all formats that it gives the decided layers are scored."""
    try:
        whole = recipes.gguf_mix(info, MIX)
    except FormatError:
        return None  # llama.cpp has other rules for this architecture
    mine = {unit: whole[unit] for unit in table.units}
    if not set(mine.values()) <= {*table.formats, ORIGINAL}:
        return None
    return Reference("mix", MIX, "", _priced(named, mine))
