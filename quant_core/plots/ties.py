"""Which scores cannot be told apart, given their standard errors.

Two scores are tied if they differ by no more than 1.96 standard errors of their difference, sqrt(a^2 + b^2) for errors
a and b. That takes them as independent, which is on the careful side: units are scored on the same sequences, so their
errors move together, and a difference is in truth more certain than this says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from quant_core.plots._common import INTERVAL


def tied(first: float, first_error: float, second: float, second_error: float) -> bool:
    """Whether two scores are tied, given their standard errors."""
    return abs(first - second) <= INTERVAL * math.hypot(first_error, second_error)


def tied_neighbours(values: Sequence[float], errors: Sequence[float]) -> tuple[bool, ...]:
    """For a ranked list, whether each is tied with the one behind it: one less than there are values."""
    ranked = list(zip(values, errors, strict=True))
    return tuple(tied(*above, *below) for above, below in pairwise(ranked))


def tied_runs(values: Sequence[float], errors: Sequence[float]) -> tuple[tuple[int, int], ...]:
    """For a ranked list, stretches (first, last) in which every one is tied with the first of them.

    A stretch inside another is left out; stretches may overlap, for being tied does not carry over.
    """
    found: list[tuple[int, int]] = []
    for first in range(len(values)):
        last = first
        while last + 1 < len(values) and tied(
            values[first], errors[first], values[last + 1], errors[last + 1]
        ):
            last += 1
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return tuple(found)


def tied_with(unit: str, values: Mapping[str, float], errors: Mapping[str, float]) -> tuple[str, ...]:
    """The units whose scores are tied with one unit's, the nearest first; none where errors are not known."""
    if unit not in values or unit not in errors:
        return ()
    others = [
        name
        for name in values
        if name != unit and tied(values[unit], errors[unit], values[name], errors.get(name, 0.0))
    ]
    return tuple(sorted(others, key=lambda name: abs(values[name] - values[unit])))
