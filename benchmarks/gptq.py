"""GPTQ against llm-compressor's: the same layers, Hessians and grids, in one run, as ratios of time and output error.

Layers have the shapes of an 8-billion-parameter Llama; their inputs have a few strong channels and a spectrum that
falls, as real ones do. Both are given the Hessian and the damping and take the same grids, those that cover each
group's range (``grid range``); ``grid loss``, the default here, searches for better ones, which llm-compressor leaves
to its observers. Time is from there to the rounded weights, on the device, the median of a few runs after a first one
that compiles. The output error is tr(dW H dW').

llm-compressor pins versions of its own, so it is not installed with QuantLens: name a folder that holds it and what it
needs (``pip install --target DIR --no-deps llmcompressor compressed-tensors loguru``), or have it importable.

    make benchmark NAME=gptq ARGS="--llmcompressor DIR"
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import types
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quant_core.calibration.inputs import Inputs
from quant_core.formats import Format, find, from_blocks, to_blocks
from quant_core.methods import rounding

SHAPES = {"o_proj": (4096, 4096), "gate_proj": (14336, 4096), "down_proj": (4096, 14336)}
TOKENS = 16384


def main() -> None:
    """Time both on every shape, symmetry and order, and print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llmcompressor", default="", help="folder with llm-compressor and what it needs")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--scale", type=int, default=1, help="divide the shapes by this, for a CPU")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    theirs = _llmcompressor(options.llmcompressor)
    print(f"{torch.cuda.get_device_name() if device.type == 'cuda' else 'CPU'}, torch {torch.__version__}")
    print(
        "| layer | format | order | grid | ours, ms | theirs, ms | time | output error | against rounding |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in options.shapes.split(","):
        rows, columns = (size // options.scale for size in SHAPES[name])
        weight, moment = _layer(rows, columns, device)
        for symmetry, order, grid in product(("sym", "asym"), ("activation", "none"), ("range", "loss")):
            form = find(f"int{options.bits}/g{options.group}/{symmetry}")
            figures = _compare(theirs, weight, moment, form, (order, grid), options.repeats)
            print(f"| {name} {rows}x{columns} | {form.name} | {order} | {grid} | {figures} |", flush=True)


def _compare(
    theirs: Callable[..., Any],
    weight: Tensor,
    moment: Tensor,
    form: Format,
    way: tuple[str, str],
    repeats: int,
) -> str:
    """One row's figures: both times, their ratio, that of the errors, and our error over that of rounding."""
    order, grids = way
    method = rounding.find(f"gptq:order={order}:grid={grids}")
    inputs = Inputs(moment, moment[0], moment[0], moment[:0], TOKENS)
    blocks = to_blocks(weight, form)
    grid = form.fit(blocks)
    scales = grid.scales.float().view(1, len(weight), -1)
    zeros = torch.zeros_like(scales) if grid.zero_points is None else grid.zero_points.float().view_as(scales)
    arguments = _arguments(form, order)

    def ours() -> Tensor:
        codes = method.round(weight, form, inputs).codes
        return from_blocks(form.dequantize(codes), form, *weight.shape)

    def other() -> Tensor:
        rounded: Tensor = theirs(weight[None].clone(), moment[None].clone(), scales, zeros, None, arguments)[
            0
        ]
        return rounded[0]

    mine, yours = _time(ours, weight.device, repeats), _time(other, weight.device, repeats)
    nearest = from_blocks(form.decode(form.encode(blocks, grid), grid), form, *weight.shape)
    own, foreign, plain = (_error(made - weight, moment) for made in (ours(), other(), nearest))
    return f"{mine * 1e3:.1f} | {yours * 1e3:.1f} | {mine / yours:.2f}x | {own / foreign:.4f}x | {own / plain:.2f}x"


def _layer(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """A weight and the second moment of what enters it, drawn on the CPU."""
    generator = torch.Generator().manual_seed(rows + columns)
    weight = (torch.randn(rows, columns, generator=generator) * 0.02).to(device)
    rank = columns // 4
    mixing = (torch.randn(rank, columns, generator=generator) / rank**0.5).to(device)
    strength = torch.exp(torch.randn(columns, generator=generator)).to(device)
    moment = torch.zeros(columns, columns, device=device)
    for _ in range(4):
        hidden = torch.randn(TOKENS // 4, rank, generator=generator).to(device)
        noise = torch.randn(TOKENS // 4, columns, generator=generator).to(device)
        x = (hidden @ mixing + 0.3 * noise) * strength
        moment.addmm_(x.T, x)
    return weight, moment / TOKENS


def _error(change: Tensor, moment: Tensor) -> float:
    return float(((change @ moment) * change).sum())


def _time(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return sorted(times[1:])[repeats // 2]


def _llmcompressor(folder: str) -> Callable[..., Any]:
    """llm-compressor's ``quantize_weight``, without importing the rest of the package and all that this needs."""
    if folder:
        sys.path.insert(0, folder)
    root = next(
        (Path(path) / "llmcompressor" for path in sys.path if (Path(path) / "llmcompressor").is_dir()), None
    )
    if root is None:
        raise SystemExit("llm-compressor is not there: name its folder with --llmcompressor.")
    for name in ("", "modifiers", "modifiers/gptq"):
        package = types.ModuleType("llmcompressor" + ("." + name.replace("/", ".") if name else ""))
        package.__path__ = [str(root / name)]
        sys.modules[package.__name__] = package
    module = importlib.import_module("llmcompressor.modifiers.gptq.gptq_quantize")
    found: Callable[..., Any] = module.quantize_weight
    return found


def _arguments(form: Format, order: str) -> Any:
    from compressed_tensors.quantization import QuantizationArgs

    return QuantizationArgs(
        num_bits=form.info.value_bits, type="int", strategy="group", group_size=form.spec.group_size,
        symmetric=form.spec.symmetry == "sym", actorder="weight" if order == "activation" else None,
    )  # fmt: skip


if __name__ == "__main__":
    main()
