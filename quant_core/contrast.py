"""Two sweeps side by side: do they put the layers in the same order, and which layers do they see differently."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from quant_core.plots import rank_correlation
from quant_core.schema import ScoreName, ScoreTable


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
    units = [unit for unit in first.units if unit in set(second.units)]
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
