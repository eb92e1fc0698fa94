"""AWQ checkpoints, for vLLM, SGLang and what else reads AutoAWQ's files; see ``checkpoints.awq`` for the layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from quant_core.checkpoints.awq import BITS, ORDER, decode
from quant_core.checkpoints.tensors import Stored, number, part, read_config
from quant_core.export._common import pack_rows, unsigned
from quant_core.export.base import SafetensorsExporter, register
from quant_core.export.source import Rounded, Source


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
            "bits": BITS,
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
            if last == "qweight":
                size = number(settings, "group_size", stored.shape(name)[0])
                yield f"{module}.weight", decode(stored, module, size)


def _pack(codes: Tensor) -> Tensor:
    """Codes (some, outputs) in words (some, outputs / 8)."""
    return pack_rows(codes.reshape(len(codes), -1, 8)[:, :, ORDER].flatten(1), BITS)


register(Awq())
