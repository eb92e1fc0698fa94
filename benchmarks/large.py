"""A Llama shaped like an 8 B model, with random weights, on a GPU: seconds and memory of a Fisher map.

The map goes block by block, each weight is rounded once, and only one block's activations are held. The naive sweep
(quantize one unit, run the whole model, compare) is timed on a few units in the same run, rounding included, and its
time for all is worked out from theirs. Random weights cost what trained ones do; the scores mean nothing.

    make benchmark NAME=large
    make benchmark NAME=large ARGS="--hidden 512 --mlp 1024 --blocks 4 --vocabulary 8192 --tokens 1024 --device cpu"
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks._naive import naive
from benchmarks.fisher import Silent
from quant_core.calibration.text import Tokens
from quant_core.formats import find
from quant_core.methods.rounder import Rounder
from quant_core.models.graph import build_graph
from quant_core.models.loading import LoadedModel
from quant_core.schema import ModelInfo, ModelRef
from quant_core.sensitivity.errors import RoundingErrors
from quant_core.sensitivity.fisher import score_layers
from quant_core.sensitivity.measured import Sweep
from quant_core.sensitivity.sums import StateSums

FORMATS = "int3/g128,int4/g128,int5/g128,int6/g128,int8/channel/sym,nf4/g128"


def made(options: argparse.Namespace) -> LoadedModel:
    """The model, weights drawn where they will be used."""
    config = LlamaConfig(
        hidden_size=options.hidden,
        intermediate_size=options.mlp,
        num_hidden_layers=options.blocks,
        num_attention_heads=options.hidden // 128,
        num_key_value_heads=max(1, options.hidden // 512),
        vocab_size=options.vocabulary,
        tie_word_embeddings=False,
        max_position_embeddings=8192,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if options.device == "cuda" else torch.float32)
    with torch.device(options.device):
        model: Any = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.requires_grad_(False).eval()
    graph = build_graph(model, 16)
    units = graph.units
    info = ModelInfo(
        ref=ModelRef("made"),
        title="Llama with random weights",
        fingerprint="made",
        architecture="LlamaForCausalLM",
        parameters=graph.other_parameters + sum(unit.parameters for unit in units),
        other_bits=0,
        units=units,
        blocks=options.blocks,
        hidden_size=options.hidden,
        vocabulary=options.vocabulary,
        context_length=8192,
        kv_values=0,
        dtype="bfloat16",
        compute_dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        device=options.device,
        chat=False,
        notes=(),
    )
    tokenizer: Any = None  # there is no text
    return LoadedModel(model, tokenizer, graph, info)


def main() -> None:
    """Time the map with and without the sums of a score state, and the naive sweep on a few points."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--mlp", type=int, default=14336)
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=128256)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--formats", default=FORMATS)
    parser.add_argument("--points", type=int, default=3, help="units that the naive sweep is timed on")
    parser.add_argument("--profile", action="store_true", help="say where the time of one map goes")
    options = parser.parse_args()
    loaded = made(options)
    if options.device == "cuda":
        print(torch.cuda.get_device_name())
    print(f"{loaded.info.parameters / 1e9:.2f} B parameters, {len(loaded.graph.units)} units", flush=True)
    rows = options.tokens // options.sequence
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(options.vocabulary, (rows, options.sequence), generator=generator)
    tokens = Tokens(ids, "", "")
    slots = [slot for slot in loaded.graph.slots.values() if slot.unit.decided]
    context = Silent(loaded)
    formats = [find(name) for name in options.formats.split(",")]

    def one(state: bool) -> float:
        errors = RoundingErrors(formats, Rounder(context, loaded, tokens), once=True)
        sums = StateSums(slots, tokens.count, 0) if state else None
        _wait(options.device)
        begun = time.perf_counter()
        score_layers(context, loaded, tokens, slots, errors, seed=0, sums=sums, blockwise=True)
        _wait(options.device)
        return time.perf_counter() - begun

    for state in (False, True):
        what = "with the sums of a score state" if state else "without a score state"
        one(state)  # kernels are built in the first
        if options.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        times = [one(state) for _ in range(3)]
        print(f"map {what}: {statistics.median(times):.2f} s ({', '.join(f'{t:.2f}' for t in times)})")
        if options.device == "cuda":
            print(f"  peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB of GPU memory", flush=True)
        if options.profile:
            _profile(lambda state=state: one(state))
    errors = RoundingErrors(formats, Rounder(context, loaded, tokens), once=True)
    chosen = slots[:: max(1, len(slots) // options.points)][: options.points]
    batches = ids.split(max(1, 2048 // options.sequence))
    naive(Sweep(loaded, Tokens(batches[0], "", ""), chosen[:1], errors))
    _wait(options.device)
    begun = time.perf_counter()
    for part in batches:
        naive(Sweep(loaded, Tokens(part, "", ""), chosen, errors))
    _wait(options.device)
    took = time.perf_counter() - begun
    point = took / len(chosen) / len(formats)
    print(f"naive sweep: {point:.3f} s a point, {point * len(slots) * len(formats):.0f} s for all")


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _profile(work: Any) -> None:
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        work()
    key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    print(profile.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=60))


if __name__ == "__main__":
    main()
