"""Calibrating the prediction on a few measured recipes, so that its interval holds what a measurement finds.

A recipe's prediction is a sum of scores, x_f of the units in format f. What is measured differs by what second order
leaves out, by what layers do to each other, and by the text: a little for all recipes alike, a little by format, and
more where the damage is large. For the measured KL y of a recipe with X = sum x_f we take

    log y = log sum_f x_f exp(c + d_f) + b log(1 + X) + noise,

linear near its solution (Gauss-Newton), with normal priors for c, d_f and b in units of the noise, and a scaled inverse
chi-square prior for the noise. The prior draws each d_f to 0, that is each format to the common correction. What is to
be measured of another recipe then has a Student t distribution (Gelman et al. 2013, "Bayesian Data Analysis", 14.8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from quant_core.allocation.front import front
from quant_core.allocation.problem import FloatArray, IntArray, NamedProblem, Problem
from quant_core.allocation.solver import solve
from quant_core.errors import QuantError
from quant_core.schema import ORIGINAL

RECIPES = 10
"""Recipes that are measured for a calibration."""
FEWEST = 4
_NOISE = 0.05
"""Expected noise of log KL before anything is measured, worth ``_WORTH`` measured recipes."""
_WORTH = 3.0
_COMMON, _FORMAT, _DAMAGE = 0.5, 0.15, 0.5
"""Expected sizes of c, d_f and b."""
_STEPS = 30
_SPREAD = 0.7
"""How much the scores are stirred (standard deviation of their logarithm) to make recipes that differ."""
_MANY = 2000
"""From so many rows on the front has a recipe for every size, to within one row's step."""
_RANGE = (0.04, 0.6)
"""Which part of the sizes between the smallest recipe and the largest format the measured ones lie in."""


class Interval(NamedTuple):
    """A calibrated prediction and the ends of its interval, in nats a token."""

    kl: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was learned from measured recipes; see ``fit``."""

    effects: FloatArray
    """c, d_f by format, and b: (formats + 2,)."""
    covariance: FloatArray
    """Of the effects, in units of the noise's variance."""
    noise: float
    """Standard deviation of what the effects leave of log KL."""
    freedom: float
    """Degrees of freedom of ``noise``."""
    recipes: int
    """How many were measured."""

    def interval(self, parts: FloatArray, level: float = 0.95) -> Interval:
        """What is to be measured of a recipe with ``parts`` (formats,), and the interval that holds it at ``level``."""
        from scipy.special import stdtrit  # slow to import

        if parts.sum() <= 0:
            return Interval(0.0, 0.0, 0.0)
        middle, slope = _model(self.effects, parts[None])
        spread = self.noise * float(np.sqrt(1 + slope[0] @ self.covariance @ slope[0]))
        reach = float(stdtrit(self.freedom, 0.5 + level / 2)) * spread
        return Interval(*np.exp(middle[0] + np.array([0.0, -reach, reach])).tolist())


def fit(parts: FloatArray, kl: Sequence[float]) -> Calibration:
    """Learn from measured recipes.

    Args:
        parts: Predicted KL of each recipe by format, (recipes, formats), see ``parts``.
        kl: Measured KL of each, (recipes,), all on the same text.

    Raises:
        QuantError: Fewer than four recipes have a KL above 0.
    """
    measured = np.array(kl, np.float64)
    usable = (measured > 0) & (parts.sum(axis=1) > 0) & np.isfinite(measured)
    if usable.sum() < FEWEST:
        raise QuantError(
            f"{usable.sum()} measured recipes are too few to calibrate on.", f"Measure {FEWEST} or more."
        )
    parts, target = parts[usable], np.log(measured[usable])
    count, formats = parts.shape
    sizes = np.array([_COMMON, *[_FORMAT] * formats, _DAMAGE])
    precision = np.diag((_NOISE / sizes) ** 2)
    effects = np.zeros(formats + 2)
    for _ in range(_STEPS):
        middle, slope = _model(effects, parts)
        covariance = np.linalg.inv(slope.T @ slope + precision)
        effects = np.asarray(covariance @ slope.T @ (target - middle + slope @ effects), np.float64)
    middle, slope = _model(effects, parts)
    left = ((target - middle) ** 2).sum() + effects @ precision @ effects + _WORTH * _NOISE**2
    freedom = _WORTH + count
    return Calibration(
        effects, np.asarray(covariance, np.float64), float(np.sqrt(left / freedom)), freedom, int(count)
    )


def learned(
    named: NamedProblem, assignments: Sequence[Mapping[str, str]], kl: Sequence[Sequence[float]]
) -> Calibration:
    """Learn from assignments and their measured KL, (recipes, sequences); raises like ``fit``."""
    seen = np.array([parts(named, assignment) for assignment in assignments])
    return fit(seen, [float(np.mean(row)) for row in kl])


def _model(effects: FloatArray, parts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Log KL of recipes (recipes,) and its derivative by the effects (recipes, effects)."""
    shifted = parts * np.exp(effects[1:-1])
    total = shifted.sum(axis=1)
    damage = np.log1p(parts.sum(axis=1))
    slope = np.column_stack([np.ones(len(parts)), shifted / total[:, None], damage])
    return np.log(total) + effects[0] + effects[-1] * damage, slope


def parts(named: NamedProblem, assignment: Mapping[str, str]) -> FloatArray:
    """Predicted KL of an assignment by format, (formats,); units that it does not name add nothing."""
    columns = {name: column for column, name in enumerate(named.formats)}
    found = np.zeros(len(columns))
    for row, unit in enumerate(named.units):
        column = columns[assignment.get(unit, ORIGINAL)]
        found[column] += named.problem.cost[row, column]
    return found


def _best(problem: Problem, limit_bits: float) -> IntArray:
    """The best recipe within a size; of very many rows the best one of the last size that the front names."""
    if len(problem.cost) < _MANY:
        return solve(problem, limit_bits)
    points = front(problem)
    return points.choice(max(int(np.searchsorted(points.bits, limit_bits, side="right")) - 1, 0))


def design(named: NamedProblem, count: int = RECIPES, seed: int = 0) -> tuple[dict[str, str], ...]:
    """Recipes to measure: at evenly spaced sizes, each the best one for scores that were stirred.

    They are as mixed as what the solver gives, yet differ from it and from each other in many layers, so that each
    format is seen in several company.
    """
    problem = named.problem
    dice = np.random.default_rng(seed)
    floor = int(front(problem).bits[0])
    largest = int(problem.bits[:, :-1].max(axis=1).sum()) if len(named.formats) > 1 else floor
    found = []
    for share in np.linspace(*_RANGE, count):
        stirred = problem.cost * np.exp(_SPREAD * dice.standard_normal(problem.cost.shape))
        choice = _best(replace(problem, cost=stirred), floor + share * (largest - floor))
        found.append(
            {unit: named.formats[index] for unit, index in zip(named.units, choice.tolist(), strict=True)}
        )
    return tuple(found)
