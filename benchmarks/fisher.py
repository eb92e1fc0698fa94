"""Fisher map against measured KL: how much faster, how well it ranks, how near the sum comes.

Both score every unit of the bundled model in every format on the same calibration tokens, in one run and with the
same number of threads. The naive sweep quantizes one unit, runs the whole model, and takes the KL divergence; it is
timed on some units, and its time for all is worked out from theirs. The numbers come from the program's own measured
sweep, which finds the same ones sooner (``NAME=measured``).

    make benchmark NAME=fisher ARGS="--tokens 8192"
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks._naive import naive
from quant_core.calibration.batches import batch_rows
from quant_core.calibration.text import Tokens, tokenize
from quant_core.formats import find
from quant_core.methods.rounder import Rounder
from quant_core.models.loading import LoadedModel, load
from quant_core.schema import CALIBRATION, Event, ModelRef, SensitivityRequest, replace
from quant_core.sensitivity.errors import RoundingErrors
from quant_core.sensitivity.measured import Sweep
from quant_core.sensitivity.run import run

FORMATS = "int2,int3,int4,int5,int6,int8,int4/sym,nf4,fp8"


class Silent:
    """A job's context outside a worker: keeps the model and prints progress."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.model = loaded
        self.begun = time.monotonic()

    def progress(self, fraction: float, message: str = "") -> None:
        """Print the share done at most every 20 seconds."""
        if time.monotonic() - self.begun > 20:
            self.begun = time.monotonic()
            print(f"  {fraction:6.1%}  {message}", flush=True)

    def check_cancelled(self) -> None:
        """Nothing cancels a benchmark but the keyboard."""

    def emit(self, event: Event) -> None:
        """Nobody watches."""

    def folder(self) -> Path:
        """A folder that stays, so that text the model wrote is there for the next run."""
        folder = Path(tempfile.gettempdir()) / "quantlens-benchmarks"
        folder.mkdir(exist_ok=True)
        return folder

    def loaded(self, ref: ModelRef, roots: tuple[str, ...], fingerprint: str = "") -> LoadedModel:
        """The one model."""
        return self.model


def main() -> None:
    """Run both and print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument("--formats", default=FORMATS)
    parser.add_argument("--every", type=int, default=8, help="time the naive sweep on every n-th unit")
    parser.add_argument("--time-only", action="store_true", help="leave the measured sweep out")
    options = parser.parse_args()
    loaded = load(ModelRef(options.model, dtype=options.dtype, device=options.device))
    request = SensitivityRequest(
        model=loaded.info.ref,
        fingerprint=loaded.info.fingerprint,
        formats=tuple(options.formats.split(",")),
        text=CALIBRATION,
        tokens=options.tokens,
        sequence=options.sequence,
    )
    context = Silent(loaded)
    run(context, replace(request, tokens=options.sequence * 8, formats=("int4",)))  # warm up
    fisher = run(context, request)
    if options.time_only:
        naive_seconds = _naive_seconds(context, request, options.every)
        print(f"{len(fisher.units)} units, {len(fisher.formats)} formats, {fisher.tokens:,} tokens")
        print(f"Fisher map {fisher.seconds:.1f} s (its score state included), ", end="")
        print(f"naive sweep {naive_seconds:.1f} s: {naive_seconds / fisher.seconds:.1f}x")
        return
    measured = run(context, replace(request, score="measured"))
    naive_seconds = _naive_seconds(context, request, options.every)
    points = len(fisher.units) * len(fisher.formats)
    print(
        f"\n{loaded.info.title}, {loaded.info.parameters / 1e6:.1f} M parameters, {len(fisher.units)} units,"
    )
    where = f"{torch.get_num_threads()} threads" if loaded.info.device == "cpu" else loaded.info.device
    print(f"{fisher.tokens:,} tokens in {fisher.sequences} sequences, {loaded.info.compute_dtype}, {where}\n")
    print("| format | rank correlation | sum of scores, nats | sum of measured KL, nats | ratio |")
    print("| --- | --- | --- | --- | --- |")
    for column, name in enumerate(fisher.formats):
        ours, truth = np.array(fisher.fisher)[:, column], np.array(measured.measured)[:, column]
        rank = spearmanr(ours, truth).statistic
        print(
            f"| {name} | {rank:.3f} | {ours.sum():.5f} | {truth.sum():.5f} | {ours.sum() / truth.sum():.2f} |"
        )
    ratios = np.array(fisher.fisher) / np.array(measured.measured)
    print("\nthe units whose score is farthest below and above their measured KL:")
    for column, name in enumerate(fisher.formats):
        order = np.argsort(ratios[:, column])
        far = ", ".join(f"{fisher.units[row]} {ratios[row, column]:.2f}" for row in (*order[:3], *order[-2:]))
        print(f"  {name}: {far}")
    print(f"\nall {points} points together: rank correlation ", end="")
    print(f"{spearmanr(np.ravel(fisher.fisher), np.ravel(measured.measured)).statistic:.4f}")
    print(f"Fisher map {fisher.seconds:.1f} s (its score state included), ", end="")
    print(f"measured sweep {measured.seconds:.1f} s: {measured.seconds / fisher.seconds:.1f}x, ", end="")
    print(f"naive sweep {naive_seconds:.1f} s: {naive_seconds / fisher.seconds:.1f}x")


def _naive_seconds(context: Silent, request: SensitivityRequest, every: int) -> float:
    """What the naive sweep would take, from its time on every n-th unit, rounding included."""
    loaded = context.model
    text = tokenize(context, loaded, request.text, request.tokens, request.sequence)
    decided = [slot for slot in loaded.graph.slots.values() if slot.unit.decided]
    chosen = decided[::every]
    errors = RoundingErrors([find(name) for name in request.formats], Rounder(context, loaded, text))
    step = batch_rows(loaded, request.sequence, 1)
    begun = time.perf_counter()
    for start in range(0, len(text.ids), step):
        naive(Sweep(loaded, Tokens(text.ids[start : start + step], "", ""), chosen, errors))
    return (time.perf_counter() - begun) * len(decided) / len(chosen)


if __name__ == "__main__":
    main()
