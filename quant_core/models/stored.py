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
from torch import nn

from quant_core.errors import ModelError
from quant_core.models.slots import Slot
from quant_core.models.sources import check, fingerprint, locate, title_of, weight_files
from quant_core.schema import ModelRef, Unit
from quant_core.store.keys import folder_signature


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
        self._files: dict[str, Any] = {}
        try:
            for path in weight_files(folder, title):
                file: Any = safe_open(path, framework="pt", device="cpu")
                self._files |= dict.fromkeys(file.keys(), file)
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"The weights of {title} cannot be read.", "Download the model again."
            ) from error

    def holds(self, unit: Unit) -> bool:
        """Whether the unit is stored as a matrix under its own name."""
        if unit.kind not in ("linear", "head", "embedding") or unit.name not in self._files:
            return False
        return list(self._files[unit.name].get_slice(unit.name).get_shape()) == [unit.rows, unit.columns]

    def slot(self, unit: Unit) -> Slot:
        """The unit with its values, one that it ``holds``."""
        values = self._files[unit.name].get_tensor(unit.name).to(self._dtype)
        return Slot(unit, nn.Parameter(values, requires_grad=False))


@lru_cache(maxsize=4)
def _fingerprint(folder: Path, title: str, signature: str) -> str:
    """The content of a folder; ``signature`` is there so that changed files are read again."""
    return fingerprint(check(folder, title))
