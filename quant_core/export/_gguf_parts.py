"""The tensors of a GGUF file while it is made, each in a file of its own until all names and sizes are known.

A GGUF file lists its tensors before their values, and experts that come one by one are slices of one tensor. At most
one tensor is on the disk twice, and one in memory.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

from quant_core.checkpoints.gguf_names import Part
from quant_core.errors import ExportError

_KINDS = {
    torch.float32: gguf.GGMLQuantizationType.F32,
    torch.float16: gguf.GGMLQuantizationType.F16,
    torch.bfloat16: gguf.GGMLQuantizationType.BF16,
}


@dataclass
class _Tensor:
    path: Path
    kind: gguf.GGMLQuantizationType
    shape: tuple[int, ...]
    """In bytes along the last dimension."""
    experts: set[int] = field(default_factory=set)


class Parts:
    """What is gathered for one file.

    Args:
        folder: Where the waiting tensors lie.
        experts: How many a block has.
    """

    def __init__(self, folder: Path, experts: int) -> None:
        self._folder, self._experts = folder, experts
        self._tensors: dict[str, _Tensor] = {}
        self.stored: list[str] = []
        """``tensor=name`` or ``tensor[expert]=name`` for every quantized part, in order."""

    def add(self, part: Part, kind: gguf.GGMLQuantizationType, rows: Tensor) -> None:
        """Keep the bytes of a tensor or of one expert's slice, uint8 (rows, bytes) or (bytes,).

        Raises:
            ExportError: The experts of a tensor differ in type or shape, or two tensors have one name.
        """
        values = rows.cpu().contiguous().numpy()
        known = self._tensors.get(part.tensor)
        if known is None:
            path = self._folder / f"{len(self._tensors)}.part"
            path.touch()
            known = self._tensors[part.tensor] = _Tensor(path, kind, values.shape)
        elif part.expert is None:
            raise ExportError(f"Two stored tensors are {part.tensor} to llama.cpp.", "Check the checkpoint.")
        if (kind, values.shape) != (known.kind, known.shape):
            raise ExportError(
                f"llama.cpp keeps all experts of {part.tensor} in one type, and the recipe gives them several.",
                "Give all experts of a block the same format.",
            )
        with known.path.open("r+b") as file:
            if part.expert is not None:
                known.experts.add(part.expert)
                file.seek(part.expert * values.nbytes)
            file.write(values.reshape(-1).data)

    def add_plain(self, part: Part, values: Tensor) -> None:
        """Keep values in the dtype they have, or in float32 where llama.cpp wants them so."""
        whole = (
            values.dim() < 2 or part.tensor.startswith("position_embd.") or ".ffn_gate_inp." in part.tensor
        )
        if whole or values.dtype not in _KINDS:
            values = values.float()
        self.add(part, _KINDS[values.dtype], values.contiguous().view(torch.uint8))

    def quantized(self, part: Part, kind: gguf.GGMLQuantizationType, rows: Tensor, name: str) -> None:
        """Keep the bytes of a quantized part, and which stored matrix ``name`` it is of."""
        self.add(part, kind, rows)
        slice_ = "" if part.expert is None else f"[{part.expert}]"
        self.stored.append(f"{part.tensor}{slice_}={name}")

    def most(self) -> gguf.GGMLQuantizationType:
        """The type that takes the most bytes."""
        sizes: dict[gguf.GGMLQuantizationType, int] = {}
        for tensor in self._tensors.values():
            sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.path.stat().st_size
        return max(sizes, key=lambda kind: sizes[kind])

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Write the file, block by block; what waited is removed as it goes.

        Raises:
            ExportError: Not all experts of a tensor are there.
        """
        names = sorted(self._tensors, key=_natural)
        for name in names:
            tensor = self._tensors[name]
            if tensor.experts and tensor.experts != set(range(self._experts)):
                raise ExportError(f"{name} lacks some of its experts.", "Check the checkpoint.")
            shape = (self._experts, *tensor.shape) if tensor.experts else tensor.shape
            size = tensor.path.stat().st_size
            writer.add_tensor_info(name, shape, np.dtype(np.uint8), size, tensor.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        out = writer.fout[0]
        writer.write_padding(out, out.tell())
        for name in names:
            path = self._tensors[name].path
            with path.open("rb") as file:
                shutil.copyfileobj(file, out)
            writer.write_padding(out, path.stat().st_size)
            path.unlink()
        writer.close()


def _natural(name: str) -> tuple[int, str]:
    """What comes before the blocks, the blocks by number, what comes behind them."""
    block = re.match(r"blk\.(\d+)\.", name)
    return (int(block[1]), name) if block else (10**9 if name.startswith("output") else -1, name)
