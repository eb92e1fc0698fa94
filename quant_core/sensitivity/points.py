"""The points of a measured sweep, and the file that keeps them until the sweep is done.

The file is named by the request's content key, so that the same request, asked again after it was stopped or its worker
died, measures what is left.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from quant_core.methods.trained import read_head, write_tensors
from quant_core.store.arrays import SUFFIX, array_file

KEPT = 3
"""Sweeps that may be stopped and go on; the files of older ones are removed."""
SAVE_SECONDS = 10.0
"""The file is written at most this often, and when the sweep is stopped."""


class Points:
    """KL in nats a token by unit, format and sequence, as far as it was measured.

    Args:
        folder: Where the file is.
        key: Content key of the request.
        shape: Numbers of units, formats and sequences.
        head: What else the points depend on; a file of another head is not read.
    """

    def __init__(self, folder: Path, key: str, shape: tuple[int, int, int], head: Mapping[str, Any]) -> None:
        self.kl = torch.zeros(shape)
        self.done = torch.zeros(shape, dtype=torch.bool)
        self.bad = torch.zeros(shape, dtype=torch.long)
        """Positions without finite logits."""
        self._path = array_file(folder, "measured", key)
        self._head = {**head, "shape": list(shape)}
        self._saved = time.monotonic()
        if read_head(self._path) == self._head:
            kept = load_file(self._path)
            self.kl, self.done, self.bad = kept["kl"], kept["done"].bool(), kept["bad"]

    @property
    def share(self) -> float:
        """How much is done, in 0..1."""
        return float(self.done.float().mean())

    def __str__(self) -> str:
        """How many points' worth of sequences is done, ``12 of 504 points``."""
        return f"{int(self.done.sum()) // self.done.shape[-1]:,} of {self.done[..., 0].numel():,} points"

    def put(self, unit: int, form: int, batch: slice, kl: Tensor, bad: Tensor) -> None:
        """Take the KL of one point on the sequences ``batch``, and how many of their positions had no finite logits."""
        self.kl[unit, form, batch] = kl.cpu()
        self.bad[unit, form, batch] = bad.cpu()
        self.done[unit, form, batch] = True
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the file whole, and remove those of all but the last few sweeps."""
        self._saved = time.monotonic()
        write_tensors(self._path, {"kl": self.kl, "done": self.done.byte(), "bad": self.bad}, self._head)
        files = sorted(self._path.parent.glob(f"measured-*{SUFFIX}"), key=lambda file: file.stat().st_mtime)
        for old in files[:-KEPT]:
            old.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the file: the sweep is done."""
        self._path.unlink(missing_ok=True)

    def notes(self, units: Sequence[str], formats: Sequence[str]) -> tuple[str, ...]:
        """A sentence for each point at which logits were not finite."""
        positions = self.bad.sum(dim=-1)
        return tuple(
            f"{units[unit]}: {formats[form]} gave logits that are not finite at {positions[unit, form]:,} positions, "
            "which count as ln(vocabulary)."
            for unit, form in positions.nonzero().tolist()
        )
