"""torchao checkpoints, as transformers saves and reloads them.

torchao 0.18, ``prototype/safetensors``: a weight is a tensor subclass, whose parts are stored under the layer's name,
and whose class and settings are JSON in the header of every file, by the parameter's name.

    Int8Tensor                int8 by channel, symmetric: _weight_qdata int8 (outputs, inputs); _weight_scale float16
                              (outputs, 1)
    IntxUnpackedToInt8Tensor  the other integers, each code in 8 bits whatever it needs: _weight_qdata int8;
                              _weight_scale float16 and _weight_zero_point int8 (outputs, groups)
    Float8Tensor              _weight_qdata in float8; _weight_scale float32 (outputs, 1), or (1, 1) for a tensor

``quantization_config`` has the setting of each layer by name (``FqnToConfig``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quant_core.checkpoints.tensors import Stored, part, scaled
from quant_core.errors import ExportError
from quant_core.export._common import integer_bits
from quant_core.export.base import SafetensorsExporter, register
from quant_core.export.source import Entry, Rounded, Source
from quant_core.schema import FormatSpec

_FLOATS = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
_CODES = "._weight_qdata"


class TorchAo(SafetensorsExporter):
    """Integers by channel or group, with and without zero points, and FP8."""

    name = "torchao"

    def pack(self, rounded: Rounded, source: Source) -> Mapping[str, Tensor]:
        """The parts that the module's docstring lists."""
        entry, grid = rounded.entry, rounded.codes.grid
        codes = rounded.codes.values.reshape(entry.rows, -1)[:, : entry.columns]
        scales = grid.scales.reshape(1 if len(grid.scales) == 1 else entry.rows, -1)
        parts = {f"{entry.module}{_CODES}": codes, f"{entry.module}._weight_scale": scales}
        if _kind(entry.form.spec) == "IntxUnpackedToInt8Tensor":
            zero = grid.zero_points
            zero = torch.zeros(scales.shape, dtype=torch.int8) if zero is None else zero.reshape(scales.shape)
            parts[f"{entry.module}._weight_zero_point"] = zero
        return parts

    def metadata(self, source: Source) -> Mapping[str, str]:
        """Class and settings of every weight by its parameter's name, and the list of these."""
        weights = {entry.unit.name: json.dumps(_described(entry, source)) for entry in source.entries}
        return weights | {"tensor_names": json.dumps(list(weights))}

    def config(self, source: Source) -> dict[str, Any]:
        """The original's, with ``quantization_config``."""
        layers = {
            entry.unit.name.removesuffix(".weight"): _setting(entry.form.spec) for entry in source.entries
        }
        quantized = {"_type": "FqnToConfig", "_version": 1, "_data": {"fqn_to_config": layers}}
        settings = {
            "quant_method": "torchao",
            "quant_type": {"default": quantized},
            "modules_to_not_convert": None,
            "include_input_output_embeddings": False,
            "untie_embedding_weights": False,
        }
        return {**source.config, "quantization_config": settings}

    def notes(self, source: Source) -> tuple[str, ...]:
        """That small codes take 8 bits."""
        if all(entry.form.info.value_bits == 8 for entry in source.entries):
            return ()
        return (
            "torchao stores each code in 8 bits, so that the files are larger than the size counted here.",
        )

    def read_back(self, folder: Path) -> Iterator[tuple[str, Tensor]]:
        """``scale * (code - zero point)`` for every quantized weight."""
        stored = Stored(folder)
        for name in stored.names:
            if name.endswith(_CODES):
                module = name.removesuffix(_CODES)
                yield (
                    f"{module}.weight",
                    _read(stored, module, _settings(stored.metadata, f"{module}.weight")),
                )


def _read(stored: Stored, module: str, described: Mapping[str, Any]) -> Tensor:
    """One matrix, (rows, columns) float32."""
    kind, sizes = part(described, "_type"), part(described, "_data", "block_size")
    if (
        not isinstance(sizes, list)
        or len(sizes) != 2
        or not all(type(size) is int and size > 0 for size in sizes)
    ):
        raise ExportError(f"{module} has blocks of {sizes}.", "Export again.")
    if kind == "Float8Tensor":
        codes = stored.get(f"{module}{_CODES}", None, -1, -1)
        shape = -(-len(codes) // sizes[0]), 1
        return codes.float() * stored.get(f"{module}._weight_scale", torch.float32, *shape)
    codes = stored.get(f"{module}{_CODES}", torch.int8, -1, -1)
    shape = len(codes), -(-codes.shape[1] // sizes[1])
    scales = stored.get(f"{module}._weight_scale", torch.float16, *shape)
    if kind == "Int8Tensor":
        return scaled(codes, scales, sizes[1])
    zero = stored.get(f"{module}._weight_zero_point", torch.int8, *shape).to(torch.int16)
    steps = codes - zero.repeat_interleave(sizes[1], dim=1)[:, : codes.shape[1]]
    return scaled(steps, scales, sizes[1])


def _settings(metadata: Mapping[str, str], name: str) -> dict[str, Any]:
    """What the header says of a stored weight, whose parameter may have a longer name; ``ExportError`` if nothing."""
    text = next(
        (text for each, text in metadata.items() if each == name or each.endswith(f".{name}")), "null"
    )
    try:
        described = json.loads(text)
    except ValueError:
        described = None
    if not isinstance(described, dict):
        raise ExportError(f"The files' headers do not say what {name} is.", "Export again.")
    return described


def _kind(spec: FormatSpec) -> str:
    """The class of a weight."""
    if spec.family in _FLOATS:
        return "Float8Tensor"
    plain = (spec.family, spec.granularity, spec.symmetry) == ("int8", "channel", "sym")
    return "Int8Tensor" if plain else "IntxUnpackedToInt8Tensor"


def _described(entry: Entry, source: Source) -> dict[str, Any]:
    """A weight in the header."""
    spec = entry.form.spec
    kind = _kind(spec)
    width = spec.group_size if spec.granularity == "group" else entry.columns
    data: dict[str, Any] = {
        "block_size": [entry.rows if spec.granularity == "tensor" else 1, width],
        "dtype": _dtype(source.dtype),
    }
    parts = ["qdata", "scale"]
    if kind == "Float8Tensor":
        data |= {
            "mm_config": None,
            "act_quant_kwargs": None,
            "kernel_preference": {"_type": "KernelPreference", "_data": "AUTO"},
        }
    elif kind == "Int8Tensor":
        data |= {"act_quant_kwargs": None, "reduce_range": False}
    else:
        data |= {
            "target_dtype": _plain("torch.dtype", f"int{integer_bits(spec)}"),
            "activation_quantization": None,
        }
        parts.append("zero_point")
    return {"_type": kind, "_data": data, "_tensor_data_names": parts}


def _setting(spec: FormatSpec) -> dict[str, Any]:
    """A format as torchao's configuration, in its JSON."""
    if spec.family in _FLOATS:
        shared = _made("PerTensor") if spec.granularity == "tensor" else _made("PerRow", dim=-1)
        return _made(
            "Float8WeightOnlyConfig", 2, weight_dtype=_dtype(_FLOATS[spec.family]), granularity=shared
        )
    if _kind(spec) == "Int8Tensor":
        return _made("Int8WeightOnlyConfig", 2, granularity=_made("PerRow", dim=-1))
    grouped = spec.granularity == "group"
    return _made(
        "IntxWeightOnlyConfig",
        2,
        weight_dtype=_plain("torch.dtype", spec.family),
        granularity=_made("PerGroup", group_size=spec.group_size) if grouped else _made("PerAxis", axis=0),
        mapping_type=_plain("MappingType", "SYMMETRIC" if spec.symmetry == "sym" else "ASYMMETRIC"),
    )


def _made(kind: str, version: int = 1, **data: object) -> dict[str, Any]:
    return {"_type": kind, "_version": version, "_data": data}


def _plain(kind: str, name: str) -> dict[str, Any]:
    return {"_type": kind, "_data": name}


def _dtype(dtype: torch.dtype) -> dict[str, Any]:
    return _plain("torch.dtype", str(dtype).removeprefix("torch."))


register(TorchAo())
