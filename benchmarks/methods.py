"""Every number format by every rounding method on one model: what each does to its predictions, and what it costs.

All decided layers are rounded to one format by one method and the model is compared with the original on evaluation
text, apart from the calibration text that methods learn from. Rows are sorted by effective bits, so that what stands
together costs the same. "seconds" is the rounding alone: what enters the layers is read once, and timed once, for all.

    make benchmark NAME=methods
    make benchmark NAME=methods ARGS="--formats int3,int4,q4_k --methods nearest,gptq --tokens 8192"
    make benchmark NAME=methods ARGS="--formats int4/channel/sym --methods gptq --transforms rotate,awq"
    make benchmark NAME=methods ARGS="--formats int8/channel/sym --methods nearest --activations int8/token"
"""

from __future__ import annotations

import argparse
import ctypes
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from benchmarks.fisher import Silent
from quant_core import formats
from quant_core.calibration.text import tokenize
from quant_core.errors import QuantError
from quant_core.evaluation.quality import compare
from quant_core.methods import rounding
from quant_core.methods.rounder import Rounder
from quant_core.methods.variant import Variant, make_variant
from quant_core.models.loading import LoadedModel, load
from quant_core.schema import CALIBRATION, EVALUATION, ORIGINAL, Calibration, Evaluation, ModelRef, Setup


class Peak:
    """The most memory that a piece of work took beyond what was there before: on the GPU, or of the process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.start = torch.cuda.memory_allocated(device)
        else:
            with suppress(OSError, AttributeError):
                # What was freed goes back to the system, to be counted anew.
                ctypes.CDLL("libc.so.6").malloc_trim(0)
            self.start = psutil.Process().memory_info().rss
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew from here

    def megabytes(self) -> float:
        """So far, in MB; where the system tells no peak of a process, what it holds now."""
        top = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _process_peak()
        return max(0, top - self.start) / 1e6


def _process_peak() -> int:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return psutil.Process().memory_info().rss


def main() -> None:
    """Run every combination asked for and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--formats", default="all", help="names, comma-separated, or all families at their default"
    )
    parser.add_argument("--methods", default="all", help="names with options, comma-separated, or all")
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=8192, help="of evaluation text")
    parser.add_argument("--calibration", type=int, default=8192, help="tokens of calibration text")
    parser.add_argument("--transforms", default="", help="rewrites of the model before, comma-separated")
    parser.add_argument("--activations", default="", help="how the inputs of the layers are rounded")
    parser.add_argument("--kv-cache", default="", help="how keys and values are rounded")
    options = parser.parse_args()

    loaded = load(ModelRef(options.model, dtype="float32", device=options.device))
    context = Silent(loaded)
    families, methods = formats.infos(), rounding.infos(formats.infos())
    names = list(families) if options.formats == "all" else options.formats.split(",")
    ways = ["nearest", *methods] if options.methods == "all" else options.methods.split(",")
    learn = Calibration(CALIBRATION, options.calibration)
    transforms = tuple(options.transforms.split(",")) if options.transforms else ()
    setup = Setup(transforms, options.activations, options.kv_cache, calibration=learn)
    tokens = tokenize(context, loaded, EVALUATION, options.tokens, 256)
    rounder = Rounder(context, loaded, tokenize(context, loaded, learn.text, learn.tokens, learn.sequence))
    print(
        f"{loaded.info.title}, {loaded.info.parameters / 1e6:.1f} M parameters, {loaded.device}; {tokens.count:,} "
        f"evaluation tokens, {learn.tokens:,} calibration tokens"
    )
    print(f"reading what enters the layers, with gradients: {_read(loaded, rounder):.1f} s\n", flush=True)
    rows = []
    for name in names:
        if name == ORIGINAL:
            continue
        base = formats.find(name, options.group)
        for way in ways:
            if base.spec.family not in methods[way.split(":")[0]].families if way != "nearest" else False:
                continue
            full = base.name if way == "nearest" else f"{base.name}@{way}"
            try:
                rows.append(_row(context, loaded, rounder, tokens, full, setup))
            except QuantError as error:
                print(f"  {full}: {error}", flush=True)
    print("\n| format | method | bits a weight | KL, nats | +- | perplexity | top-1 | seconds | peak MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for _, line in sorted(rows):
        print(line)


def _read(loaded: LoadedModel, rounder: Rounder) -> float:
    begun = time.perf_counter()
    slots = [slot for slot in loaded.graph.slots.values() if slot.unit.decided]
    rounder.inputs(slots[0], gradients=True)
    return time.perf_counter() - begun


def _row(
    context: Silent, loaded: LoadedModel, rounder: Rounder, tokens, name: str, setup: Setup
) -> tuple[tuple[float, float], str]:
    units = [slot.unit for slot in loaded.graph.slots.values() if slot.unit.decided]
    form, assignment = formats.find(name), {unit.name: name for unit in units}
    peak, begun = Peak(loaded.device), time.perf_counter()
    if setup == Setup(calibration=setup.calibration):
        variant = Variant(loaded, rounder.weights(assignment), ())
    else:
        variant = make_variant(context, loaded, assignment, setup)
    took, memory = time.perf_counter() - begun, peak.megabytes()
    found: Evaluation = compare(context, loaded, variant, tokens)
    stored = sum(form.storage(unit.rows, unit.columns, unit.bits).total for unit in units)
    bits = stored / sum(unit.parameters for unit in units)
    method = form.spec.method or "nearest"
    line = (
        f"| {form.spec.format} | {method} | {bits:.3f} | {found.kl_mean:.5f} | {found.kl_stderr:.5f} | "
        f"{found.perplexity:.2f} | {found.top1_agreement:.1%} | {took:.2f} | {memory:.0f} |"
    )
    print(f"  {name}: {bits:.3f} bits, KL {found.kl_mean:.5f}, {took:.2f} s", flush=True)
    return (bits, found.kl_mean), line


if __name__ == "__main__":
    main()
