"""llama.cpp's k-quants: 256 values of a row in parts of 16 or 32, whose steps are themselves quantized.

A block stores two numbers in float16, d and, in the second kind, d'; each part has a whole s and s' of few bits:

    Q3_K, Q6_K         w ~ d s (q - 4), d s (q - 32)    parts of 16; s has a sign and 6 or 8 bits
    Q2_K, Q4_K, Q5_K   w ~ d s q - d' s'                parts of 16, 32, 32; s and s' have 4, 6, 6 bits

Each part's step and minimum are searched on their own, then what the parts share; values and their order are ggml's,
to the bit. We then go on where ggml stops: with all codes at hand, every part tries the neighbours of its s and s',
and d and d' are solved for once more; a block keeps what has less error.
Source: ggml, ``ggml-quants.c``; Kawrakow 2023, llama.cpp pull request 1684.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from quant_core.formats import _gguf as gguf
from quant_core.formats.base import Grid, register
from quant_core.schema import FormatSpec

BLOCK = 256
_ROUNDS = 2
"""How often the parts' and the block's numbers are refined in turn."""


class Shape(NamedTuple):
    """What tells one k-quant from another."""

    bits: int
    part: int
    scale_bits: int
    """Bits of a part's s, and of its s' if it has one."""
    with_minimum: bool

    @property
    def lowest(self) -> int:
        """What a part's smallest s is."""
        return 0 if self.with_minimum else -(1 << (self.scale_bits - 1))

    @property
    def highest(self) -> int:
        """What a part's largest s is."""
        return self.lowest + (1 << self.scale_bits) - 1


SHAPES = {
    "q2_k": Shape(2, 16, 4, True),
    "q3_k": Shape(3, 16, 6, False),
    "q4_k": Shape(4, 32, 6, True),
    "q5_k": Shape(5, 32, 6, True),
    "q6_k": Shape(6, 16, 8, False),
}


class KQuant(gguf.UniformFormat):
    """A k-quant: ``scales`` holds d, ``extras`` d' as ``minimum`` and the parts' s and s'."""

    def __init__(self, spec: FormatSpec) -> None:
        self.shape = SHAPES[spec.family]
        low = 0 if self.shape.with_minimum else -(2 ** (self.shape.bits - 1))
        super().__init__(spec, self.shape.bits, low, self.shape.part)

    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """The numbers of each block: d and d' as float16 (blocks, 1), s and s' as int8 (blocks, parts)."""
        return gguf.fit_at_once(self._fit, blocks, importance)

    def steps(self, grid: Grid) -> Tensor:
        """``d s``, (blocks, parts)."""
        return grid.scales.float() * grid.extras["part_scales"].float()

    def minima(self, grid: Grid) -> Tensor | None:
        """``d' s'``, (blocks, parts)."""
        if not self.shape.with_minimum:
            return None
        return grid.extras["minimum"].float() * grid.extras["part_minima"].float()

    def _fit(self, blocks: Tensor, importance: Tensor | None) -> Grid:
        shape = self.shape
        weights = gguf.counts(blocks, importance)
        x, w = blocks.reshape(-1, shape.part), weights.reshape(-1, shape.part)
        parts = BLOCK // shape.part
        share = w.sum(dim=1).reshape(-1, parts)
        if shape.with_minimum:
            step, minimum = (found.reshape(-1, parts) for found in gguf.best_line(x, w, self.top))
        else:
            step = gguf.best_step(x, w, self.low, self.low + self.top).reshape(-1, parts)
            minimum = torch.zeros_like(step)
        unit, under = (
            gguf.half(gguf.best_step(values, share, shape.lowest, shape.highest)).float()
            for values in (step, minimum)
        )
        numbers = _Numbers(
            unit, under, *(self._whole(values / each) for values, each in ((step, unit), (minimum, under)))
        )
        refined = self._refine(x.reshape(-1, parts, shape.part), w.reshape(-1, parts, shape.part), numbers)
        extras = {"part_scales": refined.s.to(torch.int8)}
        if shape.with_minimum:
            extras |= {"minimum": refined.under.to(torch.float16), "part_minima": refined.t.to(torch.int8)}
        return Grid(refined.unit.to(torch.float16), None, extras)

    def _whole(self, values: Tensor) -> Tensor:
        """Parts' numbers, in units of their block's, as they are stored; 0 where the unit is 0."""
        return values.nan_to_num(0.0, 0.0, 0.0).round_().clamp_(self.shape.lowest, self.shape.highest)

    # --- what ggml does not do: choose s and s' by the error they leave, and d and d' anew -------------------------

    def _refine(self, x: Tensor, w: Tensor, numbers: _Numbers) -> _Numbers:
        """Numbers that leave no more error in ``x`` (blocks, parts, values), weighted by ``w``."""
        for _ in range(_ROUNDS):
            numbers, error = self._neighbours(x, w, numbers)
            solved = self._solved(x, w, numbers)
            better = self._error(x, w, solved).sum(dim=1, keepdim=True) < error.sum(dim=1, keepdim=True)
            numbers = _Numbers(
                *(torch.where(better, new, old) for new, old in zip(solved, numbers, strict=True))
            )
        return numbers

    def _codes(self, x: Tensor, numbers: _Numbers) -> Tensor:
        """The nearest codes, in steps."""
        moved = x + (numbers.under * numbers.t)[..., None] if self.shape.with_minimum else x
        scaled = moved * gguf.inverse(numbers.unit * numbers.s)[..., None]
        return scaled.round_().clamp_(self.low, self.low + self.top)

    def _error(self, x: Tensor, w: Tensor, numbers: _Numbers) -> Tensor:
        """Weighted squared error of each part, (blocks, parts)."""
        values = self._codes(x, numbers).mul_((numbers.unit * numbers.s)[..., None])
        if self.shape.with_minimum:
            values.sub_((numbers.under * numbers.t)[..., None])
        return values.sub_(x).square_().mul_(w).sum(dim=2)

    def _neighbours(self, x: Tensor, w: Tensor, numbers: _Numbers) -> tuple[_Numbers, Tensor]:
        """The s and s' of each part, each at most 1 from what it was, that leave the least error, and that error."""
        best, least = numbers, self._error(x, w, numbers)
        for more, less in product((-1, 0, 1), (-1, 0, 1) if self.shape.with_minimum else (0,)):
            tried = numbers._replace(s=self._whole(numbers.s + more), t=self._whole(numbers.t + less))
            error = self._error(x, w, tried)
            better = error < least
            least = torch.where(better, error, least)
            best = best._replace(
                s=torch.where(better, tried.s, best.s), t=torch.where(better, tried.t, best.t)
            )
        return best, least

    def _solved(self, x: Tensor, w: Tensor, numbers: _Numbers) -> _Numbers:
        """The d and d' of least squared error a block given codes, s and s': two linear equations."""
        codes = self._codes(x, numbers)
        weighted = codes * w
        s, t = numbers.s, numbers.t
        aa = (s * s * (weighted * codes).sum(dim=2)).sum(dim=1, keepdim=True)
        ax = (s * (weighted * x).sum(dim=2)).sum(dim=1, keepdim=True)
        if not self.shape.with_minimum:
            return numbers._replace(unit=_stored(ax / aa))
        ab = (s * t * weighted.sum(dim=2)).sum(dim=1, keepdim=True)
        bb = (t * t * w.sum(dim=2)).sum(dim=1, keepdim=True)
        bx = (t * (w * x).sum(dim=2)).sum(dim=1, keepdim=True)
        determinant = aa * bb - ab * ab
        return numbers._replace(
            unit=_stored((ax * bb - ab * bx) / determinant).clamp_(min=0.0),
            under=_stored((ab * ax - aa * bx) / determinant).clamp_(min=0.0),
        )

    def pack(self, codes: Tensor, grid: Grid) -> Tensor:
        """The bytes of ggml's ``block_q2_K`` to ``block_q6_K``."""
        family = self.spec.family
        unit, s = gguf.raw(grid.scales), grid.extras["part_scales"]
        if family == "q3_k":
            highs = gguf.planes((codes >> 2).reshape(-1, 1, 8, 32), 1)
            lows = gguf.planes((codes & 3).reshape(-1, 2, 4, 32), 2)
            s = (s + 32).to(torch.uint8)
            parts = (
                gguf.planes((s & 15).reshape(-1, 1, 2, 8), 4),
                gguf.planes((s >> 4).reshape(-1, 1, 4, 4), 2),
            )
            return torch.cat([highs, lows, *parts, unit], dim=1)
        if family == "q6_k":
            lows = gguf.planes((codes & 15).reshape(-1, 2, 2, 64), 4)
            highs = gguf.planes((codes >> 4).reshape(-1, 2, 4, 32), 2)
            return torch.cat([lows, highs, gguf.raw(s), unit], dim=1)
        s, t = s.to(torch.uint8), grid.extras["part_minima"].to(torch.uint8)
        under = gguf.raw(grid.extras["minimum"])
        if family == "q2_k":
            return torch.cat([s | t << 4, gguf.planes(codes.reshape(-1, 2, 4, 32), 2), unit, under], dim=1)
        lows = gguf.planes((codes & 15).reshape(-1, 4, 2, 32), 4)
        fifth = [gguf.planes((codes >> 4).reshape(-1, 1, 8, 32), 1)] if family == "q5_k" else []
        return torch.cat([unit, under, _six_bits(s, t), *fifth, lows], dim=1)


class _Numbers(NamedTuple):
    """A block's numbers in float32, as large as they are stored: d, d' (blocks, 1), s, s' (blocks, parts)."""

    unit: Tensor
    under: Tensor
    s: Tensor
    t: Tensor


def _stored(values: Tensor) -> Tensor:
    """Values rounded to float16."""
    return values.to(torch.float16).float()


def _six_bits(s: Tensor, t: Tensor) -> Tensor:
    """Eight s and eight s' of 6 bits in 12 bytes: the upper bits of the last four of each lie above the first four."""
    first = [each[:, :4] | each[:, 4:] >> 4 << 6 for each in (s, t)]
    return torch.cat([*first, s[:, 4:] & 15 | (t[:, 4:] & 15) << 4], dim=1)


def _register(name: str, shape: Shape, scale_bits: int) -> None:
    minimum = " and minimum" if shape.with_minimum else ""
    numbers = "steps and minima" if shape.with_minimum else "steps"
    register(
        gguf.information(
            name,
            f"{2**shape.bits} evenly spaced values, a {shape.scale_bits}-bit step{minimum} for {shape.part} of a row; "
            f"{numbers} share 16-bit units in blocks of {BLOCK}.",
            shape.bits,
            scale_bits,
            BLOCK,
        ),
        KQuant,
    )


for _name, _shape in SHAPES.items():
    _numbers = 2 if _shape.with_minimum else 1
    _register(_name, _shape, _numbers * (16 + BLOCK // _shape.part * _shape.scale_bits))
