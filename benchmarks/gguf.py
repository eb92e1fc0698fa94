"""llama.cpp's formats against llama.cpp: the error that its compiled quantizers leave, and the error that ours leave.

Without ``--library`` only our side is shown. A library is any shared object that exports ``ggml_quantize_chunk``: a
llama.cpp build's ``libggml-base.so``, or the extension module inside the wheel ``xllamacpp``. Errors are sums of
squares relative to the weights', weighted by the importance where there is one: made up for random weights, the mean
square of each input over the calibration text for the model's. ``--divergence`` also runs the model with every weight
of its blocks in one type, as llama.cpp rounds it, as we do, and as we would if errors counted as in llama.cpp.

    make benchmark NAME=gguf ARGS="--library path/to/libggml-base.so --divergence"
"""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

from benchmarks.fisher import Silent
from quant_core.calibration.statistics import collect
from quant_core.calibration.text import tokenize
from quant_core.formats import Format, find, from_blocks, to_blocks
from quant_core.metrics import kl_divergence, log_probabilities
from quant_core.models.loading import LoadedModel, load
from quant_core.models.patch import patched, swap
from quant_core.schema import CALIBRATION, EVALUATION, ModelRef

TYPES = (
    "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl",
)  # fmt: skip
Round = Callable[[str, Tensor, Tensor | None], Tensor]
"""Type, matrix (rows, columns), importance (columns,) or None -> the rounded matrix."""


class Library:
    """ggml's quantizers in a shared object."""

    def __init__(self, path: Path) -> None:
        self._chunk = ctypes.CDLL(str(path)).ggml_quantize_chunk
        self._chunk.restype = ctypes.c_size_t
        self._chunk.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
            ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
        ]  # fmt: skip

    def quantize(self, name: str, matrix: Tensor, importance: Tensor | None = None) -> np.ndarray:
        """The bytes of a float32 matrix (rows, columns), whose columns blocks divide, uint8 (rows, bytes)."""
        kind = gguf.GGMLQuantizationType[name.upper()]
        block, size = gguf.GGML_QUANT_SIZES[kind]
        rows, columns = matrix.shape
        values = np.ascontiguousarray(matrix.numpy(), dtype=np.float32)
        weights = None if importance is None else np.ascontiguousarray(importance.numpy(), dtype=np.float32)
        stored = np.zeros((rows, columns // block * size), dtype=np.uint8)
        given = None if weights is None else weights.ctypes.data
        self._chunk(int(kind), values.ctypes.data, stored.ctypes.data, 0, rows, columns, given)
        return stored

    def round(self, name: str, matrix: Tensor, importance: Tensor | None = None) -> Tensor:
        """What those bytes stand for, (rows, columns)."""
        stored = self.quantize(name, matrix, importance)
        values: np.ndarray = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[name.upper()])
        return torch.from_numpy(values)


def ours(name: str, matrix: Tensor, importance: Tensor | None = None) -> Tensor:
    """A matrix (rows, columns) as QuantLens rounds it."""
    form = find(name)
    return _rounded(form, matrix, None if importance is None else _blocks(form, matrix, importance))


def as_ggml_counts(name: str, matrix: Tensor, importance: Tensor | None = None) -> Tensor:
    """A matrix (rows, columns) by our search, with errors weighted as in ``ggml-quants.c``."""
    form = find(name)
    x = to_blocks(matrix, form)
    if importance is not None:
        spread = {"q2_k": 1.0, "q4_0": 1.0, "q4_1": 1.0, "q5_0": 1.0, "q5_1": 1.0}.get(name, 2.0)
        emphasis = (x.square() + spread * x.square().mean(dim=1, keepdim=True)).sqrt()
        given = _blocks(form, matrix, importance)
        return _rounded(form, matrix, given if name == "q6_k" else given * emphasis)
    if name in ("q4_k", "q5_k"):
        parts = x.reshape(len(x), -1, 32)
        emphasis = (parts.square().mean(dim=2, keepdim=True).sqrt() + parts.abs()).reshape(x.shape)
        return _rounded(form, matrix, emphasis)
    return _rounded(form, matrix, x.abs() if name == "q2_k" else x.square())


def _blocks(form: Format, matrix: Tensor, importance: Tensor) -> Tensor:
    return to_blocks(importance.expand(matrix.shape), form)


def _rounded(form: Format, matrix: Tensor, importance: Tensor | None) -> Tensor:
    codes = form.quantize(to_blocks(matrix, form), importance=importance)
    return from_blocks(form.dequantize(codes), form, *matrix.shape)


def relative_error(rounded: Tensor, matrix: Tensor, importance: Tensor | None = None) -> float:
    """Sum of squared errors over the sum of squares, columns weighted by ``importance``."""
    counts = torch.ones(matrix.shape[1]) if importance is None else importance
    return float(((rounded - matrix).square() * counts).sum() / (matrix.square() * counts).sum())


def made_up(rows: int, columns: int, seed: int = 0) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Random weights of two distributions (rows, columns), each with an importance (columns,)."""
    random = np.random.default_rng(seed)
    for kind in ("normal", "laplace"):
        values = getattr(random, kind)(size=(rows, columns)) * 0.02
        importance = random.lognormal(0, 1, columns)
        yield (
            kind,
            torch.from_numpy(values.astype(np.float32)),
            torch.from_numpy(importance.astype(np.float32)),
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", type=Path)
    parser.add_argument("--types", default=",".join(TYPES))
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--divergence", action="store_true")
    options = parser.parse_args()
    library = Library(options.library.resolve()) if options.library else None
    loaded = load(ModelRef(options.model, dtype="float32", device="cpu"))
    inputs = _importance(loaded, options.tokens)
    types = options.types.split(",")
    _errors(types, library, loaded, inputs)
    if options.divergence:
        _divergences(types, library, loaded, inputs, options.tokens)


def _importance(loaded: LoadedModel, count: int) -> dict[str, Tensor]:
    """Mean square of each input, by decided unit."""
    context = Silent(loaded)
    tokens = tokenize(context, loaded, CALIBRATION, count, 256)
    slots = [slot for slot in loaded.graph.slots.values() if slot.unit.decided]
    seen = collect(context, loaded, tokens, slots)
    return {name: inputs.moment.diagonal().contiguous() for name, inputs in seen.items()}


def _errors(
    types: list[str], library: Library | None, loaded: LoadedModel, inputs: dict[str, Tensor]
) -> None:
    name = next(name for name in inputs if name.endswith("down_proj.weight"))
    cases = [*made_up(256, 1024), (name, loaded.graph.slots[name].matrix().float(), inputs[name])]
    print("| type | weights | error, llama.cpp | ours | with importance, llama.cpp | ours |")
    print("| --- | --- | --- | --- | --- | --- |")
    for kind in types:
        for label, matrix, importance in cases:
            cells = []
            for given in (None, importance):
                theirs = (
                    relative_error(library.round(kind, matrix, given), matrix, given) if library else None
                )
                cells += [
                    "" if theirs is None else f"{theirs:.3e}",
                    f"{relative_error(ours(kind, matrix, given), matrix, given):.3e}",
                ]
            print(f"| {kind.upper()} | {label} | {' | '.join(cells)} |", flush=True)


def _divergences(
    types: list[str], library: Library | None, loaded: LoadedModel, inputs: dict[str, Tensor], count: int
) -> None:
    tokens = tokenize(Silent(loaded), loaded, EVALUATION, count, 256).ids.split(4)

    def predictions() -> list[Tensor]:
        with torch.no_grad():
            return [log_probabilities(loaded.model(ids, use_cache=False).logits) for ids in tokens]

    reference = predictions()

    def divergence(kind: str, way: Round, weighted: bool) -> float:
        matrices = {
            name: way(kind, loaded.graph.slots[name].matrix().float(), given if weighted else None)
            for name, given in inputs.items()
        }
        with patched(swap(loaded.graph, matrices)):
            changed = predictions()
        parts = [kl_divergence(before, after) for before, after in zip(reference, changed, strict=True)]
        return float(torch.cat(parts).mean())

    ways: dict[str, Round] = {"ours": ours, "ours, errors as in llama.cpp": as_ggml_counts}
    if library:
        ways = {"llama.cpp": library.round, **ways}
    print(f"\n| KL | importance | {' | '.join(ways)} |")
    print("| --- " * (len(ways) + 2) + "|")
    for kind in types:
        if not find(kind).info.weighted:
            continue
        for weighted in (False, True):
            searched = weighted or kind.endswith(("_k", "_nl"))  # ggml's oldest types only cover the range
            cells = [
                f"{divergence(kind, way, weighted):.5f}" if way is not as_ggml_counts or searched else ""
                for way in ways.values()
            ]
            print(f"| {kind.upper()} | {'yes' if weighted else 'no'} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
