"""A linear layer in integers alone, as a chip without floating point computes it.

Jacob et al. 2018 (arXiv:1712.05877), section 2.2. With codes q, scales s and zero points z of the input x, the weight
w and the output y, one output is (equations 4 to 8)

    y_q = z_y + M sum_k (w_k - z_w) (x_k - z_x),     M = s_w s_x / s_y,

where the sum is taken of bare codes in 32 bits, and the zero points come in by sums that are known beforehand or cost
one addition a token:   sum w x  -  z_w sum x  -  z_x sum w  +  n z_w z_x.

M is held as M = 2^-shift M0 with M0 in [1/2, 1) as a 32-bit integer, M0 2^31. Multiplying by it is gemmlowp's two
steps: the high half of twice the 64-bit product, rounded to nearest with ties upwards, then a right shift, rounded to
nearest with ties away from zero. (For M >= 1 the sum is first shifted left, and saturates.) Rounding twice may differ
from rounding sum * M once: by one code, at most, see ``IntegerLinear.rounded``.

``IntegerLinear.simulate`` is the same layer as a simulator sees it, zero points taken off first and everything in
float64; both give the same codes, always.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quant_core.errors import FormatError
from quant_core.formats import find, to_blocks

_TOP = 2**31 - 1
_HALF = 2**30


@dataclass(frozen=True)
class Affine:
    """How 8-bit codes stand for numbers: ``scale * (code - zero_point)``; ``dtype`` is torch.int8 or torch.uint8."""

    scale: float
    zero_point: int
    dtype: torch.dtype = torch.int8

    def __post_init__(self) -> None:
        if self.dtype not in (torch.int8, torch.uint8) or not 0 < self.scale < float("inf"):
            raise FormatError("Codes have 8 bits and a positive scale.", "Use torch.int8 or torch.uint8.")
        if not self.low <= self.zero_point <= self.high:
            raise FormatError(f"{self.zero_point} is no code.", f"Codes go from {self.low} to {self.high}.")

    @property
    def low(self) -> int:
        """The lowest code."""
        return int(torch.iinfo(self.dtype).min)

    @property
    def high(self) -> int:
        """The highest code."""
        return int(torch.iinfo(self.dtype).max)

    def encode(self, values: Tensor) -> Tensor:
        """The nearest codes, halves to even."""
        return self.clamp((values.double() / self.scale).round() + self.zero_point)

    def decode(self, codes: Tensor) -> Tensor:
        """What codes stand for, in float64."""
        return self.scale * (codes.double() - self.zero_point)

    def clamp(self, codes: Tensor) -> Tensor:
        """Whole numbers as codes, those out of range as the nearest end."""
        return codes.clamp(self.low, self.high).to(self.dtype)


def fixed_point(multipliers: Tensor) -> tuple[Tensor, Tensor]:
    """Positive float64 ``multipliers`` as M0 2^31 and shift, both int64, with M = 2^-shift M0.

    M0 2^31 is in [2^30, 2^31), or 0 with a multiplier below 2^-32, under which everything is rounded to 0; shift is
    negative where M >= 1. ``FormatError`` for multipliers from 2^31 on.
    """
    fraction, exponent = torch.frexp(multipliers)
    mantissa = (fraction * 2.0**31 + 0.5).floor().long()
    carried = mantissa > _TOP
    mantissa = torch.where(carried, _HALF, mantissa)
    shift = -(exponent.long() + carried)
    if bool((shift < -31).any()):
        raise FormatError(
            "The output's scale is too small for these inputs.", "Give the output a wider range."
        )
    tiny = shift > 31
    return mantissa.masked_fill(tiny, 0), shift.masked_fill(tiny, 0)


def multiply(sums: Tensor, mantissa: Tensor, shift: Tensor) -> Tensor:
    """Sums (int64, within 32 bits) times M0 2^-shift, to int64, rounded twice as gemmlowp does."""
    shifted = (sums << (-shift).clamp(min=0)).clamp(-_TOP - 1, _TOP)
    high = (shifted * mantissa + _HALF) >> 31
    right = shift.clamp(min=0)
    rest = high & ((1 << right) - 1)
    threshold = (((1 << right) - 1) >> 1) + (high < 0)
    return (high >> right) + (rest > threshold)


def dot(x: Tensor, weight: Tensor) -> Tensor:
    """Exact sums of products of int8 codes x (tokens, columns) and weight (rows, columns): (tokens, rows) int32.

    On CUDA in the 8-bit matrix units, filled up to the sizes they take.
    """
    if x.device.type != "cuda":
        return x.int() @ weight.int().T
    tokens, rows = len(x), len(weight)
    x = torch.nn.functional.pad(x, (0, -x.shape[1] % 16, 0, max(-tokens % 16, 32 - tokens)))
    weight = torch.nn.functional.pad(weight, (0, -weight.shape[1] % 16, 0, -rows % 16))
    return torch._int_mm(x, weight.T)[:tokens, :rows]


@dataclass(frozen=True)
class IntegerLinear:
    """y = W x + b in codes; made by ``integer_linear``."""

    weight: Tensor
    """Codes (rows, columns) int8."""
    weight_zero: Tensor
    """Zero point of each row's codes, (rows,) int64."""
    bias: Tensor
    """In units of weight scale times input scale, (rows,) int64 within 32 bits."""
    multipliers: Tensor
    """M of each row, (rows,) float64."""
    inputs: Affine
    outputs: Affine

    def __post_init__(self) -> None:
        codes = self.weight.long()
        reach = max(
            self.inputs.zero_point - self.inputs.low,
            self.inputs.high - self.inputs.zero_point,
        )
        result = (codes - self.weight_zero[:, None]).abs().sum(dim=1) * reach + self.bias.abs()
        bare = codes.abs().sum(dim=1) * 128
        if int(torch.maximum(result, bare).max()) > _TOP:
            raise FormatError(
                f"A sum over {self.weight.shape[1]:,} inputs may not fit into 32 bits.",
                "Keep this layer in floating point, or give its bias less weight.",
            )

    def forward(self, codes: Tensor) -> Tensor:
        """Output codes (tokens, rows) for input codes (tokens, columns), with integers only."""
        mantissa, shift = fixed_point(self.multipliers)
        return self.outputs.clamp(multiply(self.sums(codes), mantissa, shift) + self.outputs.zero_point)

    def sums(self, codes: Tensor) -> Tensor:
        """Sums of products without zero points, and the bias: (tokens, rows) int64, within 32 bits."""
        offset = 128 if self.inputs.dtype == torch.uint8 else 0
        x = (codes.short() - offset).to(torch.int8)
        zero = self.inputs.zero_point - offset
        by_token = x.sum(dim=1, dtype=torch.int64)[:, None]
        by_row = self.weight.sum(dim=1, dtype=torch.int64)
        constant = self.bias + zero * (self.weight.shape[1] * self.weight_zero - by_row)
        return dot(x, self.weight).long() - self.weight_zero * by_token + constant

    def simulate(self, codes: Tensor) -> Tensor:
        """The output codes by simulation in float64, which is exact here: products of M0 are taken in two halves."""
        sums = self._float_sums(codes)
        mantissa, shift = (part.double() for part in fixed_point(self.multipliers))
        sums = (sums * torch.exp2(-shift).clamp(min=1.0)).clamp(-(2.0**31), 2.0**31 - 1)
        upper, lower = (mantissa / 2**16).floor(), mantissa.remainder(2**16)
        whole, rest = (sums * upper / 2**15).floor(), (sums * upper).remainder(2**15)
        high = whole + ((rest * 2**16 + sums * lower) / 2**31 + 0.5).floor()
        scaled = high * torch.exp2(-shift).clamp(max=1.0)
        return self.outputs.clamp(scaled.sign() * (scaled.abs() + 0.5).floor() + self.outputs.zero_point)

    def rounded(self, codes: Tensor) -> Tensor:
        """The output codes with M as a float and one rounding, halves to even.

        ``forward`` is within one code of it. Among results that do not saturate, the first of its two steps is off by
        at most 1/4 of a code (1/2 before a right shift of at least one bit, or it is the only step), M0 by 2^-31 of
        the result, the last step by 1/2, and the one rounding here by 1/2: less than two codes in all, and both are
        whole.
        """
        return self.outputs.clamp(
            (self._float_sums(codes) * self.multipliers).round() + self.outputs.zero_point
        )

    def _float_sums(self, codes: Tensor) -> Tensor:
        x = codes.double() - self.inputs.zero_point
        weight = self.weight.double() - self.weight_zero[:, None]
        return x @ weight.T + self.bias


def integer_linear(
    weight: Tensor, bias: Tensor | None, inputs: Affine, outputs: Affine, *, symmetric: bool = True
) -> IntegerLinear:
    """A layer with ``weight`` (rows, columns) rounded to INT8 a channel, and ``bias`` (rows,) to 32-bit integers.

    Args:
        weight: Floats.
        bias: Floats; None for none.
        inputs: What the input codes mean.
        outputs: What the output codes shall mean.
        symmetric: Whether weights go without zero points.

    Raises:
        FormatError: The weight is not finite, or its sums may not fit into 32 bits.
    """
    form = find(f"int8/channel/{'sym' if symmetric else 'asym'}")
    codes = form.quantize(to_blocks(weight, form))
    scales = codes.grid.scales[:, 0].double() * inputs.scale
    zero = codes.grid.zero_points
    known = torch.zeros_like(scales) if bias is None else bias.double() / scales
    return IntegerLinear(
        weight=codes.values,
        weight_zero=torch.zeros_like(scales).long() if zero is None else zero[:, 0].long(),
        bias=known.round().clamp(-(2.0**32), 2.0**32).long(),
        multipliers=scales / outputs.scale,
        inputs=inputs,
        outputs=outputs,
    )
