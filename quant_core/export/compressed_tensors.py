"""compressed-tensors checkpoints, for vLLM, SGLang and transformers.

The formats of compressed-tensors 0.20, ``compressors/*/base.py``. In place of ``weight`` a layer has

    pack-quantized        weight_packed, codes plus 2^(bits - 1) in int32 words along the inputs; weight_scale
                          (outputs, groups) float16; weight_shape
    float-quantized       weight in E4M3; weight_scale (outputs, 1), or (1,) for a tensor, float32
    nvfp4-pack-quantized  weight_packed, two codes a byte, the first in the low bits; weight_scale (outputs, groups) in
                          E4M3; weight_global_scale (1,) float32, by which the scales are *divided*
    mxfp4-pack-quantized  weight_packed alike; weight_scale, exponents plus 127 in uint8

``config.json`` names a config group for each format, with the exact names of its layers as targets, and the layers that
stay as they are. Experts are one group that says ``re:.*experts.*``: transformers knows by that, and by nothing else,
how the experts that it stacks into 3-D parameters are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quant_core.checkpoints.compressed_tensors import decode_fp4, decode_integers
from quant_core.checkpoints.tensors import Stored, number, part, read_config
from quant_core.export._common import integer_bits, pack_rows, unsigned
from quant_core.export.base import SafetensorsExporter, register
from quant_core.export.source import Entry, Rounded, Source
from quant_core.formats.nvfp4 import TENSOR
from quant_core.schema import FormatSpec

EXPERTS = "re:.*experts.*"
_STORED = {"fp8_e4m3": "float-quantized", "nvfp4": "nvfp4-pack-quantized", "mxfp4": "mxfp4-pack-quantized"}
_WEIGHTS: dict[str, dict[str, Any]] = {
    "fp8_e4m3": {"num_bits": 8, "type": "float"},
    "nvfp4": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16,
              "scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn"},
    "mxfp4": {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32,
              "scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8"},
}  # fmt: skip


class CompressedTensors(SafetensorsExporter):
    """Symmetric integers by channel or group, FP8, NVFP4 and MXFP4."""

    name = "compressed-tensors"

    def pack(self, rounded: Rounded, source: Source) -> Mapping[str, Tensor]:
        """The tensors that the module's docstring lists."""
        entry, grid = rounded.entry, rounded.codes.grid
        family = entry.form.spec.family
        codes = rounded.codes.values.reshape(entry.rows, -1)[:, : entry.columns]
        scales = grid.scales.reshape(entry.rows, -1) if len(grid.scales) > 1 else grid.scales.reshape(-1)
        if family == "fp8_e4m3":
            return {entry.name: codes, f"{entry.module}.weight_scale": scales}
        if family == "nvfp4":
            return {
                f"{entry.module}.weight_packed": _pairs(codes),
                f"{entry.module}.weight_scale": scales,
                f"{entry.module}.weight_global_scale": grid.extras[TENSOR].reshape(1).reciprocal(),
            }
        if family == "mxfp4":
            return {
                f"{entry.module}.weight_packed": _pairs(codes),
                f"{entry.module}.weight_scale": scales.view(torch.uint8),
            }
        unsigned_codes, scales, _ = unsigned(rounded)
        return {
            f"{entry.module}.weight_packed": pack_rows(unsigned_codes, integer_bits(entry.form.spec)),
            f"{entry.module}.weight_scale": scales,
            f"{entry.module}.weight_shape": torch.tensor([entry.rows, entry.columns], dtype=torch.int64),
        }

    def config(self, source: Source) -> dict[str, Any]:
        """The original's, with ``quantization_config``."""
        groups: dict[tuple[FormatSpec, bool], list[Entry]] = {}
        for entry in source.entries:
            groups.setdefault((entry.form.spec, entry.unit.kind == "expert"), []).append(entry)
        quantized = {entry.module for entry in source.entries}
        kinds = {_stored(spec) for spec, _ in groups}
        settings = {
            "quant_method": "compressed-tensors",
            "format": kinds.pop() if len(kinds) == 1 else "mixed-precision",
            "quantization_status": "compressed",
            "config_groups": {
                f"group_{number}": {
                    "targets": [EXPERTS] if experts else [entry.module for entry in entries],
                    "format": _stored(spec),
                    "weights": _weights(spec),
                    "input_activations": None,
                    "output_activations": None,
                }
                for number, ((spec, experts), entries) in enumerate(groups.items())
            },
            "ignore": [name for name in source.layers if name not in quantized],
        }
        return {**source.config, "quantization_config": settings}

    def notes(self, source: Source) -> tuple[str, ...]:
        """That transformers unpacks 4-bit floats to bfloat16, where the model is of another dtype."""
        found = {entry.form.spec.family for entry in source.entries} & {"mxfp4", "nvfp4"}
        if not found or source.dtype == torch.bfloat16:
            return ()
        names = " and ".join(sorted(name.upper() for name in found))
        return (f"transformers unpacks {names} to bfloat16: load it with dtype=torch.bfloat16.",)

    def read_back(self, folder: Path) -> Iterator[tuple[str, Tensor]]:
        """Every packed layer, by its scales' names and the group that targets it."""
        stored = Stored(folder)
        groups = part(read_config(folder), "quantization_config", "config_groups")
        by_target = {target: group for group in groups.values() for target in part(group, "targets")}
        for name in stored.names:
            module, _, last = name.rpartition(".")
            if last == "weight_scale":
                group = by_target.get(module, by_target.get(EXPERTS))
                yield f"{module}.weight", _read(stored, module, part(group, "format"), part(group, "weights"))


def _read(stored: Stored, module: str, form: str, weights: dict[str, Any]) -> Tensor:
    """One matrix, (rows, columns) float32."""
    if form == "float-quantized":
        codes = stored.get(f"{module}.weight", torch.float8_e4m3fn, -1, -1).float()
        shape = (1,) if part(weights, "strategy") == "tensor" else (len(codes), 1)
        return codes * stored.get(f"{module}.weight_scale", torch.float32, *shape)
    if form == "pack-quantized":
        bits = number(weights, "num_bits", 8)
        columns = int(stored.get(f"{module}.weight_shape", torch.int64, 2)[1])
        grouped = part(weights, "strategy") == "group"
        return decode_integers(
            stored, module, bits, number(weights, "group_size", columns) if grouped else columns
        )
    return decode_fp4(stored, module, number(weights, "group_size", 32))


def _pairs(codes: Tensor) -> Tensor:
    """4-bit codes (rows, columns), two a byte."""
    return codes[:, ::2] | codes[:, 1::2] << 4


def _stored(spec: FormatSpec) -> str:
    return _STORED.get(spec.family, "pack-quantized")


def _weights(spec: FormatSpec) -> dict[str, Any]:
    """A format as compressed-tensors' ``QuantizationArgs``."""
    default = {
        "strategy": spec.granularity,
        "group_size": spec.group_size if spec.granularity == "group" else None,
        "symmetric": True,
        "dynamic": False,
    }
    return default | (_WEIGHTS.get(spec.family) or {"num_bits": integer_bits(spec), "type": "int"})


register(CompressedTensors())
