"""What the lesson on numbers shows: a number in every type, its bits, and what the types can hold."""

from __future__ import annotations

from typing import NamedTuple

from quant_core import plots
from quant_core.number_types import FLOATS, FloatType
from quant_core.schema import FormatView
from ui import state, words

LARGEST = 1e9
NUMBER = state.number_param("number", "the number", 0.1, -LARGEST, LARGEST)
TYPES = {each.name: each for each in FLOATS}


class Held(NamedTuple):
    """A number as a type holds it."""

    row: plots.BitRow
    value: float
    low: float
    high: float
    least: float
    """The smallest above 0."""
    step: float
    """Near 1; of integers everywhere."""


def as_float(kind: FloatType, number: float) -> Held:
    """A number in a floating-point type."""
    code = kind.code(number)
    value = kind.value(code)
    parts = (("sign", 1), ("exponent", kind.exponent), ("mantissa", kind.mantissa))
    row = plots.BitRow(kind.name, f"{code:0{kind.bits}b}", parts, _text(value))
    return Held(row, value, -kind.largest, kind.largest, kind.smallest, kind.step)


def as_integer(view: FormatView, name: str, number: float) -> Held:
    """A number on the grid of a whole layer, whose values are those of all codes in ascending order."""
    place = min(range(len(view.grid)), key=lambda at: abs(view.grid[at] - number))
    bits = (len(view.grid) - 1).bit_length()
    code = (place - len(view.grid) // 2) % len(view.grid)
    row = plots.BitRow(name, f"{code:0{bits}b}", (("integer", bits),), _text(view.grid[place]))
    step = (view.grid[-1] - view.grid[0]) / (len(view.grid) - 1)
    return Held(row, view.grid[place], view.grid[0], view.grid[-1], step, step)


def table(held: list[Held], number: float) -> dict[str, list[str]]:
    """What each type can hold, and how it holds a number."""
    return {
        "Type": [each.row.name for each in held],
        "Bits": [str(len(each.row.bits)) for each in held],
        "Nearest": [each.row.value for each in held],
        "Off by": [words.significant(abs(each.value - number), 2) for each in held],
        "From": [words.significant(each.low).replace("-", "−", 1) for each in held],
        "To": [words.significant(each.high) for each in held],
        "Least above 0": [words.significant(each.least) for each in held],
        "Step near 1": [words.significant(each.step) for each in held],
    }


def _text(value: float) -> str:
    return f"{value:.7g}".replace("-", "−", 1) if value < 0 else f"{value:.7g}"
