"""GPTQ's layout, as AutoGPTQ, GPTQModel, AutoRound and others write it (AutoGPTQ's ``QuantLinear.pack``).

    qweight   int32 (inputs * bits / 32, outputs): codes from 0 up, a stream of bits along the inputs
    qzeros    int32 (groups, outputs * bits / 32): zero points, a stream along the outputs
    scales    (groups, outputs)
    g_idx     int32 (inputs,): the group of each input; in another order than the inputs' with act-order

and ``w = scale * (q - zero)``. The first version of the format stores zero points less 1. The bits of a layer follow
from its shapes, so that neither ``dynamic`` nor its regular expressions, which a stranger wrote, are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from quant_core.checkpoints.base import Held, Unread, in_groups, integer
from quant_core.checkpoints.tensors import AGAIN, Stored, unpack_rows, width, word
from quant_core.errors import ExportError

_LAYOUTS = {"gptq": 1, "gptq_v2": 0}
"""What stored zero points are less than what they are, by ``checkpoint_format``."""


def held(stored: Stored, settings: Mapping[str, Any]) -> Iterator[Held | Unread]:
    """Every packed layer.

    Raises:
        ExportError: Its tensors do not fit each other, or the layout is one that is not read here.
    """
    form = settings.get("checkpoint_format") or "gptq"
    if settings.get("packing_format"):  # AutoRound's, ``auto_round_extension/torch/qlinear_torch*.py``
        form = {"auto_gptq": "gptq", "gptqmodel": "gptq_v2"}.get(
            str(settings["packing_format"]).split(":")[-1]
        )
    if form not in _LAYOUTS:
        raise ExportError(
            f"The layers are packed for {word(form or settings['packing_format'])}, which is not read here.",
            "Choose the checkpoint as GPTQModel writes it (gptq or gptq_v2).",
        )
    for name in stored.names:
        module, _, last = name.rpartition(".")
        if last == "qweight":
            yield _layer(stored, module, _LAYOUTS[form], settings.get("bits"))


def _layer(stored: Stored, module: str, less: int, likely: Any) -> Held:
    words, rows = _two(stored, f"{module}.qweight")
    groups, packed = _two(stored, f"{module}.qzeros")
    if stored.has(f"{module}.g_idx"):
        columns = sum(stored.shape(f"{module}.g_idx"))
        bits = width(columns, words, likely)
    else:
        bits = width(rows, packed, likely)
        columns = words * 32 // (bits or 1)
    if not bits or columns * bits != 32 * words or -(-rows * bits // 32) != packed:
        raise ExportError(f"The shapes of {module} do not fit each other.", AGAIN)
    index = group_index(stored, module, columns, groups)
    size = -(-columns // groups)
    ordered = torch.equal(index, torch.arange(columns) // size)
    zeros = unpack_rows(stored.get(f"{module}.qzeros", torch.int32, groups, packed), bits, rows) + less
    symmetric = bool((zeros == 2 ** (bits - 1)).all())
    kinds = [f"int{bits}", in_groups(size, columns), "symmetric" if symmetric else "zero points"]
    parts = tuple(
        f"{module}.{last}"
        for last in ("qweight", "qzeros", "scales", "g_idx")
        if stored.has(f"{module}.{last}")
    )
    return Held(
        name=f"{module}.weight",
        rows=rows,
        columns=columns,
        holds=", ".join(kinds if ordered else [*kinds, "act-order"]),
        bits=sum(stored.bits(part) for part in parts),
        read=lambda start, stop: decode(stored, module, bits, index, less)[start:stop],
        format=integer(bits, size, columns, symmetric) if ordered else "",
        parts=parts,
    )


def group_index(stored: Stored, module: str, columns: int, groups: int) -> Tensor:
    """The group of each input, (inputs,) int64; ``ExportError`` if one is not there."""
    if not stored.has(f"{module}.g_idx"):
        if groups < 1 or columns % groups:
            raise ExportError(f"The shapes of {module} do not fit each other.", AGAIN)
        return torch.arange(columns) // (columns // groups)
    index = stored.get(f"{module}.g_idx", torch.int32, columns).long()
    if columns == 0 or int(index.min()) < 0 or int(index.max()) >= groups:
        raise ExportError(f"{module}.g_idx names groups that are not there.", AGAIN)
    return index


def decode(stored: Stored, module: str, bits: int, index: Tensor, less: int) -> Tensor:
    """A layer's matrix, (rows, columns) float32, from codes of so many bits and the group of each input."""
    columns = len(index)
    words = stored.get(f"{module}.qweight", torch.int32, columns * bits // 32, -1)
    rows = words.shape[1]
    scales = stored.get(f"{module}.scales", None, -1, rows).float()
    packed = stored.get(f"{module}.qzeros", torch.int32, len(scales), -(-rows * bits // 32))
    if int(index.max()) >= len(scales):
        raise ExportError(f"{module}.g_idx names groups that are not there.", AGAIN)
    zeros = unpack_rows(packed, bits, rows) + less
    codes = unpack_rows(words.T, bits, columns)
    return (codes - zeros[index].T).float() * scales[index].T


def _two(stored: Stored, name: str) -> tuple[int, int]:
    shape = stored.shape(name)
    if len(shape) != 2 or 0 in shape:
        raise ExportError(f"{name} has the shape {shape}, which is no matrix's.", AGAIN)
    return shape[0], shape[1]
