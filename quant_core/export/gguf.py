"""GGUF files, for llama.cpp, Ollama and LM Studio.

One file holds everything: shape and tokenizer as keys, and each tensor in a type of its own. Quantized weights are
ggml's blocks with the very codes and scales that were simulated. All else stays in the 16 or 32 bits it is stored in,
but for vectors (norms, biases), positions and routers, which llama.cpp wants in float32. What llama.cpp computes is not
quite the simulation: it rounds the inputs of most layers to 8 bits on the way.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor
from transformers import AutoConfig

from quant_core.checkpoints.gguf_file import GgufFile
from quant_core.checkpoints.gguf_names import ARCHITECTURES, Names, Part, apart
from quant_core.errors import ExportError
from quant_core.export._gguf_metadata import describe
from quant_core.export._gguf_parts import Parts
from quant_core.export._gguf_tokenizer import add_tokenizer
from quant_core.export.base import Check, Exporter, key, register
from quant_core.export.source import Plain, Rounded, Source
from quant_core.formats._gguf import GgufFormat, planes

FILE = "model.gguf"
_STORED = "quantlens.stored"
"""The key that says which stored matrix each quantized tensor is."""
_LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
_FILE_TYPES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "MXFP4": "MXFP4_MOE"}
"""What llama.cpp calls a file mostly of a type, where that is not the type."""


class Gguf(Exporter):
    """llama.cpp's types of 2 to 8 bits, a tensor each."""

    name = "gguf"

    def write(self, source: Source, folder: Path, keep: Check) -> None:
        """Gather all tensors, then write ``model.gguf``."""
        config = _config(source)
        writer = gguf.GGUFWriter(folder / FILE, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[config.model_type]])
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(source.checkpoint.title)
        factors = describe(writer, config)
        add_tokenizer(writer, source.tokenizer, config.vocab_size)
        names, parts = Names(config), Parts(folder, getattr(config, "num_local_experts", 0))
        if factors is not None:
            parts.add_plain(Part("rope_freqs.weight"), factors)
        for tensor in source.tensors():
            if isinstance(tensor, Rounded):
                keep.keep(key(tensor.entry), tensor.matrix)
                _add_rounded(parts, names, tensor)
            else:
                _add_plain(parts, names, tensor)
        most = parts.most().name
        writer.add_file_type(gguf.LlamaFileType[_file_type(most)])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_array(_STORED, parts.stored)
        parts.write(writer)
        for name in _LICENCES:
            if (source.checkpoint.folder / name).is_file():
                shutil.copyfile(source.checkpoint.folder / name, folder / name)

    def read_back(self, folder: Path) -> Iterator[tuple[str, Tensor]]:
        """Every quantized matrix as gguf-py computes it, its rows in the order of the checkpoint."""
        file = GgufFile(folder / FILE)
        waiting: dict[str, list[tuple[str, int | None]]] = {}
        for line in file.keys.get(_STORED, []):
            found = re.fullmatch(r"([^=\[]+)(?:\[(\d{1,9})\])?=(.+)", str(line))
            if found is None:
                raise ExportError(f"{FILE} is damaged: {_STORED} cannot be read.", "Export again.")
            expert = None if found[2] is None else int(found[2])
            waiting.setdefault(found[3], []).append((found[1], expert))
        heads = _heads(file)
        for name, places in waiting.items():
            matrices = [file.matrix(tensor, expert) for tensor, expert in places]
            count = next((count for suffix, count in heads.items() if suffix in places[0][0]), 0)
            if count and len(matrices[0]) % (2 * count) == 0:
                matrices = [apart(matrices[0], count)]
            yield name, torch.cat(matrices)

    def notes(self, source: Source) -> tuple[str, ...]:
        """Where llama.cpp attends further than the model was made for."""
        window = getattr(_config(source), "sliding_window", None)
        if not window:
            return ()
        return (f"llama.cpp attends to the whole context: keep to {window:,} tokens, the model's window.",)


def _config(source: Source) -> Any:
    """Transformers' configuration; ``ExportError`` for a model whose tensors are not known here."""
    config = AutoConfig.from_pretrained(source.checkpoint.folder, trust_remote_code=False)
    if config.model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ExportError(
            f"QuantLens writes GGUF files of {known}, and this is {config.model_type}.",
            "Choose another runtime, or llama-quantize with the recipe's lines.",
        )
    return config


def _add_rounded(parts: Parts, names: Names, rounded: Rounded) -> None:
    entry = rounded.entry
    packed = _packed(rounded).reshape(entry.rows, -1)
    kind = gguf.GGMLQuantizationType[entry.form.spec.family.upper()]
    for part in names.parts(entry.name, entry.rows, entry.expert):
        parts.quantized(part, kind, part.take(packed), key(entry))


def _packed(rounded: Rounded) -> Tensor:
    """Ggml's blocks, uint8 (blocks, bytes)."""
    form, codes = rounded.entry.form, rounded.codes
    if isinstance(form, GgufFormat):
        return form.pack(codes.values, codes.grid).cpu()
    # block_mxfp4: the exponent, then codes with value i + 16 above value i.
    pairs = planes(codes.values.reshape(-1, 1, 2, 16), 4)
    return torch.cat([codes.grid.scales.view(torch.uint8), pairs], dim=1).cpu()


def _add_plain(parts: Parts, names: Names, plain: Plain) -> None:
    if plain.values.dim() == 3:
        for expert, values in enumerate(plain.values):
            for part in names.parts(plain.name, len(values), expert):
                parts.add_plain(part, part.take(values))
        return
    values = plain.values.T if names.transposed(plain.name) else plain.values
    for part in names.parts(plain.name, len(values)):
        parts.add_plain(part, part.take(values))


def _file_type(kind: str) -> str:
    return "ALL_F32" if kind == "F32" else f"MOSTLY_{_FILE_TYPES.get(kind, kind)}"


def _heads(file: GgufFile) -> dict[str, int]:
    """How many heads' rows are in llama.cpp's order, by part of a tensor's name; empty where none are."""
    if file.keys.get("general.architecture") != "llama":
        return {}
    names = {".attn_q.": "llama.attention.head_count", ".attn_k.": "llama.attention.head_count_kv"}
    counts = {suffix: file.keys.get(name) for suffix, name in names.items()}
    return {suffix: count for suffix, count in counts.items() if isinstance(count, int)}


register(Gguf())
