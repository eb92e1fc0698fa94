"""The measured sweep against the naive one: how much faster, and whether the numbers are the same.

The naive sweep quantizes one unit, runs the whole model, and takes the KL divergence from two softmaxes. Both measure
the same points on the same tokens, in one run and with the same number of threads, by turns of one naive batch.

    make benchmark NAME=measured ARGS="--tokens 3584 --formats int2,int4,int8"
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks._naive import naive
from benchmarks.fisher import Silent
from quant_core.calibration.batches import batch_rows
from quant_core.calibration.text import Tokens, tokenize
from quant_core.formats import find
from quant_core.methods.rounder import Rounder
from quant_core.models.loading import load
from quant_core.schema import CALIBRATION, ModelRef
from quant_core.sensitivity.errors import RoundingErrors
from quant_core.sensitivity.measured import Sweep, measure_layers
from quant_core.sensitivity.points import Points


def ours(context: Silent, sweep: Sweep, rows: int, copies: int) -> Tensor:
    """The same by the program's own sweep."""
    shape = (len(sweep.slots), len(sweep.errors.formats), len(sweep.tokens.ids))
    with tempfile.TemporaryDirectory() as folder:
        points = Points(Path(folder), "benchmark", shape, {})
        for note in measure_layers(context, sweep, points, rows, copies):
            print(note)
    return points.kl


class Clock:
    """Wall and processor seconds spent in some work."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0

    def time(self, work: Callable[[], Tensor]) -> Tensor:
        """Do the work and add the time it took."""
        wall, processor = time.perf_counter(), time.process_time()
        found = work()
        self.wall += time.perf_counter() - wall
        self.processor += time.process_time() - processor
        return found


def main() -> None:
    """Run both by turns and print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, default=3584)
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument("--formats", default="int2,int3,int4,int8")
    parser.add_argument("--every", type=int, default=1, help="take every n-th unit only")
    parser.add_argument("--rows", type=int, default=0, help="sequences in a batch of ours")
    parser.add_argument("--copies", type=int, default=0, help="formats in a batch of ours")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    loaded = load(ModelRef(options.model, dtype=options.dtype, device=options.device))
    context = Silent(loaded)
    text = tokenize(context, loaded, CALIBRATION, options.tokens, options.sequence)
    slots = [slot for slot in loaded.graph.slots.values() if slot.unit.decided][:: options.every]
    errors = RoundingErrors(
        [find(name) for name in options.formats.split(",")], Rounder(context, loaded, text)
    )
    for slot in slots:
        for form in errors.formats:
            errors.of(slot, form)
    clocks = {"naive": Clock(), "ours": Clock()}
    truth, found = [], []
    step = batch_rows(loaded, text.ids.shape[1], 1)
    warm = Sweep(loaded, Tokens(text.ids[:step], "", ""), slots[:1], errors)
    naive(warm)
    ours(context, warm, options.rows, options.copies)
    for start in range(0, len(text.ids), step):
        turn = Sweep(loaded, Tokens(text.ids[start : start + step], "", ""), slots, errors)
        truth.append(clocks["naive"].time(partial(naive, turn)))
        found.append(clocks["ours"].time(partial(ours, context, turn, options.rows, options.copies)))
    before, after = torch.cat(truth, dim=-1).mean(-1), torch.cat(found, dim=-1).mean(-1)
    where = f"{torch.get_num_threads()} threads" if loaded.info.device == "cpu" else loaded.info.device
    print(
        f"{loaded.info.title}: {before.numel()} points, {text.count:,} tokens, {loaded.info.compute_dtype}, {where}"
    )
    print(f"largest difference {float((after - before).abs().max()):.2e} nats; ", end="")
    print(f"relative to the KL {float(((after - before).abs() / before.abs().clamp(min=1e-6)).max()):.2e}")
    for name, clock in clocks.items():
        print(f"{name}: {clock.wall:.1f} s, {clock.processor:.1f} s of processor time")
    wall, processor = (
        getattr(clocks["naive"], kind) / getattr(clocks["ours"], kind) for kind in ("wall", "processor")
    )
    print(f"{wall:.2f} times as fast, {processor:.2f} by processor time")


if __name__ == "__main__":
    main()
