"""bitsandbytes checkpoints, as transformers saves and reloads what it quantized.

The layouts are told in ``checkpoints.bitsandbytes``. Blocks have 64 values; GPT-2's Conv1D is stored as
(outputs, inputs) like any other layer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quant_core.checkpoints.bitsandbytes import STATE, decode_four, decode_int8, read_state
from quant_core.checkpoints.tensors import Stored
from quant_core.costs import DOUBLE_BLOCK
from quant_core.export.base import SafetensorsExporter, register
from quant_core.export.source import Rounded, Source
from quant_core.formats.tables4 import FP4_TABLE, NF4_TABLE, dynamic_map

_TABLES = {"nf4": NF4_TABLE, "fp4": FP4_TABLE}


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
        tensors[f"{entry.name}{STATE}{family}"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
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
                yield f"{module}.weight", decode_int8(stored, module)
            elif STATE in name:
                weight = name.partition(STATE)[0]
                yield weight, decode_four(stored, weight, read_state(stored, name))


register(BitsAndBytes())
