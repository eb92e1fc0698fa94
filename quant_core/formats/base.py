"""What a number format is: two pure functions over blocks of values, and what the result costs in bits.

A format sees a tensor of shape (blocks, block size) whose rows share a scale; ``quantize`` turns it into integer
codes with their scales and ``dequantize`` back into floats. The layout, that is how a weight matrix of shape
(outputs, inputs) is cut into such blocks, is done here once: per tensor (one block), per channel (a block an output
row), or per group along the inputs, where a last group that does not fill up is padded with zeros. There is no
second path: the simulated weight is always ``dequantize(quantize(W))``.
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


@dataclass(frozen=True)
class Codes:
    """Quantized blocks.

    ``values`` has shape (blocks, block size); ``scales`` and ``zero_points`` have shape (blocks, 1). ``extras``
    holds what else a family stores (a codebook, super-block scales, kept outliers).
    """

    values: Tensor
    scales: Tensor
    zero_points: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)


class Format(ABC):
    """A number format with its parameters fixed; subclasses give the arithmetic of one family."""

    def __init__(self, spec: FormatSpec) -> None:
        self.spec = spec

    @property
    def name(self) -> str:
        """The full name, which ``find`` turns back into this format."""
        return self.spec.name

    @abstractmethod
    def quantize(self, blocks: Tensor) -> Codes:
        """Codes of float32 ``blocks`` (blocks, block size)."""

    @abstractmethod
    def dequantize(self, codes: Codes) -> Tensor:
        """Float32 values (blocks, block size) that ``codes`` stand for."""

    @abstractmethod
    def grid(self, codes: Codes) -> Tensor:
        """Every value a block can hold, ascending, for codes of a single block."""

    def storage(self, rows: int, columns: int, original_bits: int = 16) -> Storage:
        """All bits that a (rows, columns) matrix takes, padding of the last group in a row included."""
        return costs.storage(FAMILIES[self.spec.family].info, self.spec, rows, columns, original_bits)


def to_blocks(matrix: Tensor, form: Format) -> Tensor:
    """Cut a matrix (rows, columns) into float32 blocks (blocks, block size) the way ``form`` shares its scales."""
    if matrix.dim() != 2 or matrix.numel() == 0:
        raise FormatError(
            f"A weight of shape {tuple(matrix.shape)} is no matrix.", "Formats work on rows x columns."
        )
    values = matrix.float().contiguous()
    if not bool(torch.isfinite(values).all()):
        raise FormatError(
            "The weight holds infinite or undefined (NaN) values, which no number format can represent.",
            "Load the model in another dtype or check the checkpoint.",
        )
    rows, columns = values.shape
    size = costs.block_size(form.spec, rows, columns)
    if form.spec.granularity == "tensor":
        return values.reshape(1, -1)
    rest = -columns % size
    if rest:
        values = torch.nn.functional.pad(values, (0, rest))
    return values.reshape(-1, size)


def from_blocks(blocks: Tensor, rows: int, columns: int) -> Tensor:
    """Undo ``to_blocks``: the matrix (rows, columns) without its padding."""
    return blocks.reshape(rows, -1)[:, :columns].contiguous()


def fake_quantize(form: Format, matrix: Tensor) -> Tensor:
    """The matrix (rows, columns) after rounding to ``form``, in the dtype it came in.

    Raises ``FormatError`` for values that are not finite.
    """
    if form.spec.family == ORIGINAL:
        return matrix
    blocks = form.dequantize(form.quantize(to_blocks(matrix, form)))
    return from_blocks(blocks, *matrix.shape).to(matrix.dtype)


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
    """The format that ``name`` stands for (``int4``, ``int4/g128/asym``); ``FormatError`` if there is none."""
    spec = parse_format(name, infos(), group)
    return FAMILIES[spec.family].build(spec)
