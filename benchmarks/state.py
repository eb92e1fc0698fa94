"""Score state: how well new formats are scored from it, what it costs, and how soon a column is there.

A sweep in a few formats leaves the state; other formats, left out of it, are scored from the state and, to compare, by
the sweep's own per-token score and, if asked, by measuring. Then one column is timed, here and in a fresh process.

    make benchmark NAME=state ARGS="--measured"
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.fisher import Silent
from quant_core.models.loading import LoadedModel, load
from quant_core.schema import CALIBRATION, ModelRef, RescoreRequest, ScoreTable, SensitivityRequest, replace
from quant_core.sensitivity.keep import keep_state
from quant_core.sensitivity.rescore import rescore
from quant_core.sensitivity.run import run

ANCHORS = "int3,int4,int8"
HELD_OUT = "int2,int5,int3/g32/asym,int4/g128/asym,int4/channel/sym,nf4,fp8,mxfp4,q3_k,q4_0,int3@mse"
"""None that learns from text: a sweep scores those on text of their own."""

FRESH = """
import time
begun = time.perf_counter()
from pathlib import Path
from types import SimpleNamespace
from quant_core.schema import ModelRef, RescoreRequest
from quant_core.sensitivity.rescore import rescore
imported = time.perf_counter()
context = SimpleNamespace(progress=lambda *_: None, folder=lambda: Path({folder!r}))
rescore(context, RescoreRequest(ModelRef({source!r}, dtype="float32"), {content!r}, {state!r}, ({form!r},)))
print(imported - begun, time.perf_counter() - imported, time.process_time())
"""


def main() -> None:
    """Sweep, score from the state, compare, time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument("--anchors", default=ANCHORS, help="formats of the sweep that leaves the state")
    parser.add_argument("--held-out", default=HELD_OUT, help="formats scored from it")
    parser.add_argument("--measured", action="store_true", help="compare with measured KL too, which is slow")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    loaded = load(ModelRef(options.model, dtype="float32"))
    context = Silent(loaded)
    held_out = tuple(options.held_out.split(","))
    request = SensitivityRequest(
        model=loaded.info.ref,
        fingerprint=loaded.info.fingerprint,
        formats=tuple(options.anchors.split(",")),
        text=CALIBRATION,
        tokens=options.tokens,
        sequence=options.sequence,
    )
    run(context, replace(request, tokens=options.sequence * 8, formats=("int4",)))  # warm up
    table, writing = _sweep(context, request)
    file = context.folder() / f"state-{table.state}.safetensors"
    ours = rescore(context, RescoreRequest(loaded.info.ref, loaded.info.fingerprint, table.state, held_out))
    exact = run(context, replace(request, formats=held_out))
    truth = run(context, replace(request, formats=held_out, score="measured")) if options.measured else None
    print(
        f"\n{loaded.info.title}, {len(table.units)} units, {table.tokens:,} tokens, {torch.get_num_threads()} threads"
    )
    print(f"anchors: {', '.join(table.formats)}\n")
    _agreement(ours, exact, truth)
    print(f"\nsweep {table.seconds:.1f} s, of it factoring, anchoring and writing the state {writing:.1f} s")
    print(
        f"state {file.stat().st_size / 1e6:.1f} MB; the checkpoint {loaded.info.original_bits / 8e6:.1f} MB"
    )
    _times(context, loaded, table, held_out[0])


def _sweep(context: Silent, request: SensitivityRequest) -> tuple[ScoreTable, float]:
    """The sweep's table, and the seconds of it that went into factoring, anchoring and writing the state."""
    spent = 0.0

    def timed(*arguments, **named):
        nonlocal spent
        begun = time.perf_counter()
        key = keep_state(*arguments, **named)
        spent = time.perf_counter() - begun
        return key

    with patch("quant_core.sensitivity.run.keep_state", timed):
        return run(context, request), spent


def _agreement(ours: ScoreTable, exact: ScoreTable, truth: ScoreTable | None) -> None:
    """Held-out formats from the state against per-token scores and against measured KL."""
    print("| format | rank, per token | sum / per token | median error | within 2 standard errors |", end="")
    print(" rank, measured | sum / measured | per token: rank | sum |" if truth else "")
    print("| --- " * (9 if truth else 5) + "|")
    for column, name in enumerate(ours.formats):
        a, b = np.array(ours.fisher)[:, column], np.array(exact.fisher)[:, column]
        error, spread = np.abs(np.log(a / b)), np.array(ours.fisher_stderr)[:, column]
        inside = np.mean(np.abs(a - b) <= 1.96 * spread)
        line = f"| {name} | {spearmanr(a, b).statistic:.3f} | {a.sum() / b.sum():.3f} |"
        line += f" {np.median(error):.1%} | {inside:.0%} |"
        if truth:
            t = np.array(truth.measured)[:, column]
            line += f" {spearmanr(a, t).statistic:.3f} | {a.sum() / t.sum():.3f} |"
            line += f" {spearmanr(b, t).statistic:.3f} | {b.sum() / t.sum():.3f} |"
        print(line)


def _times(context: Silent, loaded: LoadedModel, table: ScoreTable, form: str) -> None:
    """A whole new column, warm and in a fresh process."""
    request = RescoreRequest(loaded.info.ref, loaded.info.fingerprint, table.state, (form,))
    times = []
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        rescore(context, request)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = min(times)
    print(f"a new column ({form}), warm: {wall:.2f} s, {cpu:.2f} s of processor time")
    script = FRESH.format(
        folder=str(context.folder()), source=loaded.info.ref.source, content=loaded.info.fingerprint,
        state=table.state, form=form,
    )  # fmt: skip
    root = Path(__file__).resolve().parents[1]
    begun = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    whole = time.perf_counter() - begun
    imports, scoring, cpu = map(float, ended.stdout.split()[-3:])
    print(
        f"in a fresh process: {whole:.2f} s, of it imports {imports:.2f} s, "
        f"reading weights and state and scoring {scoring:.2f} s; {cpu:.2f} s of processor time"
    )


if __name__ == "__main__":
    main()
