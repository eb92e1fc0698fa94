"""Sixteen fixed values a block, scaled by its largest magnitude: NF4 and FP4, as bitsandbytes stores them.

Each block is divided by its largest magnitude, kept as float32, and every value goes to the nearest entry of a table.
NF4's entries are quantiles of a normal distribution, with -1, 0 and 1 among them (Dettmers et al. 2023, "QLoRA",
arXiv:2305.14314, section 3 and appendix E). FP4's are those of a float with 2 exponent bits and 1 mantissa bit over
its largest, 12; codes are its bits. Where an E2M1 has 0.5 as its subnormal, bitsandbytes has 0.0625.

Double quantization (``dq``; QLoRA, section 3) stores the scales themselves in 8 bits. Their mean over the weight is
taken off; of the rest, every 256 scales share a float32 largest magnitude, and each goes to the nearest of 256 values
whose precision falls with their size (Dettmers 2016, "8-Bit Approximations for Parallelism in Deep Learning",
arXiv:1511.04561). So a block's scale is ``dynamic_map[code] * second + offset``. It can even turn out negative, which
mirrors the block's values. The tables are the same for every weight: programs know them by heart, and no bits are
counted for them.

What is stored decodes to what bitsandbytes decodes it to, bit for bit, and without ``dq`` the codes are its own too.
With ``dq`` they differ: bitsandbytes chooses codes by the scales it had before it quantized them, here by those that
are stored, which is never farther from the weight. Two more differences: blocks start anew with each row, where
bitsandbytes counts through the flattened weight (the same wherever the block size divides the row); and on a CPU
bitsandbytes looks up the codes of scales in a table of 65536 steps, so that about one in a thousand is a neighbour of
the nearest.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from quant_core.costs import DOUBLE_BLOCK
from quant_core.formats.base import Format, Grid, register
from quant_core.schema import FamilyInfo, FormatSpec

# Appendix E of QLoRA, to float32's precision.
NF4_TABLE = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
_FP4_MAGNITUDES = (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0)  # in the order of their bits
FP4_TABLE = tuple(sign * magnitude / 12.0 for sign in (1, -1) for magnitude in _FP4_MAGNITUDES)

BUCKETS = 32
"""Even parts of -1..1, each narrower than NF4's entries lie apart."""
_SMALLEST = 1e-38
"""The smallest magnitude that values are divided by, as in bitsandbytes: with less, float32 overflows."""


@cache
def dynamic_map() -> Tensor:
    """The 256 values of a quantized scale, ascending from -0.993 to 1, float32 on the CPU.

    For each power of ten from 10^-6 to 1 there are twice as many as for the one below: the midpoints of 1, 2, 4 ... 64
    even parts of a tenth to the whole of it, of both signs. 0 and 1 fill up the 256.
    """
    magnitudes = []
    for power in range(7):
        edges = torch.linspace(0.1, 1.0, 2**power + 1)
        magnitudes.append((edges[1:] + edges[:-1]) / 2 * 10.0 ** (power - 6))
    positive = torch.cat(magnitudes)
    return torch.cat([-positive, torch.tensor([0.0, 1.0]), positive]).sort().values


class Table4(Format):
    """One of sixteen values a weight, with a scale a block.

    Args:
        spec: The format.
        table: The values between -1 and 1, in the order of their codes.
    """

    def __init__(self, spec: FormatSpec, table: tuple[float, ...]) -> None:
        super().__init__(spec)
        self.independent = not spec.double
        self.fused = not spec.double and table is NF4_TABLE  # FP4 has two midpoints in a bucket
        self.table = table
        first: dict[float, int] = {}
        for code, value in enumerate(table):
            first.setdefault(value, code)  # FP4 has a second zero, which is left unused
        self.ascending = tuple(sorted(first))
        self.buckets: Tensor
        self.order = [first[value] for value in self.ascending]

    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """Scales as float32 (blocks, 1); with ``dq`` their codes as uint8, and the rest of them in ``extras``.

        ``second`` is the float32 largest magnitude that a block shares with the others of its 256: it is stored once
        for them, and repeated here for each, (blocks, 1), so that the grids of some blocks can be taken. ``offset``,
        (1, 1), is the mean.
        """
        largest = blocks.abs().amax(dim=1, keepdim=True)
        if shrink is not None:
            largest = largest * shrink
        if not self.spec.double:
            return Grid(largest)
        offset = largest.mean()
        rest = (largest - offset).flatten()
        padded = torch.nn.functional.pad(rest, (0, -len(rest) % DOUBLE_BLOCK)).reshape(-1, DOUBLE_BLOCK)
        second = padded.abs().amax(dim=1).repeat_interleave(DOUBLE_BLOCK)[: len(rest)]
        values = dynamic_map().to(blocks.device)
        codes = torch.bucketize(rest * _inverse(second), (values[1:] + values[:-1]) / 2).to(torch.uint8)
        return Grid(codes[:, None], extras={"second": second[:, None], "offset": offset.reshape(1, 1)})

    def encode(self, values: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """Table indices as uint8."""
        entries = torch.tensor(self.ascending, device=values.device)
        order = torch.tensor(self.order, dtype=torch.uint8, device=values.device)
        unit = values * _inverse(_scales(grid))
        return order[torch.bucketize(unit, (entries[1:] + entries[:-1]) / 2)]

    def decode(self, codes: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """``scale * table[index]`` in float32."""
        return torch.tensor(self.table, device=codes.device)[codes.int()] * _scales(grid)

    def prepare(self, device: torch.device) -> None:
        """Cut the range of the table into even buckets with one midpoint of neighbours in each at most.

        ``self.buckets``, (3, buckets): the midpoint, the entry below it, and the entry above it.
        """
        entries = torch.tensor(self.ascending)
        middles = (entries[1:] + entries[:-1]) / 2
        edges = torch.linspace(-1.0, 1.0, BUCKETS + 1)
        below = torch.bucketize(edges[:-1], middles, right=True)  # midpoints under the bucket's lower edge
        index = below.clamp(max=len(middles) - 1)
        self.buckets = torch.stack([middles[index], entries[below], entries[(below + 1).clamp(max=15)]]).to(
            device
        )

    def nearest(self, values: Tensor, grid: Grid) -> Tensor:
        """Where this is compiled, by one look into ``buckets`` in place of a search and a look into the table."""
        if not torch.compiler.is_compiling():
            return super().nearest(values, grid)
        scales = _scales(grid)
        unit = values * _inverse(scales)
        bucket = ((unit + 1.0) * (BUCKETS / 2)).to(torch.int32).clamp(0, BUCKETS - 1)
        middle, below, above = self.buckets.unbind()
        return torch.where(unit > middle[bucket], above[bucket], below[bucket]) * scales

    def levels(self, grid: Grid, position: int = 0) -> Tensor:
        """The sixteen values of the block, or fifteen where two are 0."""
        values: Tensor = torch.unique(
            torch.tensor(self.table, device=grid.scales.device) * _scales(grid)[0, 0]
        )
        return values


def _scales(grid: Grid) -> Tensor:
    """Each block's scale, (blocks, 1) float32."""
    if "offset" not in grid.extras:
        return grid.scales
    values = dynamic_map().to(grid.scales.device)[grid.scales.int()]
    return values * grid.extras["second"] + grid.extras["offset"]


def _inverse(scales: Tensor) -> Tensor:
    """What to multiply values by instead of dividing them by ``scales``, as bitsandbytes does; finite for 0."""
    least = torch.where(scales < 0, -_SMALLEST, _SMALLEST)
    return torch.where(scales.abs() < _SMALLEST, least, scales).reciprocal()


def _register(name: str, title: str, text: str, source: str, table: tuple[float, ...]) -> None:
    register(
        FamilyInfo(
            name=name,
            title=title,
            help=f"{text}, with a 32-bit scale a block; dq stores the scales in 8 bits.",
            source=source,
            granularities=("group",),
            group_sizes=(32, 64, 128, 256, 512, 1024, 2048, 4096),
            symmetries=(),
            default="g{group}",
            value_bits=4,
            scale_bits=32,
            kind="4-bit tables",
            double=True,
            clips=True,
            details={"scale_dtype": "float32", "codebook": name},
        ),
        lambda spec: Table4(spec, table),
    )


_register(
    "nf4",
    "NF4",
    "Sixteen values spaced like a normal distribution, as in QLoRA",
    "Dettmers et al. 2023, arXiv:2305.14314",
    NF4_TABLE,
)
_register(
    "fp4",
    "FP4",
    "A 4-bit float (2 exponent bits, 1 mantissa bit), as in bitsandbytes",
    "bitsandbytes' fp4; scales as in Dettmers et al. 2023, arXiv:2305.14314",
    FP4_TABLE,
)
