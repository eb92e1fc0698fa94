"""What several families share: small floats, float16 scales, and parts of a weight that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from quant_core.errors import FormatError

_LARGEST_HALF = torch.finfo(torch.float16).max
_SMALLEST_HALF = 2.0**-24
_PART = 2**22
"""Values that a fit sorts and sums at once."""


@dataclass(frozen=True)
class Minifloat:
    """A float of a sign, ``exponent`` and ``mantissa`` bits, with subnormals and without infinities or NaN.

    Its codes are its bits, in uint8: the sign above the exponent above the mantissa, so that the codes of positive
    numbers ascend with them. The bias is ``2^(exponent - 1) - 1``, as in the OCP Microscaling specification v1.0,
    section 5.3.
    """

    exponent: int
    mantissa: int

    @property
    def bits(self) -> int:
        """Bits a number takes, sign included."""
        return 1 + self.exponent + self.mantissa

    @property
    def emax(self) -> int:
        """Exponent of the largest power of two among the numbers."""
        return 1 << (self.exponent - 1)

    def magnitudes(self, device: torch.device) -> Tensor:
        """The ``2^(exponent + mantissa)`` numbers that are not negative, ascending, float32."""
        index = torch.arange(2 ** (self.exponent + self.mantissa), device=device)
        power, fraction = index >> self.mantissa, index & (2**self.mantissa - 1)
        normal = (power > 0).float()
        bias = 2 ** (self.exponent - 1) - 1
        return torch.ldexp(normal + fraction / 2**self.mantissa, power.clamp(min=1) - bias)

    def numbers(self, device: torch.device) -> Tensor:
        """All numbers, ascending, 0 once, float32."""
        magnitudes = self.magnitudes(device)
        return torch.cat([-magnitudes[1:].flip(0), magnitudes])

    def encode(self, values: Tensor) -> Tensor:
        """Codes of float32 ``values``: the nearest number, ties to the even code; beyond the largest, the largest."""
        magnitudes = self.magnitudes(values.device)
        borders = (magnitudes[1:] + magnitudes[:-1]) / 2
        # A border belongs to the code below it. Where that is odd, a tie is to go up: the border moves down a hair.
        borders[1::2] = torch.nextafter(borders[1::2], borders.new_zeros(()))
        code = torch.bucketize(values.abs(), borders, out_int32=True)
        return (code + torch.signbit(values).int() * len(magnitudes)).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """Float32 numbers of ``codes``."""
        magnitudes = self.magnitudes(codes.device)
        return torch.cat([magnitudes, -magnitudes])[codes.int()]


def divided(values: Tensor, number: float) -> Tensor:
    """Float32 ``values / number`` to the same bits on every device, compiled or not.

    PyTorch multiplies by the reciprocal of a plain number on a GPU, which can round the other way; it divides tensors.
    """
    return values / torch.full_like(values, number)


def half_scales(scales: Tensor, blocks: Tensor) -> Tensor:
    """``scales`` as float16, none of them 0; ``FormatError`` if float16 ends below what ``blocks`` need."""
    check_half(scales, blocks)
    return scales.clamp(min=_SMALLEST_HALF).to(torch.float16)


def check_half(scales: Tensor, blocks: Tensor) -> None:
    """Raise ``FormatError`` if one of ``scales`` (or table entries) of ``blocks`` is too large for float16.

    A compiled kernel cannot raise: it leaves infinite scales, for its caller to see.
    """
    if not torch.compiler.is_compiling() and float(scales.abs().max()) > _LARGEST_HALF:
        raise FormatError(
            f"The weight reaches {float(blocks.abs().max()):.3g}, beyond what a float16 scale can hold.",
            "Keep this weight in its original format.",
        )


def parts(blocks: Tensor, importance: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole blocks, a few at a time, (some blocks, block size), and how much each value counts, shaped alike.

    All values count the same without ``importance``, and in a block whose importance is 0 throughout.
    """
    rows = max(1, _PART // blocks.shape[1])
    for start in range(0, len(blocks), rows):
        values = blocks[start : start + rows]
        if importance is None:
            yield values, torch.ones_like(values)
        else:
            counts = importance[start : start + rows]
            yield values, torch.where(counts.amax(dim=1, keepdim=True) > 0, counts, 1.0)


def wide(device: torch.device) -> torch.dtype:
    """The dtype to sum many values in: float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64
