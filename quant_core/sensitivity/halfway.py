"""Where a sweep block by block stood when it was stopped, in a file until it is done.

The file is named by the request's content key, so that the same request, asked again after it was stopped or its worker
died, goes on with the first block that has no scores.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from quant_core.methods.trained import read_head, write_tensors
from quant_core.store.arrays import SUFFIX, array_file

KEPT = 3
"""Sweeps that may be stopped and go on; the files of older ones are removed."""
SAVE_SECONDS = 1.0
"""The file is written at most this often."""


class Stand(NamedTuple):
    """How far a sweep has come."""

    blocks: int
    """Blocks, from the first on, that have no scores yet."""
    gradient: Tensor
    """The gradient behind the last of these, (sequences, length, hidden)."""
    fisher: Tensor
    """(units, formats, sequences), zeros where there is none yet; the next two likewise."""
    noise: Tensor
    """Sum of |dW x|^2, (units, formats)."""
    signal: Tensor
    """Sum of |W x|^2, (units,)."""
    lost: Tensor
    """Tokens at which a unit's outputs are not finite, (units,)."""


class Halfway:
    """The file of one request.

    Args:
        folder: Where the file is.
        key: Content key of the request.
        head: What else the scores depend on; a file of another head is not read.
    """

    def __init__(self, folder: Path, key: str, head: Mapping[str, Any]) -> None:
        self._path = array_file(folder, "fisher", key)
        self._head = dict(head)
        self._saved = time.monotonic()

    def read(self) -> Stand | None:
        """Where the sweep stood; None if it is to begin at the beginning."""
        head = read_head(self._path)
        if head is None or {name: head.get(name) for name in self._head} != self._head:
            return None
        return Stand(head["blocks"], **load_file(self._path))

    def save(self, stand: Stand) -> None:
        """Write the file whole, unless it was just now, and remove those of all but the last few sweeps."""
        if time.monotonic() - self._saved < SAVE_SECONDS:
            return
        self._saved = time.monotonic()
        tensors = {name: value for name, value in stand._asdict().items() if name != "blocks"}
        write_tensors(self._path, tensors, {**self._head, "blocks": stand.blocks})
        files = sorted(self._path.parent.glob(f"fisher-*{SUFFIX}"), key=lambda file: file.stat().st_mtime)
        for old in files[:-KEPT]:
            old.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the file: the sweep is done."""
        self._path.unlink(missing_ok=True)
