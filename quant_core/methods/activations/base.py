"""What an activation scheme is: how the inputs of a quantized layer are rounded while the model runs.

Rounding is simulated: inputs are put on the grid and multiplied as floats, which gives what an integer kernel with
exact sums gives, up to the order of additions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from quant_core.calibration.ranges import Magnitudes
from quant_core.models.patch import InputRounding
from quant_core.names import method_options, parse_scheme
from quant_core.registry import Registry
from quant_core.schema import MethodInfo


class Scheme(ABC):
    """A scheme with its options fixed."""

    calibrated = False
    """Whether it learns a range from the calibration text."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = options

    @abstractmethod
    def rounding(self, seen: Magnitudes | None) -> InputRounding:
        """The function for one unit; ``seen`` is how large its inputs are, None unless calibrated and seen at all."""


@dataclass(frozen=True)
class Registered:
    """A scheme in the registry."""

    info: MethodInfo
    build: Callable[[Mapping[str, str]], Scheme]


SCHEMES: Registry[Registered] = Registry("activation scheme")


def register(info: MethodInfo, build: Callable[[Mapping[str, str]], Scheme]) -> None:
    """Add a scheme under ``info.name``."""
    SCHEMES.add(info.name, Registered(info, build))


def infos() -> dict[str, MethodInfo]:
    """What every registered scheme offers, by name."""
    return {name: scheme.info for name, scheme in SCHEMES.items()}


def find(text: str) -> Scheme:
    """The scheme that ``text`` names, options included; ``FormatError`` if there is none."""
    name = parse_scheme(text, infos(), SCHEMES.kind)
    scheme = SCHEMES[name.split(":", maxsplit=1)[0]]
    return scheme.build(method_options(name, scheme.info))
