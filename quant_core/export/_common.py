"""What more than one exporter needs: codes counted from 0 up, and packed into words."""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.export.source import Rounded
from quant_core.schema import FormatSpec


def unsigned(rounded: Rounded) -> tuple[Tensor, Tensor, Tensor]:
    """An integer format's codes (rows, columns), scales and zero points (rows, groups), counted from 0 up.

    Codes and zero points are int16; symmetric formats have the middle code for a zero point.
    """
    entry, grid, bits = rounded.entry, rounded.codes.grid, integer_bits(rounded.entry.form.spec)
    codes = rounded.codes.values.reshape(entry.rows, -1)[:, : entry.columns]
    scales = grid.scales.reshape(entry.rows, -1)
    zero = torch.zeros_like(scales) if grid.zero_points is None else grid.zero_points.reshape(scales.shape)
    return codes.to(torch.int16) + 2 ** (bits - 1), scales, zero.to(torch.int16) + 2 ** (bits - 1)


def integer_bits(spec: FormatSpec) -> int:
    """Bits of a code of ``int2`` to ``int8``."""
    return int(spec.family.removeprefix("int"))


def pack_rows(codes: Tensor, bits: int) -> Tensor:
    """Pack unsigned codes (rows, columns) into int32 words (rows, ceil(columns * bits / 32)), lowest bits first.

    The words are one stream of bits, in which a code may straddle two: 32 codes fill ``bits`` words.
    """
    rows, columns = codes.shape
    groups = torch.nn.functional.pad(codes, (0, -columns % 32)).reshape(rows, -1, 32)
    words = torch.zeros(rows, groups.shape[1], bits, dtype=torch.int64)
    for position in range(32):
        word, shift = divmod(position * bits, 32)
        value = groups[:, :, position].to(torch.int64) << shift
        words[:, :, word] |= value & 0xFFFFFFFF
        if shift + bits > 32:
            words[:, :, word + 1] |= value >> 32
    words = torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
    return words.reshape(rows, -1)[:, : -(-columns * bits // 32)].contiguous()
