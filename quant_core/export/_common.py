"""What more than one exporter needs: reading safetensors with care, packing codes into words, and unpacking them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quant_core.errors import ExportError


class Stored:
    """The tensors of an exported folder, read one at a time; a damaged file raises ``ExportError``."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                file: Any = safe_open(path, framework="pt", device="cpu")
            except (OSError, SafetensorError) as error:
                raise ExportError(f"{path.name} is damaged: {error}.", "Export again.") from error
            self._files |= dict.fromkeys(file.keys(), file)

    @property
    def names(self) -> list[str]:
        """All names, in the files' order."""
        return list(self._files)

    def get(self, name: str) -> Tensor:
        """One tensor; ``ExportError`` if there is none of that name."""
        if name not in self._files:
            raise ExportError(f"There is no tensor {name} in the files.", "Export again.")
        values: Tensor = self._files[name].get_tensor(name)
        return values


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json``; ``ExportError`` if it is missing or no object."""
    try:
        data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"config.json cannot be read: {error}.", "Export again.") from error
    if not isinstance(data, dict):
        raise ExportError("config.json holds no object.", "Export again.")
    return data


def pack_rows(codes: Tensor, bits: int) -> Tensor:
    """Pack unsigned codes (rows, columns) into int32 words (rows, ceil(columns / (32 // bits))), lowest bits first.

    A word holds 32 // bits codes, and what is left of it is 0: no code straddles two words.
    """
    each = 32 // bits
    padded = torch.nn.functional.pad(codes.to(torch.int64), (0, -codes.shape[1] % each))
    shifts = torch.arange(each, dtype=torch.int64) * bits
    words = (padded.reshape(len(codes), -1, each) << shifts).sum(dim=2)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpack_rows(words: Tensor, bits: int, columns: int) -> Tensor:
    """Undo ``pack_rows``: codes (rows, columns) as int64."""
    each = 32 // bits
    shifts = torch.arange(each, dtype=torch.int64) * bits
    codes: Tensor = (words.to(torch.int64)[:, :, None] >> shifts) & (2**bits - 1)
    return codes.reshape(len(words), -1)[:, :columns]
