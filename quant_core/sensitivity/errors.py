"""The rounding errors dW = dequantize(quantize(W)) - W of units in formats, kept while memory allows."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from quant_core.formats import Format
from quant_core.methods.rounder import Rounder
from quant_core.models.layers import Slot
from quant_core.models.memory import free_memory

_SHARE = 0.25
"""Share of the free memory that kept errors may take."""


class RoundingErrors:
    """dW of each unit in each format, float32 (rows, columns), made when first asked for.

    They are kept for the next batch of tokens as long as they fit into a quarter of the free memory, and made anew
    otherwise, so that a model of any size can be scored. How large each was is remembered in any case.

    Args:
        formats: The formats.
        rounder: Rounds the units.
        once: Whether each is asked for about once: then they are not kept, and are of the model's own dtype.
    """

    def __init__(self, formats: Sequence[Format], rounder: Rounder, once: bool = False) -> None:
        self.formats = tuple(formats)
        self._rounder = rounder
        self._once = once
        self._kept: dict[tuple[str, str], Tensor] = {}
        self._squares: dict[tuple[str, str], Tensor] = {}
        self._room = -1  # not looked up yet

    def of(self, slot: Slot, form: Format) -> Tensor:
        """The error (rows, columns) of one unit in one format."""
        key = (slot.unit.name, form.name)
        if key in self._kept:
            return self._kept[key]
        weight, rounded = slot.matrix(), self._rounder.matrix(slot, form.name, check=not self._once)
        error = rounded - weight if self._once else rounded.float() - weight.float()
        self._squares[key] = torch.linalg.vector_norm(error, dtype=torch.float32).square()
        size = error.numel() * error.element_size()
        if not self._once and size <= self._free(error.device):
            self._room -= size
            self._kept[key] = error
        return error

    def _free(self, device: torch.device) -> int:
        if self._room < 0:
            self._room = int(free_memory(device) * _SHARE)
        return self._room

    def seconds(self, slots: Sequence[Slot]) -> float:
        """About how long rounding the units to all formats takes, from the smallest of them."""
        least = min(slots, key=lambda slot: slot.unit.parameters)
        begun = time.monotonic()
        for form in self.formats:
            if not form.spec.method:
                self.of(least, form)
        every = sum(slot.unit.parameters for slot in slots)
        return (time.monotonic() - begun) * every / least.unit.parameters

    def check(self, slots: Sequence[Slot]) -> None:
        """Raise ``FormatError`` if an error that was made once came out not finite."""
        made = [
            (slot, form)
            for slot in slots
            for form in self.formats
            if (slot.unit.name, form.name) in self._squares
        ]
        if self._once and made:
            squares = torch.stack([self._squares[slot.unit.name, form.name] for slot, form in made])
            for place in (~torch.isfinite(squares)).nonzero().flatten().tolist():
                slot, form = made[place]
                self._rounder.matrix(slot, form.name)

    def forget(self) -> None:
        """Give up what is kept."""
        self._kept.clear()
        self._room = -1

    def fit(self, slots: Sequence[Slot]) -> bool:
        """Whether the errors of these units in all formats can be kept at once."""
        values = sum(slot.unit.parameters for slot in slots) * len(self.formats)
        return not slots or 4 * values <= self._free(slots[0].matrix().device)

    def relative(self, slot: Slot) -> list[float]:
        """|dW|^2 / |W|^2 in each format, without unit; 0 for a weight of zeros."""
        energy = float(slot.matrix().float().square().sum())
        if energy == 0.0:
            return [0.0] * len(self.formats)
        return [self._square(slot, form) / energy for form in self.formats]

    def _square(self, slot: Slot, form: Format) -> float:
        """|dW|^2."""
        key = (slot.unit.name, form.name)
        if key not in self._squares:
            self.of(slot, form)
        return float(self._squares[key])
