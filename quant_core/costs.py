"""What a weight costs in a number format, in bits; torch-free, so that the worker and the pages share one formula.

A matrix (outputs, inputs) is cut into blocks that share a scale: the whole of it (tensor), an output row (channel),
a group along the inputs, or a square of both (block); the last group of a row or the last squares are filled up.
Stored are, a block, its codes, its scale and whatever else the family keeps (``scale_bits``), and for asymmetric
formats a zero point, as wide as a code or, if it is a float, 16 bits. Quantized scales (``dq``) take 8 bits each, a
32-bit scale for 256 of them, and their 32-bit mean. Kept weights are a compressed sparse row matrix: 16 bits a value,
16 for its column (32 beyond 65,536 columns), and 32 for where each row begins.
"""

from __future__ import annotations

from typing import NamedTuple

from quant_core.schema import FamilyInfo, FormatSpec, ModelInfo, Storage, Unit, replace

DOUBLE_BLOCK = 256
"""Scales that share a scale of their own under double quantization."""


TIED = "The embedding and the head share one weight, counted once."
"""What a model's notes say where that is so."""


class Blocks(NamedTuple):
    """How a matrix is cut."""

    number: int
    size: int
    """Values in each, those that fill up included."""
    padded: int
    """Values that fill up, all together."""


def blocks(info: FamilyInfo, spec: FormatSpec, rows: int, columns: int) -> Blocks:
    """The blocks of a (rows, columns) matrix that share a scale."""
    if spec.granularity == "tensor":
        return Blocks(1, rows * columns, 0)
    if spec.granularity == "block":
        side = spec.group_size
        count = -(-rows // side) * -(-columns // side)
        return Blocks(count, side * side, count * side * side - rows * columns)
    size = {"channel": columns, "group": spec.group_size}.get(spec.granularity, info.block or columns)
    count = rows * -(-columns // size)
    return Blocks(count, size, count * size - rows * columns)


def kept(spec: FormatSpec, rows: int, columns: int) -> int:
    """How many weights of a (rows, columns) matrix are kept in 16 bits."""
    return round(rows * columns * spec.keep / 1000)


def storage(info: FamilyInfo, spec: FormatSpec, rows: int, columns: int, original_bits: int) -> Storage:
    """All bits that a (rows, columns) matrix takes in format ``spec`` of the family ``info``.

    Args:
        info: What the family's codes and scales take.
        spec: The format.
        rows: Outputs.
        columns: Inputs.
        original_bits: Bits a value takes in the checkpoint.
    """
    cut = blocks(info, spec, rows, columns)
    code = info.value_bits or original_bits
    zero = {"asym": code, "float": 16}.get(spec.symmetry, 0)
    metadata = cut.number * ((8 if spec.double else info.scale_bits) + zero) + info.tensor_bits
    if spec.double:
        metadata += -(-cut.number // DOUBLE_BLOCK) * 32 + 32
    if spec.keep:
        index = 16 if columns <= 2**16 else 32
        metadata += kept(spec, rows, columns) * (16 + index) + (rows + 1) * 32
    return Storage(codes=cut.number * -(-cut.size // info.pack) * code, metadata=metadata, padded=cut.padded)


def untied(info: ModelInfo) -> ModelInfo:
    """The model once its head is a weight of its own, as some rewrites leave it; ``info`` itself if it is already.

    The head comes last, as a unit and in the model, and its bits are added to what the model takes.
    """
    shared = next((unit for unit in info.units if unit.tied), None)
    if shared is None:
        return info
    name = shared.tied[0]
    head = Unit(
        name=name,
        block=-1,
        role=name.split(".")[-2],
        kind="head",
        rows=shared.rows,
        columns=shared.columns,
        bits=shared.bits,
        decided=False,
    )
    units = (*(replace(unit, tied=()) if unit is shared else unit for unit in info.units), head)
    return replace(
        info,
        units=units,
        parameters=info.parameters + head.parameters,
        notes=tuple(note for note in info.notes if note != TIED),
    )
