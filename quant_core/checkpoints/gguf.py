"""GGUF files as llama.cpp's tools write them: every matrix in a type of its own, in one file or several.

Types are gguf-py's to read, k-quants and i-quants included; names and the order of rows are told in ``gguf_names``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import gguf
from torch import Tensor

from quant_core.checkpoints.base import Held, Quantized, known
from quant_core.checkpoints.gguf_file import GgufFile
from quant_core.checkpoints.gguf_file import Stored as Described
from quant_core.errors import ExportError

_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_MOST_FILES = 1000
_MOST_EXPERTS = 4096
_PLAIN = {"F32": "32-bit float", "F16": "16-bit float", "BF16": "bfloat16", "F64": "64-bit float"}


def files(path: Path) -> list[Path]:
    """The file, or all parts of the one that was split; ``ExportError`` if a part is missing."""
    found = _SPLIT.fullmatch(path.name)
    if found is None:
        return [path]
    count = int(found[3])
    if not 1 <= count <= _MOST_FILES:
        raise ExportError(f"{path.name} says it is one of {count} parts.", "Download it again.")
    parts = [path.with_name(f"{found[1]}-{place:05d}-of-{found[3]}.gguf") for place in range(1, count + 1)]
    for part in parts:
        if not part.is_file():
            raise ExportError(
                f"The part {part.name} is missing.", "Download all parts of the file into one folder."
            )
    return parts


def read(paths: list[Path], title: str) -> Quantized:
    """All that the parts of a file hold; ``ExportError`` if one is damaged."""
    held: list[Held] = []
    plain: dict[str, Callable[[], Tensor]] = {}
    plain_bits, first = 0, None
    for path in paths:
        file = GgufFile(path)
        first = first or file
        for name, stored in file.tensors.items():
            if len(stored.shape) in (2, 3):
                held += _matrices(file, name, stored)
            else:
                plain_bits += 8 * stored.size
                if len(stored.shape) == 1:
                    plain[name] = partial(file.vector, name)
    return Quantized(
        title=title,
        method="GGUF",
        held=tuple(held),
        unread=(),
        plain=plain,
        plain_bits=plain_bits,
        bytes=sum(path.stat().st_size for path in paths),
        keys=first.keys if first else {},
    )


def _matrices(file: GgufFile, name: str, stored: Described) -> Iterator[Held]:
    *count, rows, columns = stored.shape
    experts = range(count[0]) if count else (None,)
    if len(experts) > _MOST_EXPERTS:
        raise ExportError(f"{name} holds {len(experts):,} matrices.", "Download the file again.")
    kind = stored.kind.name
    quantized = kind not in _PLAIN
    block, size = gguf.GGML_QUANT_SIZES[stored.kind]
    holds = f"{kind}, blocks of {block}, {8 * size / block:.4g} bits" if quantized else _PLAIN[kind]
    for expert in experts:
        yield Held(
            name=name,
            rows=rows,
            columns=columns,
            holds=holds,
            bits=8 * stored.size // len(experts),
            read=partial(_rows, file, name, expert),
            format=known(kind.lower()) if quantized else "",
            quantized=quantized,
            expert=expert,
            by_rows=True,
        )


def _rows(file: GgufFile, name: str, expert: int | None, start: int, stop: int) -> Tensor:
    return file.matrix(name, expert, start, stop)
