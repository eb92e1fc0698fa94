"""Budget problems to solve: small ones of any shape for hypothesis, and larger ones like real models."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st

from quant_core.allocation.problem import IntArray, Problem


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Up to 5 units x 4 formats; costs are eighths, so that sums are exact and ties are many."""
    units, formats = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    numbers = st.lists(st.integers(0, 40), min_size=units * formats, max_size=units * formats)
    shape = (units, formats)
    pinned = draw(st.lists(st.integers(0, 2 * formats), min_size=units, max_size=units))
    allowed = np.array([[pin >= formats or pin == index for index in range(formats)] for pin in pinned])
    cost = np.array(draw(numbers)).reshape(shape) / 8
    bits = np.array(draw(numbers)).reshape(shape) * draw(st.sampled_from([1, 7, 4096, 999_999_937])) + 1
    return Problem(cost, np.zeros(shape), bits, allowed, weights=100, fixed_bits=800)


def totals(problem: Problem, choice: IntArray) -> tuple[float, int]:
    """Cost and bits of a choice, which must respect the pins."""
    rows = np.arange(len(choice))
    assert problem.allowed[rows, choice].all()
    return float(problem.cost[rows, choice].sum()), int(problem.bits[rows, choice].sum())


def every_total(problem: Problem) -> list[tuple[float, int]]:
    """Cost and bits of every choice there is."""
    options = [np.flatnonzero(row) for row in problem.allowed]
    return [totals(problem, np.array(choice)) for choice in itertools.product(*options)]


def made(units: int, formats: int, seed: int) -> Problem:
    """A problem like a real one: KL falls fourfold a bit, differs by unit, and every fourth size is odd."""
    dice = np.random.default_rng(seed)
    average = np.sort(np.append(2.25, dice.uniform(2.3, 8.5, formats - 2)))
    weights = dice.choice([512 * 512, 512 * 256, 512 * 1024, 999_983], units)
    weight = np.exp(dice.normal(-6, 1.5, (units, 1)))
    cost = weight * 4.0 ** (2 - average) * np.exp(dice.normal(0, 0.3, (units, formats - 1)))
    bits = np.column_stack([np.round(weights[:, None] * average).astype(np.int64), weights * 16])
    cost = np.pad(cost, ((0, 0), (0, 1)))
    return Problem(cost, np.zeros_like(cost), bits, np.ones(cost.shape, bool), int(weights.sum()), 0)
