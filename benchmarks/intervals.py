"""Calibrated intervals on a real model: how often they hold what is measured, and how wide they are.

The bundled model is scored, the prediction is calibrated on a few recipes, and fresh recipes of two kinds are measured
on the same evaluation text: ones as the solver makes them (from stirred scores) and ones drawn at random, each layer's
format by itself. All lie between 2.5 and 6 bits.

    make benchmark NAME=intervals ARGS="--fresh 40"
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.fisher import Silent
from quant_core.allocation.calibration import Interval, design, fit, parts
from quant_core.allocation.problem import NamedProblem, build_problem
from quant_core.evaluation.proof import prove
from quant_core.models.loading import load
from quant_core.schema import CALIBRATION, ModelRef, ProveRequest, SensitivityRequest
from quant_core.sensitivity.run import run

FORMATS = "int2,int3,int4,int5,int6,int8,nf4"
LOW, HIGH = 2.5, 6.0


def drawn(named: NamedProblem, count: int, seed: int) -> list[dict[str, str]]:
    """Recipes whose layers take formats at random, each recipe with chances of its own, within the sizes."""
    dice = np.random.default_rng(seed)
    found: list[dict[str, str]] = []
    while len(found) < count:
        chances = dice.dirichlet(np.full(len(named.formats) - 1, 0.5))
        choice = dice.choice(len(chances), size=len(named.units), p=chances)
        bits = named.problem.average_bits(int(named.problem.bits[np.arange(len(choice)), choice].sum()))
        if LOW <= bits <= HIGH:
            found.append(
                {unit: named.formats[index] for unit, index in zip(named.units, choice, strict=True)}
            )
    return found


def report(kind: str, ends: list[Interval], truth: list[float]) -> None:
    """One line: how many intervals hold the truth, how wide they are, how far off their middle is."""
    held = sum(end.low <= kl <= end.high for end, kl in zip(ends, truth, strict=True))
    width = float(np.mean([(end.high - end.low) / end.kl for end in ends]))
    off = float(np.mean([abs(np.log(end.kl / kl)) for end, kl in zip(ends, truth, strict=True)]))
    print(f"| {kind} | {held} of {len(truth)} ({held / len(truth):.0%}) | {width:.2f} | {off:.3f} |")


def main() -> None:
    """Score, calibrate, measure fresh recipes, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4096, help="of each of both texts")
    parser.add_argument("--recipes", type=int, default=10, help="to calibrate on")
    parser.add_argument("--fresh", type=int, default=40)
    parser.add_argument("--formats", default=FORMATS)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    loaded = load(ModelRef("bundled"))
    context = Silent(loaded)
    ref, key = loaded.info.ref, loaded.info.fingerprint
    formats = tuple(options.formats.split(","))
    table = run(context, SensitivityRequest(ref, key, formats, CALIBRATION, options.tokens))
    named = build_problem(loaded.info, table)
    calibrating = design(named, options.recipes)
    as_solved = design(named, options.fresh - options.fresh // 2, seed=1)
    at_random = drawn(named, options.fresh // 2, seed=2)
    asked = (*calibrating, *as_solved, *at_random)
    proof = prove(context, ProveRequest(ref, key, asked, tokens=options.tokens))
    kl = [float(np.mean(row)) for row in proof.kl]
    rows = [parts(named, recipe) for recipe in asked]
    calibration = fit(np.array(rows[: options.recipes]), kl[: options.recipes])
    errors = named.problem.stderr
    print(f"\n{loaded.info.title}, calibrated on {options.recipes} recipes, {proof.tokens:,} positions")
    by_format = zip(named.formats[:-1], np.exp(calibration.effects[1:]), strict=False)
    print(f"common {np.exp(calibration.effects[0]):.3f}; ", end="")
    print(", ".join(f"{name} {effect:.2f}" for name, effect in by_format), end="")
    print(f"; damage {calibration.effects[-1]:.2f}; noise {calibration.noise:.3f}\n")
    print(
        "| fresh recipes, prediction | measured KL inside the 95 % interval | width / KL | off by, mean abs log |"
    )
    print("| --- | --- | --- | --- |")
    solved = slice(options.recipes, options.recipes + len(as_solved))
    for kind, where in (("as solved", solved), ("at random", slice(solved.stop, None))):
        plain = []
        for row, recipe in zip(rows[where], asked[where], strict=True):
            choice = [named.formats.index(recipe[unit]) for unit in named.units]
            reach = 1.96 * float(errors[np.arange(len(choice)), choice].sum())
            plain.append(Interval(float(row.sum()), float(row.sum()) - reach, float(row.sum()) + reach))
        report(f"{kind}, sampling error alone", plain, kl[where])
        report(f"{kind}, calibrated", [calibration.interval(row) for row in rows[where]], kl[where])
    print("\nmeasured over predicted, by predicted KL:")
    for row, value in sorted(zip(rows, kl, strict=True), key=lambda pair: -pair[0].sum())[
        :: max(1, len(rows) // 12)
    ]:
        print(
            f"  {row.sum():.4f}: {value / row.sum():.3f}, calibrated {calibration.interval(row).kl / row.sum():.3f}"
        )


if __name__ == "__main__":
    main()
