"""MX formats: 32 values along a row share a power of two, and are small floats or 8-bit fixed point beside it.

Open Compute Project, "Microscaling Formats (MX) Specification" v1.0 (2023), sections 5 and 6.3; Rouhani et al. 2023,
"Microscaling Data Formats for Deep Learning" (arXiv:2310.10537), algorithm 1. With ``emax`` the exponent of the
element's largest power of two,

    X = 2^(floor(log2 max|w|) - emax),    code = round(w / X),    w ~ X * code,

the shared scale X in E8M0 (eight bits of exponent, 2^-127 to 2^127) and elements rounded to nearest, halves to even.
What the floor leaves beyond the largest element saturates: a block that reaches 7.9 is cut to 6 in MXFP4.

    MXFP4   E2M1   0, 0.5, 1, 1.5, 2, 3, 4, 6        emax 2
    MXFP6   E2M3   up to 7.5                         emax 2
            E3M2   up to 28                          emax 4
    MXFP8   E4M3   up to 448                         emax 8
            E5M2   up to 57344                       emax 15
    MXINT8  a multiple of 1/64 up to 127/64          emax 0

MXINT8's code -128 is left out, which the specification allows, so that the range is symmetric.

torchao's ``to_mx`` (floor) gives the same codes and scales. It divides by 2^-126 where it stores 2^-127, which matters
only to blocks that stay below 2^-125. Clipping can make X smaller than the rule does, never larger.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from quant_core.formats._common import Minifloat
from quant_core.formats.base import Format, Grid, register
from quant_core.schema import FamilyInfo, FormatSpec

BLOCK = 32
"""Values that share a scale."""


class _Element(Protocol):
    """A number format for single values."""

    @property
    def emax(self) -> int:
        """Exponent of the largest power of two among the numbers."""

    def numbers(self, device: torch.device) -> Tensor:
        """All finite numbers, ascending, 0 once, float32."""

    def encode(self, values: Tensor) -> Tensor:
        """Codes of the nearest numbers, ties to the even code; beyond the largest, the largest."""

    def decode(self, codes: Tensor) -> Tensor:
        """Float32 numbers of codes."""


class _Float8:
    """An 8-bit float as PyTorch has it; its codes are tensors of ``dtype``."""

    def __init__(self, dtype: torch.dtype, emax: int) -> None:
        self.emax = emax
        self._dtype = dtype
        self._largest = torch.finfo(dtype).max

    def numbers(self, device: torch.device) -> Tensor:
        every = torch.arange(256, dtype=torch.int16, device=device).to(torch.uint8).view(self._dtype).float()
        values: Tensor = torch.unique(every[torch.isfinite(every)])
        return values

    def encode(self, values: Tensor) -> Tensor:
        return values.clamp(-self._largest, self._largest).to(self._dtype)

    def decode(self, codes: Tensor) -> Tensor:
        return codes.float()


class _Fixed8:
    """Multiples of 1/64 from -127/64 to 127/64; its codes are int8."""

    emax = 0

    def numbers(self, device: torch.device) -> Tensor:
        return torch.arange(-127, 128, device=device) / 64

    def encode(self, values: Tensor) -> Tensor:
        return (values * 64).round_().clamp_(-127, 127).to(torch.int8)

    def decode(self, codes: Tensor) -> Tensor:
        return codes.float() / 64


class Microscaling(Format):
    """Blocks of 32 elements with an E8M0 scale."""

    def __init__(self, spec: FormatSpec, element: _Element) -> None:
        super().__init__(spec)
        self._element = element

    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """Scales as float8_e8m0fnu (blocks, 1)."""
        largest = blocks.abs().amax(dim=1, keepdim=True)
        if shrink is not None:
            largest = largest * shrink
        # The exponent bits of a float32 are floor(log2) + 127, the bias of E8M0 too. Those of zeros and subnormals
        # are 0, one too many for some, but these are clamped in any case.
        biased = (largest.view(torch.int32) >> 23) - self._element.emax
        return Grid(biased.clamp(0, 254).to(torch.uint8).view(torch.float8_e8m0fnu))

    def encode(self, values: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """Codes as the element has them: uint8 (its bits), int8 or a float8 dtype."""
        return self._element.encode(values / grid.scales.float())

    def decode(self, codes: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """``X * code`` in float32."""
        return self._element.decode(codes) * grid.scales.float()

    def levels(self, grid: Grid, position: int = 0) -> Tensor:
        """Every finite value of the block."""
        return self._element.numbers(grid.scales.device) * grid.scales[0, 0].float()

    def step(self, grid: Grid) -> Tensor:
        """The scale over 64 for MXINT8."""
        if not self.info.uniform:
            return super().step(grid)
        return grid.scales.float() / 64


def _register(name: str, title: str, bits: int, element: _Element, inside: str, kind: str) -> None:
    register(
        FamilyInfo(
            name=name,
            title=title,
            help=f"{inside} in blocks of {BLOCK} that share a power of two, an 8-bit exponent.",
            source="Open Compute Project 2023, Microscaling Formats v1.0; Rouhani et al. 2023, arXiv:2310.10537",
            granularities=("none",),
            group_sizes=(),
            symmetries=(),
            default="",
            value_bits=bits,
            scale_bits=8,
            kind="Microscaling",
            block=BLOCK,
            uniform=isinstance(element, _Fixed8),
            clips=True,
            details={"scale_dtype": "e8m0", "element_dtype": kind},
        ),
        lambda spec: Microscaling(spec, element),
    )


for _name, _title, _element, _kind in (
    ("mxfp4", "MXFP4", Minifloat(2, 1), "e2m1"),
    ("mxfp6_e2m3", "MXFP6 E2M3", Minifloat(2, 3), "e2m3"),
    ("mxfp6_e3m2", "MXFP6 E3M2", Minifloat(3, 2), "e3m2"),
):
    _register(_name, _title, _element.bits, _element, f"{_element.bits}-bit floats ({_kind.upper()})", _kind)
_register(
    "mxfp8_e4m3", "MXFP8 E4M3", 8, _Float8(torch.float8_e4m3fn, 8), "8-bit floats (E4M3)", "float8_e4m3fn"
)
_register("mxfp8_e5m2", "MXFP8 E5M2", 8, _Float8(torch.float8_e5m2, 15), "8-bit floats (E5M2)", "float8_e5m2")
_register("mxint8", "MXINT8", 8, _Fixed8(), "8-bit fixed point", "int8")
