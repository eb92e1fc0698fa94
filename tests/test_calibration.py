"""Calibrated intervals: that they hold what they promise on made truths, and what they do with hardly any data."""

from __future__ import annotations

import numpy as np
import pytest

from quant_core.allocation.additivity import additivity
from quant_core.allocation.calibration import Calibration, design, fit, parts
from quant_core.allocation.problem import FloatArray, build_problem
from quant_core.errors import QuantError
from tests import made_results

INFO = made_results.model()
TABLE = made_results.table(INFO)
NAMED = build_problem(INFO, TABLE)


def _truth(dice: np.random.Generator, formats: int) -> tuple[FloatArray, float]:
    """A correction for each format and one for large damage, which no one told the calibration."""
    return dice.normal(0.08, 0.12, formats), float(dice.normal(0.3, 0.2))


def _measure(
    dice: np.random.Generator, truth: tuple[FloatArray, float], rows: FloatArray, noise: float
) -> FloatArray:
    by_format, damage = truth
    exact = (rows * np.exp(by_format)).sum(axis=1) * (1 + rows.sum(axis=1)) ** damage
    return np.asarray(exact * np.exp(dice.normal(0, noise, len(rows))))


def _world(seed: int, noise: float = 0.04) -> tuple[Calibration, FloatArray, FloatArray]:
    """A calibration on ten recipes of one made truth, and fifty fresh recipes with what they really cost."""
    dice = np.random.default_rng(seed)
    truth = _truth(dice, len(NAMED.formats))
    seen = np.array([parts(NAMED, recipe) for recipe in design(NAMED, seed=seed)])
    fresh = np.array([parts(NAMED, recipe) for recipe in design(NAMED, 50, seed=seed + 1000)])
    return fit(seen, _measure(dice, truth, seen, noise).tolist()), fresh, _measure(dice, truth, fresh, noise)


@pytest.fixture(scope="module")
def worlds() -> list[tuple[Calibration, FloatArray, FloatArray]]:
    return [_world(seed) for seed in range(30)]


@pytest.mark.parametrize("level", [0.95, 0.8])
def test_intervals_hold_the_truth_at_their_stated_rate(
    worlds: list[tuple[Calibration, FloatArray, FloatArray]], level: float
) -> None:
    """Thirty truths with fifty fresh recipes each: the rate itself is known to about two points."""
    inside = []
    for calibration, fresh, truth in worlds:
        ends = [calibration.interval(row, level) for row in fresh]
        inside.append(
            np.mean([end.low <= kl <= end.high for end, kl in zip(ends, truth.tolist(), strict=True)])
        )
    assert float(np.mean(inside)) == pytest.approx(level, abs=0.035)


def test_calibration_comes_nearer_to_the_truth_than_the_sum_of_scores(
    worlds: list[tuple[Calibration, FloatArray, FloatArray]],
) -> None:
    before = np.mean([np.abs(np.log(fresh.sum(axis=1) / truth)).mean() for _, fresh, truth in worlds])
    after = np.mean(
        [
            np.abs(np.log([calibration.interval(row).kl for row in fresh] / truth)).mean()
            for calibration, fresh, truth in worlds
        ]
    )
    assert after < 0.6 * before


def test_a_common_factor_is_found() -> None:
    """All that is measured is 1.3 times the prediction: so is what is predicted then, within a narrow interval."""
    rows = np.array([parts(NAMED, recipe) for recipe in design(NAMED, 12, seed=3)])
    calibration = fit(rows, (1.3 * rows.sum(axis=1)).tolist())
    recipe = parts(NAMED, design(NAMED, 1, 77)[0])
    found = calibration.interval(recipe)
    assert found.kl == pytest.approx(1.3 * recipe.sum(), rel=0.01)
    assert found.low < found.kl < found.high < 1.1 * found.kl


def test_more_noise_gives_wider_intervals() -> None:
    (quiet, fresh, _), (loud, _, _) = _world(1, 0.01), _world(1, 0.2)
    assert loud.interval(fresh[0]).high / loud.interval(fresh[0]).low > 1.5
    assert quiet.interval(fresh[0]).high / quiet.interval(fresh[0]).low < 1.5


def test_too_few_recipes_are_refused() -> None:
    rows = np.array([parts(NAMED, recipe) for recipe in design(NAMED, 5)])
    with pytest.raises(QuantError, match="3 measured recipes are too few"):
        fit(rows, [0.1, 0.2, 0.3, 0.0, float("nan")])


def test_the_original_costs_nothing() -> None:
    calibration, _, _ = _world(0)
    assert calibration.interval(parts(NAMED, {})) == (0.0, 0.0, 0.0)


def test_parts_add_up_to_the_prediction() -> None:
    recipe = design(NAMED, 1)[0]
    rows = {unit: row for row, unit in enumerate(TABLE.units)}
    by_hand = sum(
        TABLE.fisher[rows[unit]][TABLE.formats.index(name)]
        for unit, name in recipe.items()
        if name != "original"
    )
    assert parts(NAMED, recipe).sum() == pytest.approx(by_hand)


def test_the_design_is_mixed_spread_out_and_always_the_same() -> None:
    recipes = design(NAMED)
    assert recipes == design(NAMED)
    assert recipes != design(NAMED, seed=1)
    sizes = []
    for recipe in recipes:
        assert len(set(recipe.values())) > 1
        choice = [NAMED.formats.index(recipe[unit]) for unit in NAMED.units]
        sizes.append(NAMED.problem.average_bits(int(NAMED.problem.bits[range(len(choice)), choice].sum())))
    assert sizes == sorted(sizes)
    assert sizes[0] < 2.7
    assert 5.5 < sizes[-1] < 6.5


def test_additivity_by_hand() -> None:
    """0.12 +- 10 % over 0.1 +- 5 %: 1.2, with an error of sqrt(0.01 + 0.0025) of it."""
    found = additivity(0.12, 0.012, 0.1, 0.005)
    assert found is not None
    assert found.ratio == pytest.approx(1.2)
    assert found.stderr == pytest.approx(1.2 * 0.0125**0.5)
    assert additivity(0.0, 0.0, 0.1, 0.01) is None
    assert additivity(0.1, 0.01, 0.0, 0.0) is None
