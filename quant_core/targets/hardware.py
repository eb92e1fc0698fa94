"""Machines that models run on: memory bandwidth, 16-bit arithmetic, memory, and which formats have a kernel there.

``hardware.json`` holds the figures with their sources: vendors' data sheets, and where those name no figure the
arithmetic behind it. Bandwidth is in GB/s (10^9), arithmetic in dense 16-bit TFLOP/s, memory in GB.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from quant_core.errors import BudgetError
from quant_core.registry import unknown_name
from quant_core.schema import ORIGINAL

FILE = Path(__file__).with_name("hardware.json")


@dataclass(frozen=True)
class Hardware:
    """A machine as the roofline model sees it."""

    name: str
    title: str
    kind: str
    """``GPU``, ``Apple`` or ``CPU``."""
    bandwidth: float
    """GB/s between memory and processor."""
    teraflops: float
    """Dense 16-bit TFLOP/s."""
    memory: float
    """GB."""
    families: frozenset[str]
    """Families of formats whose weights are multiplied as they are stored; others are dequantized to 16 bits first."""
    source: str

    def has_kernel(self, family: str) -> bool:
        """Whether weights of a family are read once and multiplied as they are."""
        return family == ORIGINAL or family in self.families


@cache
def machines() -> Mapping[str, Hardware]:
    """All machines by name, in the order of the file."""
    data = json.loads(FILE.read_text(encoding="utf-8"))
    found = {}
    for entry in data["machines"]:
        families = data["kernels"][entry.pop("kernels")]["families"]
        found[entry["name"]] = Hardware(**entry, families=frozenset(families))
    return found


def machine(name: str) -> Hardware:
    """The machine of a name; ``BudgetError`` with the nearest known name if there is none."""
    known = machines()
    if name not in known:
        error = unknown_name("hardware profile", name, dict(known))
        raise BudgetError(error.message, error.hint)
    return known[name]
