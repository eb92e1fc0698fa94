"""A Fisher map of a model larger than memory: the bundled model under an artificial limit, beside the same in memory.

Each runs in a process of its own. The limit is what the program is told is free, so that it maps the weights and goes
block by block; whether it keeps to it is read from the kernel: anonymous memory (RssAnon) at its peak, over what the
process had before the model was opened. Pages of the mapped file are the system's to take back and are told apart.

    make benchmark NAME=beyond ARGS="--limit 100 --tokens 2048"
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil

FORMATS = "int3,int4,int8,nf4"


def resident(field: str) -> int:
    """Bytes of this process that /proc counts as ``field`` (RssAnon, RssFile)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


class Peak(threading.Thread):
    """Looks every few milliseconds at how much anonymous memory the process has."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.base = self.most = resident("RssAnon")

    def run(self) -> None:
        """Until the process ends."""
        while True:
            self.most = max(self.most, resident("RssAnon"))
            time.sleep(0.005)


def child(options: argparse.Namespace) -> None:
    """Run one map and print what it took as JSON."""
    import torch

    from benchmarks.fisher import Silent
    from quant_core.models.loading import load
    from quant_core.schema import CALIBRATION, ModelRef, SensitivityRequest
    from quant_core.sensitivity.run import run

    torch.ones(64, 64) @ torch.ones(64, 64)  # threads and their memory are there before the count begins
    if options.limit:
        free = SimpleNamespace(available=options.limit * 1_000_000)
        setattr(psutil, "virtual_memory", lambda: free)  # noqa: B010  (the artificial limit; typed otherwise)

    class Told(Silent):
        estimate = ""

        def progress(self, fraction: float, message: str = "") -> None:
            if "in all" in message:
                self.estimate = message.rpartition(", ")[2]

    peak = Peak()
    peak.start()
    loaded = load(ModelRef(options.model, dtype="auto" if options.limit else "float32", device="cpu"))
    context = Told(loaded)
    begun = time.perf_counter()
    table = run(
        context,
        SensitivityRequest(
            model=loaded.info.ref,
            fingerprint=loaded.info.fingerprint,
            formats=tuple(options.formats.split(",")),
            text=CALIBRATION,
            tokens=options.tokens,
            sequence=256,
        ),
    )
    took = {
        "mapped": loaded.mapped,
        "seconds": time.perf_counter() - begun,
        "estimate": context.estimate,
        "anonymous": peak.most - peak.base,
        "scores": table.fisher,
        "notes": table.notes,
    }
    print(json.dumps(took))


def main() -> None:
    """Run both and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--limit", type=int, default=100, help="MB that the program is told are free")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--formats", default=FORMATS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    found = []
    for limit in (0, options.limit):
        words = ["--model", options.model, "--tokens", str(options.tokens), "--formats", options.formats]
        run = subprocess.run(
            [sys.executable, "-m", "benchmarks.beyond", "--child", "--limit", str(limit), *words],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ
            | {"MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed goes back to the system at once
        )
        if run.returncode:
            raise SystemExit(run.stderr)
        found.append(json.loads(run.stdout.splitlines()[-1]))
    print("| | weights | seconds | told beforehand | peak of anonymous memory, MB |")
    print("| --- | --- | --- | --- | --- |")
    for name, one in zip(("in memory", f"{options.limit} MB free"), found, strict=True):
        where = "in the file, a block at a time" if one["mapped"] else "in memory"
        told = one["estimate"] or "–"
        print(f"| {name} | {where} | {one['seconds']:.1f} | {told} | {one['anonymous'] / 1e6:.0f} |")
    whole, blocks = (np.array(one["scores"]) for one in found)
    print(f"\nlargest difference of a score: {np.abs(blocks / whole - 1).max():.1e} of it")
    print("\n".join(found[1]["notes"]))


if __name__ == "__main__":
    main()
