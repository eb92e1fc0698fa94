"""Anchoring: what the per-token scores of some formats say about the factored scores of all others.

The pass that leaves the factors also scores the formats it was asked for token by token. The two differ by what the
factors cannot hold (that g and x depend on each other), which is much the same for every rounding error of a unit:
their ratio is taken over to new formats, and how much it scatters over those known says how far that can be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

UNKNOWN = 0.1
"""Scatter that is assumed where one format alone is known."""
OTHER = 0.04
"""Scatter that comes on top, for formats and roundings of other kinds: what was met on the bundled model."""
FITTED = 0.1
"""As ``OTHER``, for roundings that fit their errors to the inputs: what these leave lies where the factors, which take
gradients and inputs as independent, see least."""


@dataclass(frozen=True)
class Anchor:
    """What a unit's factored scores are multiplied by, and the relative standard error of the product."""

    ratio: float
    relative: float

    def score(self, factored: float, fitted: bool = False) -> tuple[float, float]:
        """A factored score as it is told, and its standard error; ``fitted`` if the rounding looked at the inputs."""
        value = self.ratio * factored
        return value, value * (math.hypot(self.relative, FITTED) if fitted else self.relative)


def anchor(exact: Sequence[float], stderr: Sequence[float], factored: Sequence[float]) -> Anchor:
    """The median ratio of per-token to factored score over the formats of a sweep, without unit.

    Args:
        exact: Per-token scores of one unit, one a format.
        stderr: Their standard errors.
        factored: Factored scores of the same formats.

    Returns:
        The relative error joins, as independent, the typical relative standard error of the exact scores, the standard
        deviation of the ratios' logarithms around their median, and ``OTHER``. (1, 1) where no format tells anything.
    """
    known = [(e, s, f) for e, s, f in zip(exact, stderr, factored, strict=True) if e > 0 and f > 0]
    if not known:
        return Anchor(1.0, 1.0)
    logs = [math.log(e / f) for e, _, f in known]
    middle = median(logs)
    scatter = UNKNOWN
    if len(logs) > 1:
        scatter = math.sqrt(sum((log - middle) ** 2 for log in logs) / (len(logs) - 1))
    return Anchor(math.exp(middle), math.hypot(median(s / e for e, s, _ in known), scatter, OTHER))
