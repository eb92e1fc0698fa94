"""The budget solver: state lists against HiGHS on the same problems, over budgets from the floor to the ceiling.

Problems are made up: scores that fall by a factor of four a bit, times a random sensitivity of each unit, and sizes of
real shapes. Both solvers see the same reduced problem and must find the same cost.

Then what the page does on every edit, from the score table of plain tuples to the recipe: the problem built, solved and
named, for 300 units and for every expert of 94 blocks of 128; free, for a target that ties units, and under two limits
that both bind (size, and time for a token where some formats have no kernel).

    make benchmark NAME=solver
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from quant_core.allocation import choose, neighbours, solver
from quant_core.allocation.problem import Problem, build_problem
from quant_core.allocation.solution import solution
from quant_core.schema import Limits, ModelInfo, ModelRef, ScoreTable, Terms, Unit, Use

SIZES = {
    "int2/g64/asym": 2.28125, "int3/g64/asym": 3.296875, "int4/g64/sym": 4.25, "int4/g64/asym": 4.3125,
    "nf4/g64": 4.5, "int5/g64/asym": 5.328125, "int6/g64/asym": 6.34375, "int8/g64/asym": 8.375, "q3_k": 3.4375,
    "q4_k": 4.5, "q5_k": 5.5, "q6_k": 6.5625,
}  # fmt: skip
"""Formats with their stored bits a weight."""


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


def routed(blocks: int, experts: int) -> ModelInfo:
    """A model of nothing but experts, three weights each."""
    units = tuple(
        Unit(
            f"model.layers.{block}.mlp.experts.{role}[{expert}]", block, f"{role}[{expert}]", "expert", 1536, 4096, 16,
            True, fused=f"model.layers.{block}.mlp.experts",
        )
        for block in range(blocks)
        for role in ("gate_proj", "up_proj", "down_proj")
        for expert in range(experts)
    )  # fmt: skip
    return ModelInfo(
        ModelRef("made"), "Made", "f" * 24, "MadeForCausalLM", sum(unit.parameters for unit in units), 0, units,
        blocks, 4096, 32_000, 4096, 2048 * blocks, "bfloat16", "bfloat16", "cpu", False, experts_per_token=1,
    )  # fmt: skip


def scored(info: ModelInfo, formats: int, seed: int) -> ScoreTable:
    """Scores as a worker writes them: tuples of tuples."""
    random = np.random.default_rng(seed)
    names = tuple(SIZES)[:formats]
    average = np.array([SIZES[name] for name in names])
    cost = random.lognormal(-4, 1.2, (len(info.units), 1)) * 4.0**-average
    cost = cost * random.lognormal(0, 0.1, cost.shape)
    bits = np.array([unit.parameters for unit in info.units])[:, None] * average
    fisher, stderr = (tuple(map(tuple, part.tolist())) for part in (cost, 0.08 * cost))
    stored = tuple(map(tuple, np.rint(bits).astype(np.int64).tolist()))
    units = tuple(unit.name for unit in info.units)
    return ScoreTable(
        info.fingerprint, units, names, stored, (), 8192, 32, "0" * 24, "made", seed, 1.0, fisher=fisher,
        fisher_stderr=stderr,
    )  # fmt: skip


def milliseconds(info: ModelInfo, table: ScoreTable, average: float, terms: Terms) -> list[float]:
    """Time to build the problem, to solve and name it, and to find five finalists beside."""
    begun = time.perf_counter()
    named = build_problem(info, table, terms=terms)
    built = time.perf_counter()
    solution(named, choose.best(named, average * named.problem.weights).choice)
    solved = time.perf_counter()
    neighbours.finalists(named, average * named.problem.weights, 6)
    return [1e3 * (built - begun), 1e3 * (solved - built), 1e3 * (time.perf_counter() - solved)]


def both_bind(info: ModelInfo, table: ScoreTable, average: float) -> Terms:
    """Terms whose limit on time lies between what the best recipe of a size takes and the least there is."""
    use = Use(hardware="rtx-4090", context=1)
    terms = Terms(limits=Limits(milliseconds=1e6), use=use)
    named = build_problem(info, table, terms=terms)
    (need,), bits = named.needs, named.problem.bits
    free = need.of(bits, choose.best(named, average * named.problem.weights).choice)
    limit = 0.5 * free + 0.5 * need.least(bits, named.problem.allowed)
    return Terms(limits=Limits(milliseconds=limit), use=use)


def edits() -> None:
    """Print what an edit takes."""
    print("\n| units x formats | terms | build | solve | finalists |")
    print("| --- | --- | --- | --- | --- |")
    for blocks, experts, formats in ((100, 1, 12), (94, 128, 8)):
        info = routed(blocks, experts)
        table = scored(info, formats, seed=blocks)
        kinds = {"none": Terms(), "gptq": Terms("gptq"), "size and time": both_bind(info, table, 4.5)}
        for name, terms in kinds.items():
            runs = [milliseconds(info, table, average, terms) for average in (4.5, 4.5, 4.6, 4.7)][1:]
            cells = [f"{statistics.median(part):.0f} ms" for part in zip(*runs, strict=True)]
            print(f"| {len(info.units)} x {formats} | {name} | {' | '.join(cells)} |")


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
    edits()


if __name__ == "__main__":
    main()
