"""Two of a kind side by side: how sweeps differ in the order of layers, and recipes in their formats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from quant_core.plots import rank_correlation
from quant_core.schema import ORIGINAL, ModelInfo, ScoreName, ScoreTable


class Agreement(NamedTuple):
    """Two sweeps in one format that both have."""

    format: str
    rank: float | None
    """Spearman's rank correlation of the scores of shared units; None below three units."""
    ratio: float
    """Median of second score / first, over the units where both are above 0; nan if there are none."""


class Move(NamedTuple):
    """A unit in the format in which its place differs most; places count from 1, the most sensitive."""

    unit: str
    format: str
    places: tuple[int, int]
    scores: tuple[float, float]
    """In nats a token."""


class Contrast(NamedTuple):
    """What two sweeps have in common, and where they differ."""

    units: int
    """That both scored."""
    agreements: tuple[Agreement, ...]
    moves: tuple[Move, ...]
    """By falling difference of places; units that kept theirs are left out."""


def main_score(table: ScoreTable) -> ScoreName:
    """The score of a table that is a KL: Fisher's, or the measured one where that is all there is."""
    return "fisher" if table.fisher else "measured"


def contrast(first: ScoreTable, second: ScoreTable, moves: int = 5) -> Contrast:
    """Compare the KL scores of two sweeps over the units and formats that both have.

    Args:
        first: A sweep with Fisher or measured scores.
        second: Another.
        moves: How many of the units that moved most to name.
    """
    shared = set(second.units)
    units = [unit for unit in first.units if unit in shared]
    formats = [form for form in first.formats if form in second.formats]
    agreements = []
    found: dict[str, Move] = {}
    for form in formats:
        left, right = (_column(table, units, form) for table in (first, second))
        both = (left > 0) & (right > 0)
        ratio = float(np.median(right[both] / left[both])) if both.any() else float("nan")
        agreements.append(Agreement(form, rank_correlation(left.tolist(), right.tolist()), ratio))
        pairs = zip(units, _places(left), _places(right), left.tolist(), right.tolist(), strict=True)
        for unit, before, after, low, high in pairs:
            move = Move(unit, form, (before, after), (low, high))
            if unit not in found or _distance(move) > _distance(found[unit]):
                found[unit] = move
    moved = sorted((move for move in found.values() if _distance(move)), key=_distance, reverse=True)
    return Contrast(len(units), tuple(agreements), tuple(moved[:moves]))


def _column(
    table: ScoreTable, units: list[str], form: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    rows = {unit: row for row, unit in enumerate(table.units)}
    scores, column = table.scores(main_score(table)), table.formats.index(form)
    if not scores:
        return np.zeros(len(units))
    return np.array([scores[rows[unit]][column] for unit in units], np.float64)


def _places(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[int]:
    """Places by falling value, from 1; of equal ones the earlier unit comes first."""
    places = np.empty(len(values), int)
    places[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
    return [int(place) for place in places]


def _distance(move: Move) -> int:
    return abs(move.places[1] - move.places[0])


class Change(NamedTuple):
    """A unit that two recipes treat differently."""

    unit: str
    formats: tuple[str, str]
    bits: float
    """Change in stored bits a weight."""
    kl: float | None
    """Change in the unit's predicted KL, in nats a token; None where one of its formats has no score."""
    stderr: float
    """Of ``kl``, as if the scores of a unit in two formats were independent, which is on the careful side."""


class Changes(NamedTuple):
    """What a second recipe changes of a first."""

    units: tuple[Change, ...]
    """The unscored first, then by falling size of the change in KL, then in bits."""
    kl: float | None
    """Change in predicted KL, in nats a token; None where a unit's is not known."""
    stderr: float
    """Of ``kl``: the sum of the units', since all were scored on the same sequences."""


def changes(
    info: ModelInfo,
    table: ScoreTable,
    assignments: tuple[Mapping[str, str], Mapping[str, str]],
    stored: tuple[Mapping[str, int], Mapping[str, int]],
) -> Changes:
    """In which units two recipes differ, and by how much.

    Args:
        info: The model.
        table: Scores that predict KL.
        assignments: Unit to full format name in either recipe; a unit that is not named keeps its original weights.
        stored: Bits of each unit in either recipe.
    """
    first, second = assignments
    weights = {unit.name: unit.parameters for unit in info.units}
    score = main_score(table)
    errors = {"fisher": table.fisher_stderr, "measured": table.measured_stderr}[score]
    column = {form: place for place, form in enumerate(table.formats)}

    def cell(row: int, form: str) -> tuple[float, float] | None:
        """Score and standard error of a unit in a format."""
        if form == ORIGINAL:
            return 0.0, 0.0
        if form not in column or not table.scores(score):
            return None
        place = column[form]
        return max(table.scores(score)[row][place], 0.0), errors[row][place] if errors else 0.0

    found = []
    for row, unit in enumerate(table.units):
        before, after = first.get(unit, ORIGINAL), second.get(unit, ORIGINAL)
        if before == after or unit not in weights:
            continue
        bits = (stored[1][unit] - stored[0][unit]) / weights[unit]
        left, right = cell(row, before), cell(row, after)
        if left is None or right is None:
            found.append(Change(unit, (before, after), bits, None, 0.0))
        else:
            spread = math.hypot(left[1], right[1])
            found.append(Change(unit, (before, after), bits, right[0] - left[0], spread))
    found.sort(key=lambda one: (one.kl is not None, -abs(one.kl or 0.0), -abs(one.bits)))
    known = [one.kl for one in found if one.kl is not None]
    total = math.fsum(known) if len(known) == len(found) else None
    return Changes(tuple(found), total, math.fsum(one.stderr for one in found))
