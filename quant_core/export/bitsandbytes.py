"""bitsandbytes checkpoints, as transformers saves and reloads what it quantized.

bitsandbytes 0.50, ``functional.py`` (``QuantState.as_dict``) and ``nn/modules.py``. NF4 and FP4, blocks of 64 values of
the flattened weight:

    weight                                  uint8 (values / 2, 1): two codes a byte, the first in the high bits
    weight.absmax                           float32 (blocks,); with double quantization their codes in uint8
    weight.quant_map                        float32 (16,): the table
    weight.nested_absmax, nested_quant_map  with double quantization: float32, one for 256 scales, and (256,)
    weight.quant_state.bitsandbytes__nf4    the rest as JSON, in bytes

LLM.int8: ``weight`` int8 (outputs, inputs), ``SCB`` float32 (outputs,), the largest magnitude of each row, and
``weight_format`` 0, for rows. GPT-2's Conv1D is stored as (outputs, inputs) alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quant_core.costs import DOUBLE_BLOCK
from quant_core.errors import ExportError
from quant_core.export._common import Stored
from quant_core.export.base import SafetensorsExporter, register
from quant_core.export.source import Rounded, Source
from quant_core.formats.tables4 import FP4_TABLE, NF4_TABLE, dynamic_map

_TABLES = {"nf4": NF4_TABLE, "fp4": FP4_TABLE}
_STATE = ".quant_state.bitsandbytes__"
_LONGEST_STATE = 10_000
"""Bytes of JSON; what is written has some 150."""


class BitsAndBytes(SafetensorsExporter):
    """NF4, FP4 or LLM.int8, one of them for all layers that are quantized."""

    name = "bitsandbytes"

    def pack(self, rounded: Rounded, source: Source) -> Mapping[str, Tensor]:
        """The tensors that the module's docstring lists."""
        entry, grid = rounded.entry, rounded.codes.grid
        family = entry.form.spec.family
        if family == "llm_int8":
            return {
                entry.name: rounded.codes.values,
                f"{entry.module}.SCB": grid.scales.flatten(),
                f"{entry.module}.weight_format": torch.tensor(0, dtype=torch.uint8),
            }
        codes = rounded.codes.values.flatten()
        state: dict[str, Any] = {
            "quant_type": family,
            "blocksize": entry.form.spec.group_size,
            "dtype": str(source.dtype).removeprefix("torch."),
            "shape": [entry.rows, entry.columns],
        }
        tensors = {
            entry.name: (codes[::2] << 4 | codes[1::2])[:, None],
            f"{entry.name}.absmax": grid.scales.flatten(),
            f"{entry.name}.quant_map": torch.tensor(_TABLES[family]),
        }
        if entry.form.spec.double:
            tensors[f"{entry.name}.nested_absmax"] = grid.extras["second"].flatten()[::DOUBLE_BLOCK]
            tensors[f"{entry.name}.nested_quant_map"] = dynamic_map()
            state |= {
                "nested_blocksize": DOUBLE_BLOCK,
                "nested_dtype": "float32",
                "nested_offset": float(grid.extras["offset"]),
            }
        text = json.dumps(state).encode()
        tensors[f"{entry.name}{_STATE}{family}"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        return tensors

    def config(self, source: Source) -> dict[str, Any]:
        """The original's, with ``quantization_config``."""
        quantized = {entry.module for entry in source.entries}
        spec = source.entries[0].form.spec
        eight = spec.family == "llm_int8"
        settings: dict[str, Any] = {
            "quant_method": "bitsandbytes",
            "load_in_4bit": not eight,
            "load_in_8bit": eight,
            "llm_int8_skip_modules": [name for name in source.layers if name not in quantized],
        }
        if not eight:
            settings |= {
                "bnb_4bit_quant_type": spec.family,
                "bnb_4bit_use_double_quant": spec.double,
                "bnb_4bit_compute_dtype": str(source.dtype).removeprefix("torch."),
                "bnb_4bit_quant_storage": "uint8",
            }
        return {**source.config, "quantization_config": settings}

    def notes(self, source: Source) -> tuple[str, ...]:
        """That LLM.int8 rounds inputs too."""
        if source.entries[0].form.spec.family != "llm_int8":
            return ()
        return ("bitsandbytes rounds the inputs of these layers to 8 bits too, which was not simulated.",)

    def read_back(self, folder: Path) -> Iterator[tuple[str, Tensor]]:
        """``absmax * table[code]``, or ``SCB / 127 * code``, for every quantized layer."""
        stored = Stored(folder)
        for name in stored.names:
            if name.endswith(".SCB"):
                module = name.removesuffix(".SCB")
                codes = stored.get(f"{module}.weight", torch.int8, -1, -1)
                largest = stored.get(name, torch.float32, len(codes))
                yield f"{module}.weight", codes.float() * largest[:, None] * (1 / 127)
            elif _STATE in name:
                weight = name.partition(_STATE)[0]
                yield weight, _read(stored, weight, _state(stored.get(name, torch.uint8, -1)))


def _read(stored: Stored, weight: str, state: Mapping[str, Any]) -> Tensor:
    """One matrix in 4 bits, (rows, columns) float32."""
    rows, columns = state["shape"]
    size = state["blocksize"]
    count = rows * columns
    packed = stored.get(weight, torch.uint8, -(-count // 2), 1)
    blocks = -(-count // size)
    if "nested_offset" in state:
        codes = stored.get(f"{weight}.absmax", torch.uint8, blocks)
        second = stored.get(f"{weight}.nested_absmax", torch.float32, -(-blocks // state["nested_blocksize"]))
        entries = stored.get(f"{weight}.nested_quant_map", torch.float32, 256)[codes.int()]
        absmax = (
            entries * second.repeat_interleave(state["nested_blocksize"])[:blocks] + state["nested_offset"]
        )
    else:
        absmax = stored.get(f"{weight}.absmax", torch.float32, blocks)
    table = stored.get(f"{weight}.quant_map", torch.float32, 16)
    values = table[torch.cat([packed >> 4, packed & 15], dim=1).flatten().int()][:count]
    matrix: Tensor = (values * absmax.repeat_interleave(size)[:count]).reshape(rows, columns)
    return matrix


def _state(text: Tensor) -> dict[str, Any]:
    """The JSON of a weight; ``ExportError`` if it is none, or has a size that is no size."""
    try:
        state = json.loads(bytes(text[:_LONGEST_STATE].tolist()))
        sizes = [*state["shape"], state["blocksize"], state.get("nested_blocksize", 1)]
        if len(sizes) != 4 or not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"sizes {sizes}")
        if "nested_offset" in state:
            state |= {"nested_blocksize": sizes[3], "nested_offset": float(state["nested_offset"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"A quantization state cannot be read: {error}.", "Export again.") from error
    return dict(state)


register(BitsAndBytes())
