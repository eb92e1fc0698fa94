"""What llama.cpp's number formats share: evenly spaced values in parts of a block, and how their scales are searched.

A block of a row holds one or more parts; value ``i`` of part ``p`` is ``step[p] * (code[i] - zero) - minimum[p]``, with
steps and minima that are themselves stored in few bits. Blocks that do not fill a row up are padded with zeros and paid
for; llama.cpp takes another type for such a weight instead (``quant_core.recipes.gguf_mixes`` does too).

Steps are searched, as in ggml, by rounding every part with a number of candidates and solving for the step (and the
minimum) of least squared error given the codes. Where we go further: the largest magnitude may become the highest code
as well as the lowest, and codes are twice taken anew from the best step.

Where we differ: errors count alike, or by the importance alone. ggml lets errors of large weights count more, by
``|w|`` (Q2_K), ``rms + |w|`` (Q4_K, Q5_K) or ``w^2`` (Q3_K, Q6_K, IQ4_NL), and with an importance matrix by
``importance * sqrt(mean(w^2) + w^2)``. For no type did that make the bundled model's divergence smaller
(``benchmarks/gguf.py``).
Source: ggml, ``ggml-quants.c`` (``make_qx_quants``, ``make_qkx3_quants``); least squares given the codes is the
alternation of Lloyd 1982, "Least squares quantization in PCM".
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from quant_core.errors import FormatError
from quant_core.formats.base import Format, Grid
from quant_core.schema import FamilyInfo, FormatSpec

AT_ONCE = 2**20
"""Values searched at a time: a few megabytes stay in a processor's cache, and a GPU is busy."""
NUDGES = tuple(step / 10 for step in range(-9, 10))
"""How far beside its end the extreme value of a part may lie, in codes."""
SOURCE = "llama.cpp, ggml/src/ggml-quants.c"


class GgufFormat(Format):
    """A number format of llama.cpp, which knows the bytes it is stored in."""

    @abstractmethod
    def pack(self, codes: Tensor, grid: Grid) -> Tensor:
        """The bytes that ggml keeps ``codes`` (blocks, block size) and their grids in, uint8 (blocks, bytes)."""


class UniformFormat(GgufFormat):
    """Evenly spaced values: codes from ``low`` to ``low + 2^bits - 1``, stored from 0 on.

    Args:
        spec: The format.
        bits: Bits a code.
        low: What code 0 stands for, in steps.
        part: How many values share a step.
    """

    def __init__(self, spec: FormatSpec, bits: int, low: int, part: int) -> None:
        super().__init__(spec)
        self.low, self.top, self.part = low, 2**bits - 1, part

    @abstractmethod
    def steps(self, grid: Grid) -> Tensor:
        """The step of each part, float32 (blocks, parts); it may be 0 or negative."""

    @abstractmethod
    def minima(self, grid: Grid) -> Tensor | None:
        """What is taken off in each part, float32 (blocks, parts); None for nothing."""

    def encode(self, values: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """Codes as uint8, halves to even; where the step is 0, whatever stands for 0 steps."""
        step = self._spread(self.steps(grid), start, values.shape[1])
        minimum = self.minima(grid)
        if minimum is not None:
            values = values + self._spread(minimum, start, values.shape[1])
        scaled = torch.where(step == 0, 0.0, values / step).round_()
        return scaled.sub_(self.low).clamp_(0, self.top).to(torch.uint8)

    def decode(self, codes: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """``step * code - minimum`` in float32, in the order in which ggml computes it."""
        values = codes.float().add_(self.low).mul_(self._spread(self.steps(grid), start, codes.shape[1]))
        minimum = self.minima(grid)
        return values if minimum is None else values.sub_(self._spread(minimum, start, codes.shape[1]))

    def levels(self, grid: Grid, position: int = 0) -> Tensor:
        """The values of the part that ``position`` lies in."""
        place = position // self.part
        values = torch.arange(self.low, self.low + self.top + 1, device=grid.scales.device)
        values = values.float() * self.steps(grid)[0, place]
        minimum = self.minima(grid)
        found: Tensor = torch.unique(values if minimum is None else values - minimum[0, place])
        return found

    def step(self, grid: Grid) -> Tensor:
        """The step of each part at each of its values, (blocks, block size), or (blocks, 1) for one part."""
        steps = self.steps(grid).abs()
        return steps if steps.shape[1] == 1 else steps.repeat_interleave(self.part, dim=1)

    def _spread(self, values: Tensor, start: int, width: int) -> Tensor:
        """Values a part (blocks, parts) at the places from ``start`` on, (blocks, width) or (blocks, 1)."""
        if values.shape[1] == 1:
            return values
        places = torch.arange(start, start + width, device=values.device)
        return values[:, places // self.part]


def information(
    name: str,
    help: str,
    bits: int,
    scale_bits: int,
    block: int,
    *,
    uniform: bool = True,
    weighted: bool = True,
) -> FamilyInfo:
    """What a family of llama.cpp's offers; ``scale_bits`` is everything that is stored a block beside its codes."""
    return FamilyInfo(
        name=name,
        title=name.upper(),
        help=help,
        source=SOURCE,
        granularities=("none",),
        group_sizes=(),
        symmetries=(),
        default="",
        value_bits=bits,
        scale_bits=scale_bits,
        kind="GGUF",
        block=block,
        uniform=uniform,
        weighted=weighted,
        details={"ggml_type": name.upper()},
    )


def fit_at_once(
    fit: Callable[[Tensor, Tensor | None], Grid], blocks: Tensor, importance: Tensor | None
) -> Grid:
    """The grids that ``fit`` finds for ``blocks`` and their ``importance``, some of the blocks at a time."""
    count = max(1, AT_ONCE // blocks.shape[1])
    if len(blocks) <= count:
        return fit(blocks, importance)
    shares = [None] * -(-len(blocks) // count) if importance is None else importance.split(count)
    grids = [fit(some, share) for some, share in zip(blocks.split(count), shares, strict=True)]
    extras = {name: torch.cat([grid.extras[name] for grid in grids]) for name in grids[0].extras}
    return Grid(torch.cat([grid.scales for grid in grids]), None, extras)


def counts(blocks: Tensor, importance: Tensor | None) -> Tensor:
    """How much each squared error counts: 1, or ``importance`` so that it averages 1 a block and none is quite 0."""
    if importance is None:
        return torch.ones_like(blocks)
    mean = importance.mean(dim=1, keepdim=True)
    return torch.where(mean > 0, importance / mean, 1.0).add_(1e-6)


def half(values: Tensor) -> Tensor:
    """Scales in the float16 they are stored in; ``FormatError`` for one beyond it."""
    stored = values.to(torch.float16)
    if not bool(torch.isfinite(stored).all()):
        raise FormatError(
            f"The weight needs a scale of {float(values.abs().max()):.3g}, beyond what a float16 scale can hold.",
            "Keep this weight in its original format.",
        )
    return stored


def inverse(values: Tensor) -> Tensor:
    """``1 / values``, and 0 where they are 0."""
    return torch.where(values == 0, 0.0, 1.0 / values)


def best_step(x: Tensor, weights: Tensor, low: int, high: int) -> Tensor:
    """The step d of least error ``sum weights (x - d q)^2`` a row, with whole q from ``low`` to ``high``.

    Given the codes, ``d = sum w x q / sum w q^2``, which explains ``d sum w x q`` of the ``sum w x^2`` there is.

    Args:
        x: Values, (rows, n).
        weights: Of their squared errors, (rows, n).
        low: Lowest code, 0 for values that are not negative.
        high: Highest code.

    Returns:
        Steps (rows, 1), negative where the value of largest magnitude does better as ``low`` than as ``high``; 0 for
        a row of zeros.
    """
    extreme = x.gather(1, x.abs().argmax(dim=1, keepdim=True))
    best = step = torch.zeros_like(extreme)

    def attempt(scale: Tensor) -> None:
        nonlocal best, step
        codes = (x * scale).round_().clamp_(low, high)
        weighted = codes * weights
        product = (weighted * x).sum(dim=1, keepdim=True)
        solved = product / (weighted * codes).sum(dim=1, keepdim=True)
        better = solved * product > best  # False if nothing was explained and both are undefined
        best = torch.where(better, solved * product, best)
        step = torch.where(better, solved, step)

    for end in (low, high) if low else (high,):
        for nudge in NUDGES:
            attempt((end + nudge) / extreme)
    for _ in range(2):
        attempt(inverse(step))
    return step


def best_line(x: Tensor, weights: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The step d and minimum m, neither negative, of least error ``sum weights (x - d q + m)^2`` a row, q to ``top``.

    Given the codes, both solve a linear system of two equations; if that makes m negative, it is 0 and d as in
    ``best_step``.

    Args:
        x: Values, (rows, n).
        weights: Of their squared errors, (rows, n).
        top: Highest code; the lowest is 0.

    Returns:
        d and m, (rows, 1) each. A row of one negative value has d = 0.
    """
    lowest = x.amin(dim=1, keepdim=True).clamp(max=0.0)
    span = x.amax(dim=1, keepdim=True) - lowest
    w = weights.sum(dim=1, keepdim=True)
    weighted_x = weights * x
    wx = weighted_x.sum(dim=1, keepdim=True)
    best = torch.full_like(span, -torch.inf)
    step, minimum = torch.zeros_like(span), -lowest

    def attempt(scale: Tensor, offset: Tensor) -> None:
        nonlocal best, step, minimum
        codes = ((x + offset) * scale).round_().clamp_(0, top)
        weighted = codes * weights
        wq = weighted.sum(dim=1, keepdim=True)
        wqq = weighted.mul_(codes).sum(dim=1, keepdim=True)
        wqx = codes.mul_(weighted_x).sum(dim=1, keepdim=True)
        determinant = w * wqq - wq * wq
        solved = (w * wqx - wx * wq) / determinant
        taken = (wq * wqx - wqq * wx) / determinant
        inside = taken >= 0
        solved = torch.where(inside, solved, wqx / wqq)
        taken = taken.clamp(min=0.0)
        explained = solved * wqx - taken * wx
        better = (explained > best) & (determinant > 0)
        best = torch.where(better, explained, best)
        step = torch.where(better, solved, step)
        minimum = torch.where(better, taken, minimum)

    for nudge in NUDGES:
        attempt((top + nudge) / span, -lowest)
    for _ in range(2):
        attempt(inverse(step), minimum)
    return step, minimum


def planes(codes: Tensor, bits: int) -> Tensor:
    """Bytes that hold several codes: of uint8 (blocks, groups, k, n), k codes of ``bits`` bits share one, first lowest.

    Returns:
        uint8 (blocks, groups * n).
    """
    shifts = torch.arange(0, bits * codes.shape[2], bits, dtype=torch.uint8, device=codes.device)
    shifted = codes.bitwise_left_shift(shifts[None, None, :, None])
    return shifted.sum(dim=2, dtype=torch.uint8).flatten(1)


def raw(values: Tensor) -> Tensor:
    """The bytes of float16 or int8 values (blocks, n), uint8 (blocks, bytes), little-endian."""
    return values.contiguous().view(torch.uint8)
