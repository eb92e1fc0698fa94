"""Reading GGUF files of unknown origin: every count and offset is checked against the file before it is used.

Versions 2 and 3 of the format (ggml, ``docs/gguf.md``), little-endian, one file of perhaps several: a header with the
numbers of tensors and keys, the keys with their values, name, shape, type and offset of each tensor, and the tensors'
bytes from the next multiple of the alignment on.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import gguf
import numpy as np
import torch
from torch import Tensor

from quant_core.checkpoints.tensors import is_name
from quant_core.errors import ExportError

_SCALARS = dict(enumerate(("B", "b", "H", "h", "I", "i", "f", "?"))) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_SMALLEST_KEY, _SMALLEST_TENSOR = 13, 24
"""Bytes that a key with its value, and what is said of a tensor, take at least."""
_DIMENSIONS = 4
_MOST_VALUES = 20_000_000
"""Of a list: a vocabulary has some 300,000 tokens."""


@dataclass(frozen=True)
class Stored:
    """A tensor of the file: ggml's type, its shape with the inputs last, and where its bytes lie."""

    kind: gguf.GGMLQuantizationType
    shape: tuple[int, ...]
    start: int
    size: int


class GgufFile:
    """A file's keys, and its tensors one at a time.

    Args:
        path: The file.

    Raises:
        ExportError: It cannot be read, is damaged, or is of a kind that is not read here.
    """

    def __init__(self, path: Path) -> None:
        self._name = path.name
        try:
            self._size = path.stat().st_size
            self._bytes = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as error:
            self._damaged(str(error), error)
        self._at = 0
        if self._take(4) != b"GGUF":
            self._damaged("it does not begin as a GGUF file does")
        version, tensors, keys = self._numbers("<IQQ")
        if version not in (2, 3):
            self._damaged(f"it is of version {version}, and 2 and 3 are read here")
        self._fits(tensors, _SMALLEST_TENSOR)
        self._fits(keys, _SMALLEST_KEY)
        self.keys: Mapping[str, Any] = dict(self._key() for _ in range(keys))
        """Metadata: numbers, strings, and lists of them."""
        told = [self._tensor() for _ in range(tensors)]
        alignment = self.keys.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            self._damaged("its alignment is no power of two")
        begin = -(-self._at // alignment) * alignment
        self.tensors: Mapping[str, Stored] = {
            name: self._placed(name, kind, shape, begin + offset) for name, kind, shape, offset in told
        }
        """What is said of every tensor, by name."""
        if len(self.tensors) != len(told):
            self._damaged("two tensors have one name")

    def _damaged(self, what: str, cause: BaseException | None = None) -> NoReturn:
        raise ExportError(f"{self._name} is damaged: {what}.", "Export or download it again.") from cause

    def _take(self, count: int) -> bytes:
        if count > self._size - self._at:
            self._damaged("it ends too early")
        self._at += count
        return self._bytes[self._at - count : self._at].tobytes()

    def _fits(self, count: int, least: int) -> None:
        """Refuse a number of things that the rest of the file has no room for."""
        if count * least > self._size - self._at:
            self._damaged("it ends too early")

    def _numbers(self, kinds: str) -> tuple[Any, ...]:
        return struct.unpack(kinds, self._take(struct.calcsize(kinds)))

    def _text(self) -> str:
        (length,) = self._numbers("<Q")
        try:
            return self._take(length).decode()
        except UnicodeDecodeError as error:
            self._damaged("a text in it is no UTF-8", error)

    def _key(self) -> tuple[str, Any]:
        name = self._text()
        (kind,) = self._numbers("<I")
        if kind != _ARRAY:
            return name, self._value(kind)
        kind, count = self._numbers("<IQ")
        if count > _MOST_VALUES:
            self._damaged(f"a list in it has {count:,} values")
        if kind in _SCALARS:
            self._fits(count, struct.calcsize(_SCALARS[kind]))
            return name, list(self._numbers(f"<{count}{_SCALARS[kind]}"))
        self._fits(count, 8)
        return name, [self._value(kind) for _ in range(count)]

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._numbers(f"<{_SCALARS[kind]}")[0]
        if kind != _STRING:
            self._damaged(f"a value in it is of the unknown kind {kind}")
        return self._text()

    def _tensor(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._text()
        if not is_name(name):
            self._damaged("a tensor in it has a name that no tensor has")
        (dimensions,) = self._numbers("<I")
        if not 1 <= dimensions <= _DIMENSIONS:
            self._damaged(f"{name} has {dimensions} dimensions")
        shape = self._numbers(f"<{dimensions}Q")
        kind, offset = self._numbers("<IQ")
        return name, kind, shape[::-1], offset

    def _placed(self, name: str, kind: int, shape: tuple[int, ...], start: int) -> Stored:
        try:
            known = gguf.GGMLQuantizationType(kind)
        except ValueError as error:
            self._damaged(f"{name} is of the unknown type {kind}", error)
        block, bytes_ = gguf.GGML_QUANT_SIZES[known]
        if shape[-1] % block or prod(shape) == 0:
            self._damaged(f"{name} has no whole number of blocks")
        size = prod(shape) // block * bytes_
        if start + size > self._size:
            self._damaged(f"{name} lies beyond its end")
        return Stored(known, shape, start, size)

    def matrix(self, name: str, expert: int | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows of a tensor, or of one expert's slice, as the float32 (rows, columns) that gguf-py computes.

        Raises:
            ExportError: There is none, or it is not of that shape or of a type that gguf-py reads.
        """
        stored = self.tensors.get(name)
        if stored is None:
            self._damaged(f"there is no tensor {name}")
        count = stored.shape[0] if len(stored.shape) == 3 else 1
        if len(stored.shape) != (2 if expert is None else 3) or not 0 <= (expert or 0) < count:
            self._damaged(f"{name} has the shape {stored.shape}")
        size = stored.size // count
        begin = stored.start + (expert or 0) * size
        rows = self._bytes[begin : begin + size].reshape(stored.shape[-2], -1)[start:stop]
        return self._computed(name, stored, np.array(rows))

    def vector(self, name: str) -> Tensor:
        """A tensor of one dimension in float32; ``ExportError`` as for ``matrix``."""
        stored = self.tensors.get(name)
        if stored is None or len(stored.shape) != 1:
            self._damaged(f"there is no vector {name}")
        return self._computed(name, stored, np.array(self._bytes[stored.start : stored.start + stored.size]))

    def _computed(self, name: str, stored: Stored, packed: Any) -> Tensor:
        try:
            return torch.from_numpy(gguf.quants.dequantize(packed, stored.kind))
        except NotImplementedError as error:
            raise ExportError(
                f"{name} in {self._name} is of the type {stored.kind.name}, which gguf-py does not read.",
                "Choose a file of other types.",
            ) from error
