"""AutoAWQ's GEMM layout (``awq/modules/linear/gemm.py``).

    qweight   int32 (inputs, outputs / 8): eight codes of 4 bits a word, from 0 up, along the outputs
    qzeros    int32 (groups, outputs / 8): zero points, alike
    scales    (groups, outputs)

and ``w = scale * (q - zero)``. In a word the outputs stand in the order 0, 2, 4, 6, 1, 3, 5, 7, lowest bits first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from quant_core.checkpoints.base import Held, Unread, in_groups, integer
from quant_core.checkpoints.tensors import AGAIN, Stored, unpack_rows, word
from quant_core.errors import ExportError

BITS = 4
ORDER = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
"""Which output stands at each place of a word."""


def held(stored: Stored, settings: Mapping[str, Any]) -> Iterator[Held | Unread]:
    """Every packed layer.

    Raises:
        ExportError: Its tensors do not fit each other, or the layout is one that is not read here.
    """
    form, bits = str(settings.get("version") or "gemm").lower(), settings.get("bits", BITS)
    if form != "gemm" or bits != BITS:
        raise ExportError(
            f"The layers are packed for AWQ's {word(form)} in {word(bits)} bits, which is not read here.",
            "Choose a checkpoint of version GEMM in 4 bits, the usual one.",
        )
    for name in stored.names:
        module, _, last = name.rpartition(".")
        if last == "qweight":
            yield _layer(stored, module)


def _layer(stored: Stored, module: str) -> Held:
    shape, scales = stored.shape(f"{module}.qweight"), stored.shape(f"{module}.scales")
    if len(shape) != 2 or len(scales) != 2 or 0 in (*shape, *scales) or shape[0] % scales[0]:
        raise ExportError(f"The shapes of {module} do not fit each other.", AGAIN)
    columns, rows, size = shape[0], shape[1] * 8, shape[0] // scales[0]
    parts = tuple(f"{module}.{last}" for last in ("qweight", "qzeros", "scales"))
    return Held(
        name=f"{module}.weight",
        rows=rows,
        columns=columns,
        holds=f"int4, {in_groups(size, columns)}, zero points",
        bits=sum(stored.bits(part) for part in parts),
        read=lambda start, stop: decode(stored, module, size)[start:stop],
        format=integer(BITS, size, columns, symmetric=False),
        parts=parts,
    )


def decode(stored: Stored, module: str, size: int) -> Tensor:
    """A layer's matrix, (rows, columns) float32, of groups of ``size`` inputs."""
    words = stored.get(f"{module}.qweight", torch.int32, -1, -1)
    columns, rows = len(words), words.shape[1] * 8
    scales = stored.get(f"{module}.scales", None, columns // size, rows).float()
    zeros = _unpack(stored.get(f"{module}.qzeros", torch.int32, columns // size, rows // 8))
    steps = _unpack(words) - zeros.repeat_interleave(size, dim=0)
    return (steps.float() * scales.repeat_interleave(size, dim=0)).T


def _unpack(words: Tensor) -> Tensor:
    """Codes (some, outputs) from words (some, outputs / 8)."""
    codes = unpack_rows(words, BITS, words.shape[1] * 8)
    return codes.reshape(len(codes), -1, 8)[:, :, ORDER.argsort()].flatten(1)
