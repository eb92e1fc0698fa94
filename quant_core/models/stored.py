"""Single weights straight from a checkpoint's files: for work that needs no model, in a fraction of its loading time.

That works where a unit's name is the name of a stored matrix of its shape. It is not where transformers renames,
transposes or stacks what it loads (GPT-2, experts); the whole model is loaded then.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from quant_core.errors import ModelError
from quant_core.models.slots import Slot
from quant_core.models.sources import check, fingerprint, locate, title_of, weight_files
from quant_core.schema import ModelRef, Unit
from quant_core.store.keys import folder_signature


class StoredTensors:
    """The tensors of a checkpoint by stored name; files are mapped, so that only what is looked at is read.

    Args:
        folder: The checkpoint.
        title: What to call it in errors.

    Raises:
        ModelError: A file is missing or cannot be read.
    """

    def __init__(self, folder: Path, title: str) -> None:
        self._files: dict[str, Any] = {}
        try:
            for path in weight_files(folder, title):
                file: Any = safe_open(path, framework="pt", device="cpu")
                self._files |= dict.fromkeys(file.keys(), file)
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"The weights of {title} cannot be read.", "Download the model again."
            ) from error

    @property
    def names(self) -> tuple[str, ...]:
        """All stored names."""
        return tuple(self._files)

    def shape(self, name: str) -> list[int]:
        """A tensor's shape, from the file's header."""
        return list(self._files[name].get_slice(name).get_shape())

    def get(self, name: str) -> Tensor:
        """A tensor in the dtype it is stored in, a view of the mapped file."""
        values: Tensor = self._files[name].get_tensor(name)
        return values


class StoredWeights:
    """Units of a checkpoint, read when asked for.

    Args:
        ref: The model.
        roots: Folders that a local path must lie in.
        content: Fingerprint that it must have.
        dtype: Name of the dtype to compute in.

    Raises:
        ModelError: The checkpoint cannot be read, or has changed.
    """

    def __init__(self, ref: ModelRef, roots: Sequence[str], content: str, dtype: str) -> None:
        title = title_of(ref)
        folder = locate(ref, roots)
        if _fingerprint(folder, title, folder_signature(str(folder))) != content:
            raise ModelError(f"{title} has changed since it was opened.", "Open it again.")
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._tensors = StoredTensors(folder, title)
        self._names = set(self._tensors.names)

    def holds(self, unit: Unit) -> bool:
        """Whether the unit is stored as a matrix under its own name."""
        if unit.kind not in ("linear", "head", "embedding") or unit.name not in self._names:
            return False
        return self._tensors.shape(unit.name) == [unit.rows, unit.columns]

    def slot(self, unit: Unit) -> Slot:
        """The unit with its values, one that it ``holds``."""
        values = self._tensors.get(unit.name).to(self._dtype)
        return Slot(unit, nn.Parameter(values, requires_grad=False))


@lru_cache(maxsize=4)
def _fingerprint(folder: Path, title: str, signature: str) -> str:
    """The content of a folder; ``signature`` is there so that changed files are read again."""
    return fingerprint(check(folder, title))
