"""Recipes whose rounding learns from text: predicted KL against KL measured on text that nothing learned from.

The bundled model is scored in formats with and without a method that learns; the best recipe of each is measured on the
bundled evaluation text, learning from as many tokens of the calibration text as the sweep was asked for.

    make benchmark NAME=held_out ARGS="--tokens 2048"
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.fisher import Silent
from quant_core.allocation.choose import best
from quant_core.allocation.problem import build_problem
from quant_core.allocation.proof import ranking
from quant_core.allocation.solution import solution
from quant_core.evaluation.proof import prove
from quant_core.models.loading import load
from quant_core.schema import CALIBRATION, Calibration, ModelRef, ProveRequest, SensitivityRequest, Setup
from quant_core.sensitivity.run import run


def main() -> None:
    """Score, solve, measure, and print a line for each method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=2048, help="of calibration text")
    parser.add_argument("--held-out", type=int, default=4096, help="tokens of evaluation text")
    parser.add_argument("--bits", type=float, default=4.5)
    parser.add_argument("--formats", default="int3,int4,int5,int6")
    parser.add_argument("--methods", default="nearest,gptq")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    loaded = load(ModelRef("bundled"))
    context, ref, key = Silent(loaded), loaded.info.ref, loaded.info.fingerprint
    setup = Setup(calibration=Calibration(CALIBRATION, options.tokens))
    print(
        f"{loaded.info.title}, {options.tokens:,} calibration tokens, {options.bits} bits, {options.formats}\n"
    )
    print("| method | predicted KL | +- | measured KL | +- | measured / predicted |")
    print("| --- | --- | --- | --- | --- | --- |")
    for method in options.methods.split(","):
        end = "" if method == "nearest" else f"@{method}"
        formats = tuple(f"{name}{end}" for name in options.formats.split(","))
        table = run(context, SensitivityRequest(ref, key, formats, CALIBRATION, options.tokens))
        named = build_problem(loaded.info, table)
        found = solution(named, best(named, options.bits * named.problem.weights).choice)
        proof = prove(
            context,
            ProveRequest(ref, key, (dict(found.assignment),), tokens=options.held_out, setup=setup),
        )
        (place,) = ranking(proof.kl)
        assert np.isfinite(place.kl)
        print(
            f"| {method} | {found.predicted_kl:.5f} | {found.predicted_stderr:.5f} | {place.kl:.5f} | "
            f"{place.stderr:.5f} | {place.kl / found.predicted_kl:.2f} |",
            flush=True,
        )
        for note in table.notes:
            print(f"  {note}", flush=True)


if __name__ == "__main__":
    main()
