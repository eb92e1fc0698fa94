"""The bits of floating-point numbers: what a code stands for, and the nearest number a type holds.

A float of ``e`` exponent and ``m`` mantissa bits stands for ``(-1)^s * 2^(E - bias) * (1 + M / 2^m)``, and where its
exponent field E is 0 for ``(-1)^s * 2^(1 - bias) * M / 2^m``, with ``bias = 2^(e - 1) - 1`` (IEEE 754-2019, section
3.4). The largest exponent field is left to infinity and NaN, but in E4M3, where only the code of all ones is NaN
(Micikevicius et al. 2022, arXiv:2209.05433, table 1). Python's floats, with 52 mantissa bits, hold all of them exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class FloatType:
    """A type of floating-point numbers by its bits."""

    name: str
    exponent: int
    mantissa: int
    infinite: bool = True
    """Whether the largest exponent field is left to infinity and NaN, as in IEEE 754; E4M3 uses it."""

    @property
    def bits(self) -> int:
        """In all, the sign included."""
        return 1 + self.exponent + self.mantissa

    @property
    def bias(self) -> int:
        """What is subtracted from the exponent field."""
        return int(2 ** (self.exponent - 1)) - 1

    @property
    def largest(self) -> float:
        """The largest finite number."""
        code = (2**self.exponent - 1) << self.mantissa
        return self.value(code - 1 if self.infinite else code + 2**self.mantissa - 2)

    @property
    def smallest(self) -> float:
        """The smallest number above 0, which is subnormal."""
        return self.value(1)

    @property
    def step(self) -> float:
        """The distance from 1 to the next larger number."""
        return math.ldexp(1.0, -self.mantissa)

    def value(self, code: int) -> float:
        """What a finite code, the sign bit first, stands for."""
        field = code >> self.mantissa & 2**self.exponent - 1
        part = code & 2**self.mantissa - 1
        whole = part + 2**self.mantissa if field else part
        size = math.ldexp(whole, max(field, 1) - self.bias - self.mantissa)
        return -size if code >> self.bits - 1 else size

    def code(self, number: float) -> int:
        """The code of the nearest number, halves to even; beyond the range that of the largest, infinity included.

        Raises:
            ValueError: ``number`` is not a number.
        """
        if math.isnan(number):
            raise ValueError("NaN is near no number")
        size = min(abs(number), self.largest)
        least = 1 - self.bias
        exponent = max(math.frexp(size)[1] - 1, least) if size else least
        whole = round(math.ldexp(size, self.mantissa - exponent))  # 2^(m + 1) carries into the exponent field
        code = whole + ((exponent + self.bias - 1) << self.mantissa)
        return code | (math.copysign(1.0, number) < 0) << self.bits - 1


FLOATS = (
    FloatType("FP32", 8, 23),
    FloatType("BF16", 8, 7),
    FloatType("FP16", 5, 10),
    FloatType("FP8 E4M3", 4, 3, infinite=False),
    FloatType("FP8 E5M2", 5, 2),
)
