"""Powers of two, and sums of them: tables that turn multiplications into shifts, with a 16-bit scale a block.

Powers of two (``pot``): a sign, and an exponent or zero. Of the ``2^b`` codes one is zero and one stays unused:

    w ~ scale * {0, +-2^-(2^(b-1) - 2), ..., +-1/4, +-1/2, +-1}.

Miyashita et al. 2016, "Convolutional Neural Networks using Logarithmic Data Representation" (arXiv:1603.01025), round
the logarithm; Zhou et al. 2017, "Incremental Network Quantization" (arXiv:1702.03044), equation 4, go to the nearest
value, as we do. Both fix the scale to a power of two; a float16 scale, the block's largest magnitude, fits better.

Every further bit only adds values near zero: between 1/2 and 1 there is never one (the "rigid resolution" of Li et
al.). Additive powers of two (``apot``) are therefore sums of a power from each of two sets, equation 5 of Li et al.
2020, "Additive Powers-of-Two Quantization" (arXiv:1909.13144), divided by the largest:

    4 bits   {0, 1/2, 1/4, 1/16} + {0, 1/8}                     eight magnitudes
    5 bits   {0, 1/2, 1/8, 1/32} + {0, 1/4, 1/16, 1/64}         sixteen

The odd number of bits that 4 bits leave beside the sign is split as the authors' program does. With 3 bits there is
but one set and ``apot`` would be ``pot``. The paper learns the clipping threshold and normalizes the weights; here the
threshold is the block's largest magnitude, or what a clipping method makes of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.formats._common import half_scales
from quant_core.formats.base import Format, Grid, register
from quant_core.schema import FamilyInfo, FormatSpec


class Table(Format):
    """A symmetric table of values, the largest 1, with one float16 scale a block.

    Args:
        spec: The format.
        magnitudes: The values that are not negative, ascending from 0 to 1.
    """

    def __init__(self, spec: FormatSpec, magnitudes: tuple[float, ...]) -> None:
        super().__init__(spec)
        self.table = (*(-value for value in reversed(magnitudes[1:])), *magnitudes)

    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """Scales as float16 (blocks, 1)."""
        largest = blocks.abs().amax(dim=1, keepdim=True)
        return Grid(half_scales(largest if shrink is None else largest * shrink, blocks))

    def encode(self, values: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """Table indices as uint8."""
        table = torch.tensor(self.table, device=values.device)
        borders = (table[1:] + table[:-1]) / 2
        return torch.bucketize(values / grid.scales.float(), borders, out_int32=True).to(torch.uint8)

    def decode(self, codes: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """``scale * table[index]`` in float32."""
        return torch.tensor(self.table, device=codes.device)[codes.int()] * grid.scales.float()

    def levels(self, grid: Grid, position: int = 0) -> Tensor:
        """The values of the block, the table times its scale."""
        return torch.tensor(self.table, device=grid.scales.device) * grid.scales[0, 0].float()


def powers(bits: int) -> tuple[float, ...]:
    """0 and the powers of two that ``bits`` with the sign can name, ascending to 1."""
    return (0.0, *(2.0**-power for power in reversed(range(2 ** (bits - 1) - 1))))


def sums(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[float, ...]:
    """All sums of 0 or a power from each set, by exponents below 1 (3 for 2^-3), ascending, the largest made 1."""
    every = {a + b for a in (0.0, *(2.0**-p for p in first)) for b in (0.0, *(2.0**-p for p in second))}
    return tuple(sorted(value / max(every) for value in every))


def _register(
    name: str, title: str, bits: int, magnitudes: tuple[float, ...], text: str, source: str
) -> None:
    register(
        FamilyInfo(
            name=name,
            title=title,
            help=text,
            source=source,
            granularities=("group", "channel"),
            group_sizes=(32, 64, 128),
            symmetries=(),
            default="g{group}",
            value_bits=bits,
            scale_bits=16,
            kind="Non-uniform",
            clips=True,
            details={"scale_dtype": "float16", "codebook": name},
        ),
        lambda spec: Table(spec, magnitudes),
    )


for _bits in (3, 4, 5):
    _register(
        f"pot{_bits}",
        f"PoT{_bits}",
        _bits,
        powers(_bits),
        f"Zero and {2 ** (_bits - 1) - 1} powers of two with a sign: dense near zero, coarse far out.",
        "Zhou et al. 2017, arXiv:1702.03044",
    )
for _bits, _sets in ((4, ((1, 2, 4), (3,))), (5, ((1, 3, 5), (2, 4, 6)))):
    _register(
        f"apot{_bits}",
        f"APoT{_bits}",
        _bits,
        sums(*_sets),
        "Sums of two powers of two with a sign: still only shifts, but finer far out than powers alone.",
        "Li et al. 2020, arXiv:1909.13144",
    )
