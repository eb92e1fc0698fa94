"""What a weight costs in a number format, in bits; torch-free, so that the worker and the pages share one formula.

A matrix (outputs, inputs) is cut into blocks that share a scale: the whole of it (tensor), an output row (channel),
or a group along the inputs, where the last group of a row is filled up. Stored are a code a value, padding included,
a scale a block, and for asymmetric formats a zero point a block, as wide as a code.
"""

from __future__ import annotations

from quant_core.schema import FamilyInfo, FormatSpec, Storage


def block_size(spec: FormatSpec, rows: int, columns: int) -> int:
    """How many values share a scale in a (rows, columns) matrix."""
    return {"tensor": rows * columns, "channel": columns, "group": spec.group_size, "none": columns}[
        spec.granularity
    ]


def storage(info: FamilyInfo, spec: FormatSpec, rows: int, columns: int, original_bits: int) -> Storage:
    """All bits that a (rows, columns) matrix takes in format ``spec`` of the family ``info``.

    Args:
        info: What the family's codes and scales take.
        spec: The format.
        rows: Outputs.
        columns: Inputs.
        original_bits: Bits a value takes in the checkpoint.
    """
    if spec.granularity == "tensor":
        blocks, padded = 1, 0
    else:
        size = block_size(spec, rows, columns)
        per_row = -(-columns // size)
        blocks, padded = rows * per_row, rows * (per_row * size - columns)
    code = info.value_bits or original_bits
    metadata = info.scale_bits + (code if spec.symmetry == "asym" else 0)
    return Storage(codes=(rows * columns + padded) * code, metadata=blocks * metadata, padded=padded)
