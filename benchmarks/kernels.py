"""Rounding in one pass: how much of the memory bandwidth the fused kernels reach, beside the eager path.

A round trip reads a bfloat16 weight once and writes it once, as a copy does, so the copy of the same weight is the
limit. Both are timed in one run, with events on the GPU; the eager path is the same arithmetic, step by step.

    make benchmark NAME=kernels ARGS="--formats int4,nf4 --size 8192"
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch

from quant_core.formats import find, fused
from quant_core.formats.base import fake_quantize as eager


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 20) -> float:
    """Median seconds of ``work`` on a GPU, of ten in a row so that the time to launch is not counted."""
    for _ in range(5):
        work()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(10):
            work()
        end.record()
        torch.cuda.synchronize(device)
        times.append(begin.elapsed_time(end) / 10_000)
    return sorted(times)[repeats // 2]


def main() -> None:
    """Time copy, fused and eager round trips, and compare what they give."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--formats", default="int4,int4/sym,int3,int8/channel/sym,nf4,nf4/g128")
    parser.add_argument("--size", type=int, default=8192)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("The fused kernels run on a CUDA GPU, and this machine has none.")
    device = torch.device("cuda")
    weight = torch.randn(options.size, options.size, device=device).mul_(0.02).to(torch.bfloat16)
    target = torch.empty_like(weight)
    copy = seconds(lambda: target.copy_(weight), device)
    moved = 2 * weight.numel() * weight.element_size()
    print(f"{torch.cuda.get_device_name()}, {options.size} x {options.size} bfloat16")
    print(f"copy {copy * 1e6:.0f} us, {moved / copy / 1e12:.2f} TB/s")
    print("format                 fused us  share of copy  eager/fused  values that differ")
    for name in options.formats.split(","):
        form = find(name)
        took = seconds(partial(fused.round_trip, form, weight), device)
        slow = seconds(partial(eager, form, weight), device, repeats=5)
        differ = float((fused.round_trip(form, weight)[0] != eager(form, weight)).float().mean())
        print(
            f"{form.name:22} {took * 1e6:8.0f} {copy / took:14.0%} {slow / took:12.1f} {differ:19.2g}",
            flush=True,
        )


if __name__ == "__main__":
    main()
