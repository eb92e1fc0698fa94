"""MLX checkpoints, for mlx-lm on Apple silicon.

The layouts of ``mx.quantize``, as mlx-lm's ``load_model`` reads them. A quantized layer has

    weight   uint32 (outputs, inputs * bits / 32): codes from 0 up, a stream of bits along the inputs
    scales   (outputs, groups): float16 in the mode ``affine``; exponents plus 127 in uint8 in ``mxfp4`` and ``mxfp8``
    biases   (outputs, groups) float16, in the mode ``affine`` alone

and in the mode ``affine`` ``w = scale * q + bias``. A float zero point z, which is counted in steps, gives
``bias = scale * (-2^(bits - 1) - z)``, rounded to float16: an offset of a group by at most 2^-11 of itself, which is
where what is read back differs from what was simulated. ``quantization`` in ``config.json`` has the setting of most
layers, and by name those of the others; mlx-lm stacks the experts of a block, which are one layer under another name.

mlx-lm looks for ``rope_theta`` and ``rope_scaling`` at the top of ``config.json``, where transformers 5 no longer saves
them: they are put there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quant_core.checkpoints.tensors import Stored, number, part, read_config, scaled, unpack_rows
from quant_core.export._common import integer_bits, pack_rows
from quant_core.export.base import SafetensorsExporter, register
from quant_core.export.source import Rounded, Source
from quant_core.schema import FormatSpec

_EXPERT = re.compile(r"\.experts\.\d+\.(\w+)$")
_STACKED = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_MX = {
    "mxfp4": {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    "mxfp8_e4m3": {"group_size": 32, "bits": 8, "mode": "mxfp8"},
}
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


class Mlx(SafetensorsExporter):
    """Integers with float zero points in groups, MXFP4 and MXFP8."""

    name = "mlx"

    def pack(self, rounded: Rounded, source: Source) -> Mapping[str, Tensor]:
        """``weight``, ``scales`` and, for integers, ``biases``."""
        entry, grid = rounded.entry, rounded.codes.grid
        if entry.form.spec.family in _MX:
            codes = rounded.codes.values.reshape(entry.rows, -1)[:, : entry.columns]
            return {
                entry.name: _words(codes.contiguous().view(torch.uint8), _setting(entry.form.spec)["bits"]),
                f"{entry.module}.scales": grid.scales.view(torch.uint8).reshape(entry.rows, -1),
            }
        bits = integer_bits(entry.form.spec)
        zero = grid.zero_points
        assert zero is not None  # the target holds float zero points alone
        bias = grid.scales.float() * (-(2.0 ** (bits - 1)) - zero.float())
        codes = rounded.codes.values.reshape(entry.rows, -1)[:, : entry.columns].to(torch.int16)
        return {
            entry.name: _words(codes + 2 ** (bits - 1), bits),
            f"{entry.module}.scales": grid.scales.reshape(entry.rows, -1),
            f"{entry.module}.biases": bias.to(torch.float16).reshape(entry.rows, -1),
        }

    def config(self, source: Source) -> dict[str, Any]:
        """The original's, with ``quantization`` and what turns positions."""
        settings = {_layer(entry.module): entry.form.spec for entry in source.entries}
        most, _ = Counter(settings.values()).most_common(1)[0]
        others = {name: _setting(spec) for name, spec in settings.items() if spec != most}
        return {**_positions(source.config), **source.config, "quantization": _setting(most) | others}

    def notes(self, source: Source) -> tuple[str, ...]:
        """What is rounded, and what it does to the speed of a bfloat16 model."""
        if all(entry.form.spec.family in _MX for entry in source.entries):
            return ()
        told = [
            "MLX keeps an offset a group in float16, which moves the values of a group by at most 2^-11 of it."
        ]
        if source.dtype == torch.bfloat16:
            told.append("Its float16 scales make MLX compute this bfloat16 model in float32.")
        return tuple(told)

    def read_back(self, folder: Path) -> Iterator[tuple[str, Tensor]]:
        """``scale * q + bias``, or ``scale * element``, for every packed layer."""
        stored = Stored(folder)
        settings = part(read_config(folder), "quantization")
        for name in stored.names:
            module, _, last = name.rpartition(".")
            if last == "scales":
                yield f"{module}.weight", _read(stored, module, settings.get(_layer(module), settings))


def _read(stored: Stored, module: str, setting: Mapping[str, Any]) -> Tensor:
    """One matrix, (rows, columns) float32."""
    bits, mode = number(setting, "bits", 8), part(setting, "mode")
    words = stored.get(f"{module}.weight", torch.uint32, -1, -1).view(torch.int32)
    columns = words.shape[1] * 32 // bits
    size = number(setting, "group_size", columns)
    shape = (len(words), -(-columns // size))
    codes = unpack_rows(words, bits, columns)
    if mode == "affine":
        biases = stored.get(f"{module}.biases", torch.float16, *shape).float()
        values = scaled(codes, stored.get(f"{module}.scales", torch.float16, *shape), size)
        return values + biases.repeat_interleave(size, dim=1)
    scales = torch.exp2(stored.get(f"{module}.scales", torch.uint8, *shape).float() - 127)
    if mode == "mxfp8":
        return scaled(codes.to(torch.uint8).view(torch.float8_e4m3fn), scales, size)
    elements = torch.tensor([*_E2M1, *(-value for value in _E2M1)])
    return scaled(elements[codes.int()], scales, size)


def _words(codes: Tensor, bits: int) -> Tensor:
    return pack_rows(codes, bits).view(torch.uint32)


def _layer(module: str) -> str:
    """What mlx-lm calls a stored layer."""
    return _EXPERT.sub(lambda found: f".switch_mlp.{_STACKED.get(found[1], found[1])}", module)


def _setting(spec: FormatSpec) -> dict[str, Any]:
    return _MX.get(spec.family) or {
        "group_size": spec.group_size,
        "bits": integer_bits(spec),
        "mode": "affine",
    }


def _positions(config: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_theta`` and ``rope_scaling`` out of transformers 5's ``rope_parameters``."""
    rope = config.get("rope_parameters") or {}
    if "rope_theta" not in rope:
        return {}
    plain = rope.get("rope_type", "default") == "default"
    return {"rope_theta": rope["rope_theta"]} | ({} if plain else {"rope_scaling": rope})


register(Mlx())
