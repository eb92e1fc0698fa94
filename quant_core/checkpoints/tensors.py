"""Reading safetensors and their configuration with care, whoever wrote them, and unpacking codes from words.

The safetensors library itself refuses a header that is longer than its file, and a tensor whose bytes lie outside the
file or are not as many as its dtype and shape say; here a shape is looked at before a tensor is read, so that nothing
is allocated by a number that a file merely claims.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quant_core.errors import ExportError

AGAIN = "Export or download it again."
_CONFIG_BYTES = 10_000_000
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32,
    "U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
}  # fmt: skip
"""Bits of a value by safetensors' name of its dtype."""
FLOATS = {"F64", "F32", "F16", "BF16"}


def is_name(text: str) -> bool:
    """Whether a tensor may be called so: names reach messages and charts, which read marks and tags."""
    return re.fullmatch(r"[\w.:-]{1,400}", text) is not None


def word(value: Any) -> str:
    """What a file calls something, as a sentence may repeat it."""
    return re.sub(r"[^\w.:-]", "", str(value))[:40] or "unnamed"


class Stored:
    """The tensors of a folder of safetensors, read one at a time; a damaged file raises ``ExportError``.

    Args:
        folder: Where they are.
        files: Which of them; all in the folder by default.
    """

    def __init__(self, folder: Path, files: Sequence[Path] = ()) -> None:
        self._files: dict[str, Any] = {}
        self.metadata: dict[str, str] = {}
        """What the files' headers say beside the tensors."""
        for path in files or sorted(folder.glob("*.safetensors")):
            try:
                file: Any = safe_open(path, framework="pt", device="cpu")
            except (OSError, SafetensorError) as error:
                raise ExportError(f"{path.name} is damaged: {error}.", AGAIN) from error
            self._files |= dict.fromkeys(file.keys(), file)
            self.metadata |= file.metadata() or {}

    @property
    def names(self) -> list[str]:
        """All names, in the files' order."""
        return list(self._files)

    def has(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        return name in self._files

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, from the header; ``ExportError`` if there is no such tensor."""
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """A tensor's dtype by safetensors' name of it (``BF16``)."""
        return str(self._slice(name).get_dtype())

    def bits(self, name: str) -> int:
        """All bits of a tensor."""
        count = _BITS.get(self.dtype(name), 8)
        for size in self.shape(name):
            count *= size
        return count

    def get(self, name: str, dtype: torch.dtype | None, *shape: int) -> Tensor:
        """One tensor of a dtype (None for any) and a shape, in which -1 is any size; ``ExportError`` if there is none.

        The shape is looked at before the tensor is read.
        """
        found = self.shape(name)
        if len(found) != len(shape) or any(
            want not in (-1, size) for want, size in zip(shape, found, strict=True)
        ):
            raise ExportError(f"{name} has the shape {found}, not {shape}.", AGAIN)
        values: Tensor = self._files[name].get_tensor(name)
        if dtype is not None and values.dtype != dtype:
            raise ExportError(f"{name} is {values.dtype}, not {dtype}.", AGAIN)
        return values

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows of a matrix, as they are stored."""
        values: Tensor = self._slice(name)[start:stop]
        return values

    def _slice(self, name: str) -> Any:
        if name not in self._files:
            raise ExportError(f"There is no tensor {name} in the files.", AGAIN)
        return self._files[name].get_slice(name)


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file's object; ``ExportError`` if it is missing, too long, or no object."""
    try:
        if path.stat().st_size > _CONFIG_BYTES:
            raise ExportError(f"{path.name} is longer than any such file.", AGAIN)
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(f"{path.name} cannot be read: {error}.", AGAIN) from error
    if not isinstance(data, dict):
        raise ExportError(f"{path.name} holds no object.", AGAIN)
    return data


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json``; ``ExportError`` if it is missing or no object."""
    return read_json(folder / "config.json")


def part(data: Any, *path: str) -> Any:
    """What a configuration holds under nested keys; ``ExportError`` if it does not."""
    for name in path:
        if not isinstance(data, dict) or name not in data:
            raise ExportError(f"config.json says nothing of {'.'.join(path)}.", AGAIN)
        data = data[name]
    return data


def number(data: Any, name: str, most: int) -> int:
    """A number from 1 to ``most`` that a configuration holds under a key; ``ExportError`` if it does not."""
    value = part(data, name)
    if type(value) is not int or not 1 <= value <= most:
        raise ExportError(f"config.json says {name} is {value!r}.", AGAIN)
    return value


def scaled(codes: Tensor, scales: Tensor, size: int) -> Tensor:
    """Values (rows, columns) times their groups' scales (rows, groups), ``size`` values a group."""
    return codes.float() * scales.float().repeat_interleave(size, dim=1)[:, : codes.shape[1]]


def unpack_rows(words: Tensor, bits: int, columns: int) -> Tensor:
    """Unsigned codes (rows, columns) as int16, from int32 words, lowest bits first.

    The words of a row are one stream of bits, in which a code may straddle two: 32 codes fill ``bits`` words.
    """
    if 8 % bits == 0:  # no code straddles two bytes
        packed = words.contiguous().view(torch.uint8)
        parts = [packed >> shift & (2**bits - 1) for shift in range(0, 8, bits)]
        return torch.stack(parts, dim=-1).flatten(1)[:, :columns].to(torch.int16)
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


def width(count: int, words: int, likely: int = 0) -> int:
    """Bits of a code where so many fill so many int32 words; 0 if no number from 1 to 8 does.

    Few codes fit several: ``likely`` is taken where it is one of them, else none is.
    """
    fit = [bits for bits in range(1, 9) if -(-count * bits // 32) == words]
    if len(fit) == 1:
        return fit[0]
    return likely if likely in fit else 0
