"""Folders that are whole or absent, and shards of safetensors written one after the other."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from quant_core import quantities
from quant_core.errors import ExportError
from quant_core.schema import ExportedFile

PARTIAL = ".partial-"
"""In the name of a folder that is being written."""
SHARD = 1_000_000_000
"""Bytes of tensors that are gathered before they are written: what writing takes in memory."""
MARGIN = 50_000_000
"""Bytes that have to stay free beside what is written."""
SMALL = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "spiece.model", "LICENSE",
    "LICENSE.txt", "LICENSE.md",
)  # fmt: skip
"""Files of a checkpoint that a copy needs beside config and weights."""


@contextmanager
def staged(folder: Path, size: float) -> Iterator[Path]:
    """A folder to write into, that becomes ``folder`` when the block ends well and vanishes when it does not.

    Args:
        folder: What it shall be; may exist only as an empty folder.
        size: Bytes that are going to be written, roughly.

    Raises:
        ExportError: The folder holds something, cannot be made, or the disk has not enough room or runs full.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} exists already.", "Choose another name, or remove it first.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f".{folder.name}{PARTIAL}*"):  # of a writer that was killed
            if not _lives(left):
                shutil.rmtree(left, ignore_errors=True)
        free = shutil.disk_usage(folder.parent).free
        if size + MARGIN > free:
            raise ExportError(
                f"The export needs about {quantities.size(size)}, and {quantities.size(free)} are free in "
                f"{folder.parent}.",
                "Free some space, or choose a folder on another disk.",
            )
        stage = folder.parent / f".{folder.name}{PARTIAL}{os.getpid()}"
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
    except OSError as error:
        raise _failed(folder, error) from error
    try:
        yield stage
        if folder.exists():
            folder.rmdir()
        stage.rename(folder)
    except OSError as error:
        shutil.rmtree(stage, ignore_errors=True)
        raise _failed(folder, error) from error
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise


def _lives(stage: Path) -> bool:
    """Whether the process that writes a partial folder is there, and is not this one."""
    number = stage.name.rpartition("-")[2]
    if not number.isdigit() or int(number) == os.getpid():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _failed(folder: Path, error: OSError) -> ExportError:
    if error.errno == errno.ENOSPC:
        return ExportError(
            f"The disk ran full while {folder.name} was written; nothing was kept.",
            "Free some space, or choose a folder on another disk.",
        )
    return ExportError(f"{folder} cannot be written: {error.strerror or error}.", "Choose another folder.")


class Shards:
    """Safetensors files of a folder, each written as soon as it is full, under Hugging Face's names.

    Args:
        folder: Where they go.
        limit: Bytes of tensors a file holds at most, unless one tensor alone is larger.
        metadata: What the header of every file says.
    """

    def __init__(self, folder: Path, limit: int = SHARD, metadata: Mapping[str, str] | None = None) -> None:
        self._folder, self._limit = folder, limit
        self._metadata = {"format": "pt", **(metadata or {})}
        self._waiting: dict[str, Tensor] = {}
        self._bytes = self._total = 0
        self._written: list[tuple[str, ...]] = []

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors by their names, now or with what follows."""
        for name, values in tensors.items():
            size = values.numel() * values.element_size()
            if self._waiting and self._bytes + size > self._limit:
                self._flush()
            self._waiting[name] = values.detach().cpu().contiguous().clone()
            self._bytes += size

    def _flush(self) -> None:
        save_file(self._waiting, self._folder / f"{len(self._written)}.part", metadata=self._metadata)
        self._written.append(tuple(self._waiting))
        self._total += self._bytes
        self._waiting, self._bytes = {}, 0

    def close(self) -> None:
        """Write the rest; give the files their names, and an index where there is more than one."""
        self._flush()
        count = len(self._written)
        places: dict[str, str] = {}
        for number, names in enumerate(self._written):
            file = f"model-{number + 1:05}-of-{count:05}.safetensors" if count > 1 else "model.safetensors"
            (self._folder / f"{number}.part").rename(self._folder / file)
            places |= dict.fromkeys(names, file)
        if count > 1:
            index = {"metadata": {"total_size": self._total}, "weight_map": places}
            write_json(self._folder / "model.safetensors.index.json", index)


def write_json(path: Path, data: object) -> None:
    """Write readable JSON."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_small(source: Path, folder: Path) -> None:
    """Copy what a checkpoint needs beside config and weights (tokenizer, templates, licence)."""
    for name in SMALL:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def listed(folder: Path) -> tuple[ExportedFile, ...]:
    """All files of a folder with size and hash, by name."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        found.append(ExportedFile(path.relative_to(folder).as_posix(), path.stat().st_size, checksum))
    return tuple(found)
