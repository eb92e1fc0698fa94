"""Do the layers' costs add up? What a whole recipe was measured to cost over the sum of what its layers cost alone."""

from __future__ import annotations

import math
from typing import NamedTuple


class Additivity(NamedTuple):
    """The ratio, 1 where costs add up and above 1 where layers make each other worse, and its standard error."""

    ratio: float
    stderr: float


def additivity(
    measured: float, measured_stderr: float, summed: float, summed_stderr: float
) -> Additivity | None:
    """A recipe's measured KL over the sum of its layers' scores, in nats a token each; None where one is not above 0.

    The two come from different texts, so that their relative errors add up in squares (delta method).
    """
    if not (measured > 0 and summed > 0):
        return None
    ratio = measured / summed
    return Additivity(ratio, ratio * math.hypot(measured_stderr / measured, summed_stderr / summed))
