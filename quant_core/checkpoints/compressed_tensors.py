"""compressed-tensors' layouts (``compressors/*/base.py``), and the FP8 checkpoints that are stored alike.

    pack-quantized   weight_packed, int32 words along the inputs, codes plus 2^(bits - 1); weight_scale; weight_shape;
                     weight_zero_point, packed along the outputs; weight_g_idx, the group of each input
    int-quantized    weight int8; weight_scale; weight_zero_point int8
    float-quantized  weight in E4M3; weight_scale, one a tensor, an output or a square (``weight_scale_inv`` in
                     DeepSeek's files)
    nvfp4            weight_packed, two codes a byte, the first in the low bits; weight_scale in E4M3;
                     weight_global_scale, by which the scales are divided
    mxfp4            weight_packed alike; weight_scale, exponents plus 127

What a layer holds follows from its tensors: the targets in ``config.json`` may be regular expressions that a stranger
wrote, and are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from quant_core.checkpoints.base import Held, Unread, in_groups, integer, known
from quant_core.checkpoints.tensors import AGAIN, Stored, scaled, unpack_rows, width
from quant_core.errors import ExportError

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_PARTS = (
    "weight_packed", "weight", "weight_scale", "weight_scale_inv", "weight_shape", "weight_zero_point", "weight_g_idx",
    "weight_global_scale",
)  # fmt: skip
_SPARSE = ("compressed", "bitmask", "meta")


def held(stored: Stored, settings: Mapping[str, Any]) -> Iterator[Held | Unread]:
    """Every layer that has scales; ``ExportError`` if its tensors do not fit each other."""
    for name in stored.names:
        module, _, last = name.rpartition(".")
        if last in ("weight_scale", "weight_scale_inv"):
            yield _layer(stored, module, last)
        elif last in _SPARSE:
            yield Unread(f"{module}.weight", "Sparse weights are not read here.", (name,))


def _layer(stored: Stored, module: str, scale: str) -> Held | Unread:
    parts = tuple(f"{module}.{last}" for last in _PARTS if stored.has(f"{module}.{last}"))
    packed, weight, scale = f"{module}.weight_packed", f"{module}.weight", f"{module}.{scale}"
    if stored.has(packed) and stored.dtype(packed) == "I32":
        found = _integers(stored, module)
    elif stored.has(packed) and stored.dtype(packed) == "U8":
        found = _fp4(stored, module)
    elif stored.has(weight) and stored.dtype(weight) in ("I8", "F8_E4M3") and len(stored.shape(weight)) == 2:
        found = _eight(stored, module, scale)
    else:
        return Unread(weight, "It is packed in a way that is not read here.", parts)
    rows, columns, holds, form, read = found
    bits = sum(stored.bits(part) for part in parts)
    return Held(weight, rows, columns, holds, bits, lambda start, stop: read()[start:stop], form, parts=parts)


_Found = tuple[int, int, str, str, Any]
"""Rows, columns, what it holds, our format, and what reads it."""


def _integers(stored: Stored, module: str) -> _Found:
    rows, columns = (int(size) for size in stored.get(f"{module}.weight_shape", None, 2).tolist())
    shape = stored.shape(f"{module}.weight_packed")
    if len(shape) != 2 or shape[0] != rows or columns < 1:
        raise _unfit(module)
    bits = width(columns, shape[1])
    groups = _groups(stored, module, rows)
    if not bits or not 1 <= groups <= columns:
        raise _unfit(module)
    size = -(-columns // groups)
    symmetric = not stored.has(f"{module}.weight_zero_point")
    kinds = [f"int{bits}", in_groups(size, columns), "symmetric" if symmetric else "zero points"]
    ordered = not stored.has(f"{module}.weight_g_idx")
    return (
        rows,
        columns,
        ", ".join(kinds if ordered else [*kinds, "act-order"]),
        integer(bits, size, columns, symmetric) if ordered else "",
        partial(decode_integers, stored, module, bits, size),
    )


def _groups(stored: Stored, module: str, rows: int) -> int:
    shape = stored.shape(f"{module}.weight_scale")
    if len(shape) == 2 and shape[0] == rows:
        return shape[1]
    if shape in ((1,), (1, 1), ()):
        return 1
    raise _unfit(module)


def decode_integers(stored: Stored, module: str, bits: int, size: int) -> Tensor:
    """A layer of packed integers, (rows, columns) float32, with ``size`` values a scale."""
    rows, columns = (int(size) for size in stored.get(f"{module}.weight_shape", None, 2).tolist())
    words = stored.get(f"{module}.weight_packed", torch.int32, rows, -(-columns * bits // 32))
    shape = stored.shape(f"{module}.weight_scale")
    scales = stored.get(f"{module}.weight_scale", None, *shape).float()
    scales = scales.reshape(1, 1).expand(rows, 1) if scales.numel() == 1 else scales
    if scales.shape != (rows, -(-columns // size)):
        raise ExportError(
            f"{module}.weight_scale has the shape {shape}, not {(rows, -(-columns // size))}.", AGAIN
        )
    steps = unpack_rows(words, bits, columns)
    zeros = torch.full_like(scales, 2 ** (bits - 1), dtype=torch.int16)
    if stored.has(f"{module}.weight_zero_point"):
        packed = stored.get(
            f"{module}.weight_zero_point", torch.int32, -(-rows * bits // 32), scales.shape[1]
        )
        zeros = unpack_rows(packed.T, bits, rows).T
    if stored.has(f"{module}.weight_g_idx"):
        index = stored.get(f"{module}.weight_g_idx", None, columns).long()
        if int(index.min()) < 0 or int(index.max()) >= scales.shape[1]:
            raise ExportError(f"{module}.weight_g_idx names groups that are not there.", AGAIN)
        return (steps - zeros[:, index]).float() * scales[:, index]
    return scaled(steps - zeros.repeat_interleave(size, dim=1)[:, :columns], scales, size)


def _fp4(stored: Stored, module: str) -> _Found:
    shape = stored.shape(f"{module}.weight_packed")
    if len(shape) != 2:
        raise _unfit(module)
    rows, columns = shape[0], 2 * shape[1]
    nv = stored.has(f"{module}.weight_global_scale")
    form = "nvfp4" if nv else "mxfp4"
    size = 16 if nv else 32
    holds = f"{form.upper()}, groups of {size}"
    return rows, columns, holds, known(form), partial(decode_fp4, stored, module, size)


def decode_fp4(stored: Stored, module: str, size: int) -> Tensor:
    """A layer of 4-bit floats, (rows, columns) float32, with ``size`` values a scale."""
    packed = stored.get(f"{module}.weight_packed", torch.uint8, -1, -1)
    values = torch.tensor([*E2M1, *(-value for value in E2M1)])
    codes = values[torch.stack([packed & 15, packed >> 4], dim=2).flatten(1).int()]
    shape = (len(codes), -(-codes.shape[1] // size))
    if stored.has(f"{module}.weight_global_scale"):
        scales = stored.get(f"{module}.weight_scale", torch.float8_e4m3fn, *shape).float()
        scales = scales / stored.get(f"{module}.weight_global_scale", torch.float32, 1)
    else:
        exponents = stored.get(f"{module}.weight_scale", torch.uint8, *shape)
        scales = torch.exp2(exponents.float() - 127)
    return scaled(codes, scales, size)


def _eight(stored: Stored, module: str, scale: str) -> _Found:
    rows, columns = stored.shape(f"{module}.weight")
    shape = stored.shape(scale)
    whole = stored.dtype(f"{module}.weight") == "I8"
    family = "INT8" if whole else "FP8 (E4M3)"
    zero = stored.has(f"{module}.weight_zero_point")
    if shape in ((), (1,), (1, 1)):
        sharing, grouping = "one scale", "tensor"
    elif shape in ((rows,), (rows, 1)):
        sharing, grouping = "one scale an output", "channel"
    elif len(shape) == 2 and (shape[0] == rows or not whole) and columns >= shape[1] > 0 < shape[0] <= rows:
        size = _side(columns, shape[1], square=shape[0] != rows)
        sharing = f"groups of {size}" if shape[0] == rows else f"squares of {size}"
        grouping = f"g{size}" if shape[0] == rows else f"b{size}"
    else:
        raise _unfit(module)
    symmetry = "asym" if zero else "sym"
    form = known(f"int8/{grouping}/{symmetry}" if whole else f"fp8_e4m3/{grouping}")
    holds = f"{family}, {sharing}" + (", zero points" if zero else "")
    return rows, columns, holds, form, partial(_decode_eight, stored, module, scale)


def _side(count: int, parts: int, square: bool) -> int:
    """Values a part where so many parts of equal size hold ``count``; of squares a power of two, the last less full."""
    size = -(-count // parts)
    if not square:
        return size
    power = 1 << (size - 1).bit_length()
    return power if -(-count // power) == parts else size


def _decode_eight(stored: Stored, module: str, scale: str) -> Tensor:
    codes = stored.get(f"{module}.weight", None, -1, -1)
    rows, columns = codes.shape
    values = codes.float()
    if stored.has(f"{module}.weight_zero_point"):
        zero = stored.get(f"{module}.weight_zero_point", None, *stored.shape(scale)).float()
        values = values - _spread(zero, rows, columns)
    shape = stored.shape(scale)
    return values * _spread(stored.get(scale, None, *shape).float(), rows, columns)


def _spread(scales: Tensor, rows: int, columns: int) -> Tensor:
    """Scales of a tensor, of outputs, or of rectangles, as they meet every value; broadcast where one is for many."""
    if scales.dim() < 2:
        return scales.reshape(-1, 1)
    square = scales.shape[0] not in (1, rows)
    high, wide = (
        _side(count, parts, square) for count, parts in zip((rows, columns), scales.shape, strict=True)
    )
    if scales.shape[0] > 1 and high > 1:
        scales = scales.repeat_interleave(high, dim=0)[:rows]
    return scales if scales.shape[1] == 1 else scales.repeat_interleave(wide, dim=1)[:, :columns]


def _unfit(module: str) -> ExportError:
    return ExportError(f"The shapes of {module} do not fit each other.", AGAIN)
