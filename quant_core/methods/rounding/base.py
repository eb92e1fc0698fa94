"""What a rounding method is: a weight matrix, a number format, what enters the layer -> grids and codes.

A method chooses a block's grid, or a value's code, by another rule than "cover the range" and "take the nearest". What
it returns is codes of the format like any other, stored in the same bits and read by the same runtimes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from quant_core.calibration.inputs import Inputs
from quant_core.formats import Codes, Format
from quant_core.names import method_options
from quant_core.registry import Registry
from quant_core.schema import ORIGINAL, FamilyInfo, MethodInfo


@dataclass(frozen=True)
class Rounded:
    """A method's answer: codes laid out as ``to_blocks`` lays out the matrix, and what the user should know of it."""

    codes: Codes
    note: str = ""
    """A clause about this unit (``damping was raised to 0.1``); empty if all went as asked."""


class Rounding(ABC):
    """A method with its options fixed."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = options

    @abstractmethod
    def round(self, matrix: Tensor, form: Format, inputs: Inputs | None) -> Rounded:
        """Grids and codes of a float32 ``matrix`` (rows, columns) in ``form``.

        Args:
            matrix: The weight; values that the format keeps in 16 bits are 0 in it.
            form: The number format; its family is one that the method does not refuse.
            inputs: What entered the layer, where the method ``needs`` it: seen by at least one token, and with
                gradients if it needs those.
        """


@dataclass(frozen=True)
class Method:
    """A method in the registry."""

    info: MethodInfo
    build: Callable[[Mapping[str, str]], Rounding]
    refuses: Callable[[FamilyInfo], str]
    """Why it does not work with a family, one sentence; empty if it does."""


METHODS: Registry[Method] = Registry("rounding method")


def register(
    info: MethodInfo,
    build: Callable[[Mapping[str, str]], Rounding],
    refuses: Callable[[FamilyInfo], str] = lambda family: "",
) -> None:
    """Add a method under ``info.name``."""
    METHODS.add(info.name, Method(info, build, refuses))


def infos(families: Mapping[str, FamilyInfo]) -> dict[str, MethodInfo]:
    """What every registered method offers, by name, with the families it works with."""
    found = {}
    for name, method in METHODS.items():
        reasons = {
            family.name: method.refuses(family) for family in families.values() if family.name != ORIGINAL
        }
        takes = tuple(family for family, reason in reasons.items() if not reason)
        refused = {family: reason for family, reason in reasons.items() if reason}
        found[name] = replace(method.info, families=takes, except_for=refused)
    return found


def find(text: str) -> Rounding:
    """The method that ``text`` names, options included (``gptq:order=none``)."""
    method = METHODS[text.split(":", maxsplit=1)[0]]
    return method.build(method_options(text, method.info))
