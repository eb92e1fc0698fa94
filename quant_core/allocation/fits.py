"""Which machines a model fits on: weights, KV cache and activations against what a runtime can use of the memory.

What a runtime can use is an assumption, and stated wherever its result is shown:

- of a GPU, 90 %: vLLM's default for ``gpu_memory_utilization``; drivers, kernels and fragmentation take the rest.
- of an Apple machine, two thirds up to 36 GB and three quarters beyond: what Metal recommends as the most that the
  GPU should hold (``recommendedMaxWorkingSetSize``, 10.9 of 16 GB and 48 of 64 GB), since the system shares it.
- of a CPU's, 80 %: the system and other programs take the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from quant_core.allocation.usage import activation_bytes, cache_bytes
from quant_core.schema import ModelInfo, Use
from quant_core.targets.hardware import Hardware

GPU, CPU = 0.9, 0.8
APPLE_SMALL, APPLE = 2 / 3, 3 / 4
SMALL = 36.0
"""GB up to which an Apple machine counts as small."""


@dataclass(frozen=True)
class Fit:
    """How a model lies in one machine's memory at each precision."""

    machine: Hardware
    usable: float
    """Bytes that a runtime can use."""
    needed: Mapping[str, float]
    """Bytes in use, by the precision's name."""

    def left(self, precision: str) -> float:
        """Share of the usable memory that remains; below 0 where the model does not fit."""
        return 1.0 - self.needed[precision] / self.usable


def usable_share(machine: Hardware) -> float:
    """The share of its memory that a runtime can use."""
    if machine.kind == "Apple":
        return APPLE_SMALL if machine.memory <= SMALL else APPLE
    return GPU if machine.kind == "GPU" else CPU


def fits(
    info: ModelInfo, weights: Mapping[str, float], use: Use, machines: Iterable[Hardware]
) -> tuple[Fit, ...]:
    """Lay a model into each machine's memory.

    Args:
        info: The model.
        weights: Bytes of all its weights, by the precision's name.
        use: Context, sequences and the bits of a cached value.
        machines: Where it is to run.
    """
    beside = cache_bytes(info, use) + activation_bytes(info, use)
    needed = {name: size + beside for name, size in weights.items()}
    return tuple(Fit(each, usable_share(each) * each.memory * 1e9, needed) for each in machines)
