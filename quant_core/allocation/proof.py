"""Ranking recipes by what was measured of them on the same sequences, with paired differences.

KL varies from sequence to sequence for all recipes alike. The standard error of a difference is therefore taken over
the differences by sequence (paired comparison; Student 1908), a fraction of what two separate errors suggest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CLEAR = 1.96
"""Standard errors from which a difference counts as one (95 %)."""


class Place(NamedTuple):
    """A recipe's place; KL in nats a token."""

    recipe: int
    """Which of the recipes, from 0."""
    kl: float
    stderr: float
    """Over sequences; 0 for a single one."""
    behind: float
    """KL minus the winner's."""
    behind_stderr: float
    """Of that difference, over the differences by sequence."""
    tied: bool
    """Whether it cannot be told from the winner; true for the winner itself."""


def ranking(kl: Sequence[Sequence[float]]) -> tuple[Place, ...]:
    """Places from the least measured KL on; of equal ones the earlier recipe comes first.

    Args:
        kl: KL in nats a token, (recipes, sequences), all on the same sequences.
    """
    values = np.array(kl, np.float64)
    means = values.mean(axis=1)
    order = np.argsort(means, kind="stable").tolist()
    places = []
    for recipe in order:
        behind = values[recipe] - values[order[0]]
        error = _stderr(behind)
        tied = recipe == order[0] or abs(float(behind.mean())) <= CLEAR * error
        places.append(
            Place(recipe, float(means[recipe]), _stderr(values[recipe]), float(behind.mean()), error, tied)
        )
    return tuple(places)


def _stderr(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """Standard error of the mean of values (n,); 0 for a single one."""
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def verdict(places: Sequence[Place]) -> str:
    """Who won, in words, with recipes counted from 1 by their place: ``Places 2 and 3 are tied``."""
    tied = [str(place + 1) for place in range(1, len(places)) if places[place].tied]
    if len(places) < 2:
        return ""
    if not tied:
        return "The winner is ahead of all others by more than the uncertainty."
    if len(tied) == 1:
        return (
            f"Place {tied[0]} is tied with the winner: on this text the difference is within the uncertainty."
        )
    listed = f"{', '.join(tied[:-1])} and {tied[-1]}"
    return (
        f"Places {listed} are tied with the winner: on this text the differences are within the uncertainty."
    )
