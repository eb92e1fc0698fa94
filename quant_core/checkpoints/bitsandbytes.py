"""bitsandbytes' layouts (0.50, ``functional.py``: ``QuantState.as_dict``, and ``nn/modules.py``).

NF4 and FP4, blocks of values of the flattened weight:

    weight                                  two codes a byte, the first in the high bits, as (values / 2, 1) uint8 or in
                                            the bytes of another dtype
    weight.absmax                           float32 (blocks,); with double quantization their codes in uint8
    weight.quant_map                        float32 (16,): the table
    weight.nested_absmax, nested_quant_map  with double quantization: float32, one for some scales, and (256,)
    weight.quant_state.bitsandbytes__nf4    the rest as JSON, in bytes

LLM.int8: ``weight`` int8 (outputs, inputs), ``SCB`` float32 (outputs,), the largest magnitude of each row, and
``weight_format`` 0, for rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from quant_core.checkpoints.base import Held, Unread, known
from quant_core.checkpoints.tensors import AGAIN, Stored
from quant_core.errors import ExportError

STATE = ".quant_state.bitsandbytes__"
_LONGEST_STATE = 10_000
"""Bytes of JSON; what bitsandbytes writes has some 150."""
_FOUR = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")


def held(stored: Stored, settings: Mapping[str, Any]) -> Iterator[Held | Unread]:
    """Every quantized layer; ``ExportError`` if its tensors do not fit each other."""
    for name in stored.names:
        if name.endswith(".SCB"):
            yield _int8(stored, name.removesuffix(".SCB"))
        elif STATE in name:
            yield _four(stored, name)


def _int8(stored: Stored, module: str) -> Held | Unread:
    names = (f"{module}.weight", f"{module}.SCB", f"{module}.weight_format")
    parts = tuple(name for name in names if stored.has(name))
    if len(parts) == len(names) and int(stored.get(names[2], None, *stored.shape(names[2])).sum()) != 0:
        return Unread(names[0], "Its rows are in an order of GPU tiles, which is not read here.", parts)
    shape = stored.shape(names[0])
    if len(shape) != 2 or stored.shape(names[1]) != shape[:1]:
        raise ExportError(f"The shapes of {module} do not fit each other.", AGAIN)
    bits = sum(stored.bits(part) for part in parts)
    holds, form = "LLM.int8, one scale an output", known("llm_int8")
    return Held(
        names[0], *shape, holds, bits, lambda start, stop: decode_int8(stored, module)[start:stop], form, parts=parts
    )  # fmt: skip


def decode_int8(stored: Stored, module: str) -> Tensor:
    """A layer of LLM.int8, (rows, columns) float32."""
    codes = stored.get(f"{module}.weight", torch.int8, -1, -1)
    largest = stored.get(f"{module}.SCB", torch.float32, len(codes))
    return codes.float() * largest[:, None] * (1 / 127)


def _four(stored: Stored, name: str) -> Held:
    weight, _, kind = name.partition(STATE)
    state = read_state(stored, name)
    rows, columns = state["shape"]
    double = "nested_offset" in state
    parts = (name, weight, *(f"{weight}.{last}" for last in _FOUR if stored.has(f"{weight}.{last}")))
    family = "nf4" if kind == "nf4" else "fp4"
    size = state["blocksize"]
    return Held(
        name=weight,
        rows=rows,
        columns=columns,
        holds=f"{kind[:8].upper()}, blocks of {size}" + (", double quantization" if double else ""),
        bits=sum(stored.bits(part) for part in parts),
        read=lambda start, stop: decode_four(stored, weight, state)[start:stop],
        format=known(f"{family}/g{size}{'/dq' if double else ''}") if columns % size == 0 else "",
        parts=parts,
    )


def decode_four(stored: Stored, weight: str, state: Mapping[str, Any]) -> Tensor:
    """A layer in 4 bits, (rows, columns) float32, by its ``read_state``."""
    rows, columns = state["shape"]
    size = state["blocksize"]
    count = rows * columns
    blocks = -(-count // size)
    if stored.bits(weight) // 8 != -(-count // 2):
        raise ExportError(f"{weight} has another size than {rows} x {columns} codes of 4 bits.", AGAIN)
    packed = stored.get(weight, None, *stored.shape(weight)).flatten().view(torch.uint8)[:, None]
    if "nested_offset" in state:
        each = state["nested_blocksize"]
        codes = stored.get(f"{weight}.absmax", torch.uint8, blocks)
        second = stored.get(f"{weight}.nested_absmax", torch.float32, -(-blocks // each))
        entries = stored.get(f"{weight}.nested_quant_map", torch.float32, 256)[codes.int()]
        absmax = entries * second.repeat_interleave(min(each, blocks))[:blocks] + state["nested_offset"]
    else:
        absmax = stored.get(f"{weight}.absmax", torch.float32, blocks)
    table = stored.get(f"{weight}.quant_map", torch.float32, 16)
    values = table[torch.cat([packed >> 4, packed & 15], dim=1).flatten().int()][:count]
    matrix: Tensor = (values * absmax.repeat_interleave(min(size, count))[:count]).reshape(rows, columns)
    return matrix


def read_state(stored: Stored, name: str) -> dict[str, Any]:
    """The JSON of a weight; ``ExportError`` if it is none, or has a size that is no size."""
    try:
        text = bytes(stored.get(name, torch.uint8, -1)[:_LONGEST_STATE].tolist())
        state = json.loads(text)
        sizes = [*state["shape"], state["blocksize"], state.get("nested_blocksize", 1)]
        if len(sizes) != 4 or not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"sizes {sizes}")
        if "nested_offset" in state:
            state |= {"nested_blocksize": sizes[3], "nested_offset": float(state["nested_offset"])}
            if not isfinite(state["nested_offset"]):
                raise ValueError("an offset that is no number")
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise ExportError(f"A quantization state cannot be read: {error}.", AGAIN) from error
    return dict(state)
