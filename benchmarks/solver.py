"""The budget solver: state lists against HiGHS on the same problems, over budgets from the floor to the ceiling.

Problems are made up: scores that fall by a factor of four a bit, times a random sensitivity of each unit, and sizes of
real shapes. Both solvers see the same reduced problem and must find the same cost.

    make benchmark NAME=solver
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from quant_core.allocation import solver
from quant_core.allocation.problem import Problem


def problem(units: int, formats: int, seed: int) -> Problem:
    """``units`` weights of random shape and sensitivity, in ``formats`` formats from 2 to 16 bits."""
    random = np.random.default_rng(seed)
    weights = random.choice(np.array([64, 128, 512, 768]) * 512, units)
    bits = np.linspace(2.28, 16, formats) + random.uniform(-0.1, 0.1, (units, formats))
    cost = random.lognormal(-4, 1.2, (units, 1)) * 4.0**-bits * random.lognormal(0, 0.1, (units, formats))
    cost[:, -1] = 0
    stored = np.rint(bits * weights[:, None] / 16).astype(np.int64) * 16
    every = np.ones((units, formats), dtype=bool)
    return Problem(cost, np.zeros_like(cost), stored, every, weights=int(weights.sum()), fixed_bits=0)


def seconds(made: Problem, limits: list[float], work: int) -> tuple[list[float], list[float]]:
    """Time and cost of each budget with at most ``work`` sums in the state lists before HiGHS takes over."""
    times, costs = [], []
    kept, solver.WORK = solver.WORK, work
    try:
        for limit in limits:
            begun = time.perf_counter()
            choice = solver.solve(made, limit)
            times.append(time.perf_counter() - begun)
            costs.append(float(made.cost[np.arange(len(choice)), choice].sum()))
    finally:
        solver.WORK = kept
    return times, costs


def main() -> None:
    """Print medians and worst cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budgets", type=int, default=15)
    options = parser.parse_args()
    print("| units x formats | state lists, median / worst | HiGHS, median / worst |")
    print("| --- | --- | --- |")
    for units, formats in ((56, 7), (56, 20), (224, 7), (300, 20)):
        made = problem(units, formats, seed=units + formats)
        low, high = (end.average_bits * made.weights for end in solver.extent(made))
        limits = np.linspace(low, high, options.budgets + 2)[1:-1].tolist()
        seconds(made, limits[:2], 0)  # the first call imports SciPy's solver
        ours, cost = seconds(made, limits, solver.WORK)
        program, other = seconds(made, limits, 0)
        assert np.allclose(cost, other, rtol=1e-9), "both are exact"
        cells = [f"{statistics.median(t) * 1e3:.1f} / {max(t) * 1e3:.0f} ms" for t in (ours, program)]
        print(f"| {units} x {formats} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
