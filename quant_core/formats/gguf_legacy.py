"""llama.cpp's first formats: 32 values of a row share a float16 step, and in the second kind a float16 minimum.

    Q4_0, Q5_0   w ~ d (q - 8), d (q - 16)     d = m / -8, m / -16, m the value of largest magnitude
    Q8_0         w ~ d q                       d = max|w| / 127
    Q4_1, Q5_1   w ~ d q + m                   m = min, d = (max - min) / 15, / 31

Step and minimum are those of ggml's reference quantizers to the bit, halves round up as there, and Q8_0's away from
zero. Codes are the nearest to the *stored* step, where ggml divides by the step before it is rounded to float16: they
are ggml's where the step is exact, as it is for Q4_0 and Q5_0 of bfloat16 weights; else a few differ, for the better.
Given the importance of each value, the step of least weighted error is searched instead, as ``llama-quantize
--imatrix`` does; Q8_0 has no use for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.formats import _gguf as gguf
from quant_core.formats.base import Grid, register
from quant_core.schema import FamilyInfo, FormatSpec

BLOCK = 32


class Legacy(gguf.UniformFormat):
    """Q4_0, Q4_1, Q5_0 and Q5_1."""

    def __init__(self, spec: FormatSpec, bits: int, with_minimum: bool) -> None:
        super().__init__(spec, bits, 0 if with_minimum else -(2 ** (bits - 1)), BLOCK)
        self.bits = bits
        self.with_minimum = with_minimum

    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """Steps as float16 (blocks, 1), and ``minimum`` likewise."""
        return gguf.fit_at_once(self._fit, blocks, importance)

    def _fit(self, blocks: Tensor, importance: Tensor | None) -> Grid:
        weights = None if importance is None else gguf.counts(blocks, importance)
        if not self.with_minimum:
            extreme = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True))
            step = extreme / self.low
            if weights is not None:
                step = gguf.best_step(blocks, weights, self.low, self.low + self.top)
            return Grid(gguf.half(step))
        if weights is None:
            low, high = blocks.amin(dim=1, keepdim=True), blocks.amax(dim=1, keepdim=True)
            step = (high - low) / self.top
        else:
            step, taken = gguf.best_line(blocks, weights, self.top)
            low = -taken
        return Grid(gguf.half(step), extras={"minimum": gguf.half(low)})

    def steps(self, grid: Grid) -> Tensor:
        """The step, (blocks, 1)."""
        return grid.scales.float()

    def minima(self, grid: Grid) -> Tensor | None:
        """The minimum with its sign turned, (blocks, 1)."""
        return -grid.extras["minimum"].float() if self.with_minimum else None

    def encode(self, values: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """Codes as uint8, halves up."""
        step = self.steps(grid)
        minimum = self.minima(grid)
        scaled = (values if minimum is None else values + minimum) * gguf.inverse(step)
        scaled = torch.where(step == 0, 0.0, scaled)  # 0 times infinity is no number
        return scaled.add_(0.5 - self.low).floor_().clamp_(0, self.top).to(torch.uint8)

    def pack(self, codes: Tensor, grid: Grid) -> Tensor:
        """Step, minimum, the fifth bits, and the lower four with value i + 16 above value i."""
        parts = [gguf.raw(grid.scales)]
        if self.with_minimum:
            parts.append(gguf.raw(grid.extras["minimum"]))
        if self.bits == 5:
            parts.append(gguf.planes((codes >> 4).reshape(-1, 4, 8, 1), 1))
        parts.append(gguf.planes((codes & 15).reshape(-1, 1, 2, BLOCK // 2), 4))
        return torch.cat(parts, dim=1)


class Q80(gguf.UniformFormat):
    """Q8_0: codes from -127 to 127, stored with their sign."""

    def __init__(self, spec: FormatSpec) -> None:
        super().__init__(spec, 8, -127, BLOCK)
        self.top = 254

    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """Steps as float16 (blocks, 1)."""
        return Grid(gguf.half(blocks.abs().amax(dim=1, keepdim=True) / 127))

    def steps(self, grid: Grid) -> Tensor:
        """The step, (blocks, 1)."""
        return grid.scales.float()

    def minima(self, grid: Grid) -> None:
        """None."""

    def encode(self, values: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """Codes as int8, halves away from zero."""
        step = self.steps(grid)
        scaled = torch.where(step == 0, 0.0, values * gguf.inverse(step)).clamp_(-127, 127)
        size = scaled.abs()
        whole = size.floor()
        return whole.add_(size - whole >= 0.5).copysign_(scaled).to(torch.int8)

    def decode(self, codes: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """``step * code`` in float32."""
        return codes.float().mul_(self.steps(grid))

    def pack(self, codes: Tensor, grid: Grid) -> Tensor:
        """Step, codes."""
        return torch.cat([gguf.raw(grid.scales), gguf.raw(codes)], dim=1)


def _information(name: str, help: str, bits: int, scale_bits: int, weighted: bool = True) -> FamilyInfo:
    return gguf.information(name, help, bits, scale_bits, BLOCK, weighted=weighted)


def _register(bits: int) -> None:
    register(
        _information(
            f"q{bits}_0",
            f"{2**bits} evenly spaced values around zero, a 16-bit step for 32 of a row.",
            bits,
            16,
        ),
        lambda spec: Legacy(spec, bits, with_minimum=False),
    )
    register(
        _information(
            f"q{bits}_1",
            f"{2**bits} evenly spaced values from a minimum on, a 16-bit step and minimum for 32 of a row.",
            bits,
            32,
        ),
        lambda spec: Legacy(spec, bits, with_minimum=True),
    )


for _bits in (4, 5):
    _register(_bits)
register(
    _information(
        "q8_0", "255 evenly spaced values around zero, a 16-bit step for 32 of a row.", 8, 16, weighted=False
    ),
    Q80,
)
