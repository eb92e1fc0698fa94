"""What a number format is: a grid for each block of values, the nearest code on it, and what both cost in bits.

A format sees a tensor of shape (blocks, block size) whose rows share a scale. ``fit`` chooses each block's grid, that
is all that is stored beside the codes (scales, zero points, a codebook); ``encode`` gives every value the code of the
nearest point of its block's grid, and ``decode`` turns codes back into float32. So one format serves rounding to
nearest (``quantize``) and the methods that choose grids or codes by other rules (``quant_core.methods``).

The layout, that is how a weight matrix of shape (outputs, inputs) is cut into such blocks, is done here once: per
tensor (one block), per channel (a block an output row), per group along the inputs, or per square of 128 by 128; what
does not fill up is padded with zeros. There is no second path: the simulated weight is always decode(encode(W)).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quant_core import costs
from quant_core.errors import FormatError
from quant_core.names import parse_format
from quant_core.registry import Registry
from quant_core.schema import ORIGINAL, FamilyInfo, FormatSpec, Storage

_HUGE = 3.0e38


@dataclass(frozen=True)
class Grid:
    """Which values each block can hold: everything that is stored beside the codes, in the dtype it is stored in.

    The first dimension of every tensor counts the blocks, or is 1 where all blocks share it. ``scales`` and
    ``zero_points`` have shape (blocks, 1) for most families; ``extras`` holds what else a family stores (a codebook,
    the scales of a super-block, a scale of the whole tensor).
    """

    scales: Tensor
    zero_points: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def take(self, blocks: Tensor | slice) -> Grid:
        """The grids of some blocks, by index (a tensor may repeat one) or slice."""

        def some(values: Tensor) -> Tensor:
            return values[blocks] if len(values) == count else values

        count = len(self.scales)
        zero = None if self.zero_points is None else some(self.zero_points)
        return Grid(some(self.scales), zero, {name: some(values) for name, values in self.extras.items()})


@dataclass(frozen=True)
class Codes:
    """Quantized blocks: integer codes of shape (blocks, block size), and the grids they index."""

    values: Tensor
    grid: Grid


class Format(ABC):
    """A number format with its parameters fixed; subclasses give the arithmetic of one family.

    Everything works value by value once the grid is there: a code depends on its value, its block's grid and, where a
    block has parts (the k-quants' sub-blocks), on its position in the block, and on no other value.
    """

    independent = True
    """Whether a block's grid depends on that block alone, and not on the rest of the tensor."""
    fused = False
    """Whether fit, encode and decode are plain tensor arithmetic that ``quant_core.formats.fused`` can join."""

    def __init__(self, spec: FormatSpec) -> None:
        self.spec = spec

    @property
    def name(self) -> str:
        """The full name, which ``find`` turns back into this format."""
        return self.spec.name

    @property
    def info(self) -> FamilyInfo:
        """What the family offers."""
        return FAMILIES[self.spec.family].info

    @abstractmethod
    def fit(self, blocks: Tensor, *, importance: Tensor | None = None, shrink: Tensor | None = None) -> Grid:
        """A grid for each of float32 ``blocks`` (blocks, block size).

        Args:
            blocks: The values.
            importance: How much the squared error of each value counts, non-negative, shaped like ``blocks``; only
                families that say ``weighted`` look at it.
            shrink: The part of each block's range to cover, (blocks, 1) in (0, 1], or None for all of it; only
                families that say ``clips`` look at it.
        """

    @abstractmethod
    def encode(self, values: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """Codes (blocks, k) of float32 ``values`` (blocks, k), which stand at ``start`` and on in their blocks.

        Every code is the nearest one; whatever lies beyond the grid gets its end, infinity included.
        """

    @abstractmethod
    def decode(self, codes: Tensor, grid: Grid, start: int = 0) -> Tensor:
        """Float32 values (blocks, k) of ``codes`` (blocks, k), which stand at ``start`` and on in their blocks."""

    def nearest(self, values: Tensor, grid: Grid) -> Tensor:
        """Float32 ``values`` (blocks, block size) after a round trip, decode(encode(values)).

        A family may give the same values in fewer steps.
        """
        return self.decode(self.encode(values, grid), grid)

    def prepare(self, device: torch.device) -> None:  # noqa: B027  # most families look nothing up
        """Lay out what ``nearest`` looks up on ``device``; called once, before a kernel is compiled."""

    @abstractmethod
    def levels(self, grid: Grid, position: int = 0) -> Tensor:
        """Every value that ``position`` of a block can hold, ascending without repeats, for the grid of one block."""

    def step(self, grid: Grid) -> Tensor:
        """Distance between neighbouring values, (blocks, 1) or (blocks, block size), for a uniform family."""
        raise NotImplementedError(f"{self.spec.family} is not uniform")

    def quantize(self, blocks: Tensor, *, importance: Tensor | None = None) -> Codes:
        """Rounding to nearest: a grid for each block (blocks, block size), then the nearest codes."""
        grid = self.fit(blocks, importance=importance)
        return Codes(self.encode(blocks, grid), grid)

    def dequantize(self, codes: Codes) -> Tensor:
        """Float32 values (blocks, block size) that ``codes`` stand for."""
        return self.decode(codes.values, codes.grid)

    def bounds(self, grid: Grid, size: int) -> tuple[Tensor, Tensor]:
        """The lowest and the highest value that each place of each block can hold, (blocks, size)."""
        far = torch.full((len(grid.scales), size), _HUGE, device=grid.scales.device)
        return self.decode(self.encode(-far, grid), grid), self.decode(self.encode(far, grid), grid)

    def blocks(self, rows: int, columns: int) -> costs.Blocks:
        """How a (rows, columns) matrix is cut."""
        return costs.blocks(self.info, self.spec, rows, columns)

    def storage(self, rows: int, columns: int, original_bits: int = 16) -> Storage:
        """All bits that a (rows, columns) matrix takes, padding included."""
        return costs.storage(self.info, self.spec, rows, columns, original_bits)


def check(matrix: Tensor) -> None:
    """Raise ``FormatError`` for what is no matrix of finite values."""
    if matrix.dim() != 2 or matrix.numel() == 0:
        raise FormatError(
            f"A weight of shape {tuple(matrix.shape)} is no matrix.", "Formats work on rows x columns."
        )
    if not bool(torch.stack(torch.aminmax(matrix)).isfinite().all()):  # NaN is its own extreme
        raise FormatError(
            "The weight holds infinite or undefined (NaN) values, which no number format can represent.",
            "Load the model in another dtype or check the checkpoint.",
        )


def to_blocks(matrix: Tensor, form: Format) -> Tensor:
    """Cut a matrix (rows, columns) into float32 blocks (blocks, block size) the way ``form`` shares its grids."""
    check(matrix)
    values = matrix.float().contiguous()
    rows, columns = values.shape
    if form.spec.granularity == "tensor":
        return values.reshape(1, -1)
    if form.spec.granularity == "block":
        side = form.spec.group_size
        values = torch.nn.functional.pad(values, (0, -columns % side, 0, -rows % side))
        tall, wide = (length // side for length in values.shape)
        return values.reshape(tall, side, wide, side).transpose(1, 2).reshape(tall * wide, side * side)
    size = form.blocks(rows, columns).size
    if columns % size:
        values = torch.nn.functional.pad(values, (0, -columns % size))
    return values.reshape(-1, size)


def from_blocks(blocks: Tensor, form: Format, rows: int, columns: int) -> Tensor:
    """Undo ``to_blocks``: the matrix (rows, columns) without its padding."""
    if form.spec.granularity == "block":
        side = form.spec.group_size
        tall, wide = -(-rows // side), -(-columns // side)
        blocks = blocks.reshape(tall, wide, side, side).transpose(1, 2).reshape(tall * side, wide * side)
        return blocks[:rows, :columns].contiguous()
    return blocks.reshape(rows, -1)[:, :columns].contiguous()


def place(form: Format, rows: int, columns: int, column: int) -> tuple[Tensor, int]:
    """Where a matrix's ``column`` lies: the block of each row, (rows,), and the position in it.

    The position is 0 unless blocks run along the rows, for then it is the only thing that tells values apart.
    """
    row = torch.arange(rows)
    if form.spec.granularity == "tensor":
        return torch.zeros_like(row), 0
    if form.spec.granularity == "block":
        side = form.spec.group_size
        return row // side * -(-columns // side) + column // side, 0
    size = form.blocks(rows, columns).size
    return row * -(-columns // size) + column // size, column % size


def kept(form: Format, matrix: Tensor) -> Tensor:
    """Which weights of a matrix ``form`` keeps in 16 bits, (rows, columns) bool: the largest, ties to the first.

    Dettmers et al. 2023, "SpQR" (arXiv:2306.03078), and Kim et al. 2023, "SqueezeLLM" (arXiv:2306.07629), section 4.2.
    """
    chosen = torch.zeros(matrix.numel(), dtype=torch.bool, device=matrix.device)
    count = costs.kept(form.spec, *matrix.shape)
    order = matrix.detach().float().abs().flatten().sort(descending=True, stable=True).indices
    chosen[order[:count]] = True
    return chosen.reshape(matrix.shape)


def sixteen_bits(values: Tensor) -> Tensor:
    """Values as 16 bits hold them: bfloat16 where that is exact for all of them, else float16, else bfloat16."""
    wide = values.float()
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(wide.to(dtype).float(), wide):
            return wide.to(dtype)
    half = wide.to(torch.float16)
    return half if bool(torch.isfinite(half).all()) else wide.to(torch.bfloat16)


def split(form: Format, matrix: Tensor) -> tuple[Tensor, Tensor | None]:
    """A matrix without the weights that ``form`` keeps (zeros instead), and which those are; None if it keeps none."""
    check(matrix)
    if not form.spec.keep:
        return matrix, None
    mask = kept(form, matrix)
    return matrix.masked_fill(mask, 0.0), mask


def join(rounded: Tensor, matrix: Tensor, mask: Tensor | None) -> Tensor:
    """A rounded matrix with the kept weights of the original put back, in the dtype of the original."""
    if mask is None:
        return rounded.to(matrix.dtype)
    result = rounded.clone()
    result[mask] = sixteen_bits(matrix[mask]).to(result.dtype)
    return result.to(matrix.dtype)


def fake_quantize(form: Format, matrix: Tensor) -> Tensor:
    """The matrix (rows, columns) after rounding to the nearest values of ``form``, in the dtype it came in.

    Raises ``FormatError`` for values that are not finite.
    """
    if form.spec.family == ORIGINAL:
        return matrix
    dense, mask = split(form, matrix)
    blocks = form.dequantize(form.quantize(to_blocks(dense, form)))
    return join(from_blocks(blocks, form, *matrix.shape), matrix, mask)


@dataclass(frozen=True)
class Family:
    """A family of formats in the registry: what it offers, and how one of its formats is made."""

    info: FamilyInfo
    build: Callable[[FormatSpec], Format]


FAMILIES: Registry[Family] = Registry("number format")


def register(info: FamilyInfo, build: Callable[[FormatSpec], Format]) -> None:
    """Add a family to the registry under ``info.name``."""
    FAMILIES.add(info.name, Family(info, build))


def infos() -> dict[str, FamilyInfo]:
    """What every registered family offers, by name."""
    return {name: family.info for name, family in FAMILIES.items()}


def find(name: str, group: int = 64) -> Format:
    """The format that ``name`` stands for (``int4``, ``int4/g128/asym``); ``FormatError`` if there is none.

    A rounding method in the name is taken at its word and left to ``quant_core.methods``.
    """
    spec = parse_format(name, infos(), group)
    return FAMILIES[spec.family].build(spec)
