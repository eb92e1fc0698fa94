"""AWQ checkpoints, for vLLM, SGLang and what else reads AutoAWQ's files.

AutoAWQ's GEMM layout (0.2.9, ``awq/modules/linear/gemm.py``, ``WQLinear_GEMM.from_linear``). In place of ``weight`` a
layer has

    qweight   int32 (inputs, outputs / 8): eight codes of 4 bits a word, from 0 up, along the outputs
    qzeros    int32 (groups, outputs / 8): zero points, alike
    scales    float16 (groups, outputs)

and ``w = scale * (q - zero)``. In a word the outputs stand in the order 0, 2, 4, 6, 1, 3, 5, 7, lowest bits first; vLLM
undoes it with its inverse (``layers/quantization/auto_awq.py``, ``_REVERSE_AWQ_PACK_ORDER``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quant_core.export._common import Stored, number, pack_rows, part, read_config, unpack_rows, unsigned
from quant_core.export.base import SafetensorsExporter, register
from quant_core.export.source import Rounded, Source

_BITS = 4
_ORDER = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])


class Awq(SafetensorsExporter):
    """Integers of 4 bits with zero points, one group size for all."""

    name = "awq"

    def pack(self, rounded: Rounded, source: Source) -> Mapping[str, Tensor]:
        """``qweight``, ``qzeros`` and ``scales``."""
        module = rounded.entry.module
        codes, scales, zeros = unsigned(rounded)
        return {
            f"{module}.qweight": _pack(codes.T),
            f"{module}.qzeros": _pack(zeros.T),
            f"{module}.scales": scales.T,
        }

    def config(self, source: Source) -> dict[str, Any]:
        """The original's, with ``quantization_config``."""
        quantized = {entry.module for entry in source.entries}
        settings = {
            "quant_method": "awq",
            "version": "gemm",
            "bits": _BITS,
            "group_size": source.entries[0].form.spec.group_size,
            "zero_point": True,
            "modules_to_not_convert": [name for name in source.layers if name not in quantized],
        }
        return {**source.config, "quantization_config": settings}

    def read_back(self, folder: Path) -> Iterator[tuple[str, Tensor]]:
        """``scale * (q - zero)`` for every packed layer."""
        stored = Stored(folder)
        settings = part(read_config(folder), "quantization_config")
        for name in stored.names:
            module, _, last = name.rpartition(".")
            if last != "qweight":
                continue
            words = stored.get(name, torch.int32, -1, -1)
            columns, rows = len(words), words.shape[1] * 8
            size = number(settings, "group_size", columns)
            scales = stored.get(f"{module}.scales", torch.float16, columns // size, rows)
            zeros = _unpack(stored.get(f"{module}.qzeros", torch.int32, columns // size, rows // 8))
            steps = _unpack(words) - zeros.repeat_interleave(size, dim=0)
            yield f"{module}.weight", (steps.float() * scales.float().repeat_interleave(size, dim=0)).T


def _pack(codes: Tensor) -> Tensor:
    """Codes (some, outputs) in words (some, outputs / 8)."""
    return pack_rows(codes.reshape(len(codes), -1, 8)[:, :, _ORDER].flatten(1), _BITS)


def _unpack(words: Tensor) -> Tensor:
    """Undo ``_pack``."""
    codes = unpack_rows(words, _BITS, words.shape[1] * 8)
    return codes.reshape(len(codes), -1, 8)[:, :, _ORDER.argsort()].flatten(1)


register(Awq())
