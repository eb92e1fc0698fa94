"""What more than one exporter needs: reading safetensors with care, packing codes into words, and unpacking them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quant_core.errors import ExportError
from quant_core.export.source import Rounded
from quant_core.schema import FormatSpec


class Stored:
    """The tensors of an exported folder, read one at a time; a damaged file raises ``ExportError``."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Any] = {}
        self.metadata: dict[str, str] = {}
        """What the files' headers say beside the tensors."""
        for path in sorted(folder.glob("*.safetensors")):
            try:
                file: Any = safe_open(path, framework="pt", device="cpu")
            except (OSError, SafetensorError) as error:
                raise ExportError(f"{path.name} is damaged: {error}.", "Export again.") from error
            self._files |= dict.fromkeys(file.keys(), file)
            self.metadata |= file.metadata() or {}

    @property
    def names(self) -> list[str]:
        """All names, in the files' order."""
        return list(self._files)

    def get(self, name: str, dtype: torch.dtype | None, *shape: int) -> Tensor:
        """One tensor of a dtype (None for any) and a shape, in which -1 is any size; ``ExportError`` if there is none.

        The shape is looked at before the tensor is read.
        """
        if name not in self._files:
            raise ExportError(f"There is no tensor {name} in the files.", "Export again.")
        found = tuple(self._files[name].get_slice(name).get_shape())
        if len(found) != len(shape) or any(
            want not in (-1, size) for want, size in zip(shape, found, strict=True)
        ):
            raise ExportError(f"{name} has the shape {found}, not {shape}.", "Export again.")
        values: Tensor = self._files[name].get_tensor(name)
        if dtype is not None and values.dtype != dtype:
            raise ExportError(f"{name} is {values.dtype}, not {dtype}.", "Export again.")
        return values


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json``; ``ExportError`` if it is missing or no object."""
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"config.json cannot be read: {error}.", "Export again.") from error
    if not isinstance(data, dict):
        raise ExportError("config.json holds no object.", "Export again.")
    return data


def part(data: Any, *path: str) -> Any:
    """What a configuration holds under nested keys; ``ExportError`` if it does not."""
    for name in path:
        if not isinstance(data, dict) or name not in data:
            raise ExportError(f"config.json says nothing of {'.'.join(path)}.", "Export again.")
        data = data[name]
    return data


def number(data: Any, name: str, most: int) -> int:
    """A number from 1 to ``most`` that a configuration holds under a key; ``ExportError`` if it does not."""
    value = part(data, name)
    if type(value) is not int or not 1 <= value <= most:
        raise ExportError(f"config.json says {name} is {value!r}.", "Export again.")
    return value


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


def scaled(codes: Tensor, scales: Tensor, size: int) -> Tensor:
    """Values (rows, columns) times their groups' scales (rows, groups), ``size`` values a group."""
    return codes.float() * scales.float().repeat_interleave(size, dim=1)[:, : codes.shape[1]]


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


def unpack_rows(words: Tensor, bits: int, columns: int) -> Tensor:
    """Undo ``pack_rows``: codes (rows, columns) as int16."""
    rows, count = words.shape
    groups = torch.nn.functional.pad(words, (0, -count % bits)).reshape(rows, -1, bits)
    codes = torch.empty(rows, groups.shape[1], 32, dtype=torch.int16)
    for position in range(32):
        word, shift = divmod(position * bits, 32)
        value = (groups[:, :, word].to(torch.int64) & 0xFFFFFFFF) >> shift
        if shift + bits > 32:
            value |= groups[:, :, word + 1].to(torch.int64) << (32 - shift)
        codes[:, :, position] = value & (2**bits - 1)
    return codes.reshape(rows, -1)[:, :columns]
