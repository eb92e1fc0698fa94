"""compressed-tensors checkpoints, for vLLM, SGLang and transformers.

The format of compressed-tensors 0.20, ``compressors/quantized_compressors/pack_quantized.py``: in place of ``weight`` a
layer has ``weight_packed``, codes plus ``2^(bits - 1)`` in int32 words along the inputs; ``weight_scale`` (outputs,
groups) in 16 bits; and ``weight_shape``. ``config.json`` names a config group for each format, with the exact names of
its layers as targets, and the layers that stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quant_core.export._common import Stored, pack_rows, read_config, unpack_rows
from quant_core.export.base import SafetensorsExporter, register
from quant_core.export.source import Entry, Rounded, Source
from quant_core.schema import FormatSpec


class CompressedTensors(SafetensorsExporter):
    """Symmetric integers by channel or group."""

    name = "compressed-tensors"

    def pack(self, rounded: Rounded, source: Source) -> Mapping[str, Tensor]:
        """``weight_packed``, ``weight_scale`` and ``weight_shape``."""
        entry, grid = rounded.entry, rounded.codes.grid
        bits = _bits(entry.form.spec)
        codes = rounded.codes.values.reshape(entry.rows, -1)[:, : entry.columns]
        return {
            f"{entry.module}.weight_packed": pack_rows(codes.to(torch.int64) + 2 ** (bits - 1), bits),
            f"{entry.module}.weight_scale": grid.scales.reshape(entry.rows, -1),
            f"{entry.module}.weight_shape": torch.tensor([entry.rows, entry.columns], dtype=torch.int64),
        }

    def config(self, source: Source) -> dict[str, Any]:
        """The original's, with ``quantization_config``."""
        groups: dict[FormatSpec, list[Entry]] = {}
        for entry in source.entries:
            groups.setdefault(entry.form.spec, []).append(entry)
        quantized = {entry.module for entry in source.entries}
        ignored = sorted(name for name in source.layers if name not in quantized)
        settings = {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {
                f"group_{number}": {
                    "targets": [entry.module for entry in entries],
                    "format": "pack-quantized",
                    "weights": _weights(spec),
                    "input_activations": None,
                    "output_activations": None,
                }
                for number, (spec, entries) in enumerate(groups.items())
            },
            "ignore": ignored,
        }
        return {**source.config, "quantization_config": settings}

    def read_back(self, folder: Path) -> Iterator[tuple[str, Tensor]]:
        """``scale * code`` for every packed layer."""
        stored = Stored(folder)
        groups = read_config(folder)["quantization_config"]["config_groups"].values()
        for group in groups:
            bits = group["weights"]["num_bits"]
            for module in group["targets"]:
                columns = int(stored.get(f"{module}.weight_shape")[1])
                codes = unpack_rows(stored.get(f"{module}.weight_packed"), bits, columns) - 2 ** (bits - 1)
                scales = stored.get(f"{module}.weight_scale").float()
                size = group["weights"]["group_size"] or columns
                yield f"{module}.weight", codes.float() * scales.repeat_interleave(size, dim=1)[:, :columns]


def _bits(spec: FormatSpec) -> int:
    return int(spec.family.removeprefix("int"))


def _weights(spec: FormatSpec) -> dict[str, Any]:
    """A format as compressed-tensors' ``QuantizationArgs``."""
    return {
        "num_bits": _bits(spec),
        "type": "int",
        "symmetric": True,
        "strategy": spec.granularity,
        "group_size": spec.group_size if spec.granularity == "group" else None,
        "dynamic": False,
    }


register(CompressedTensors())
