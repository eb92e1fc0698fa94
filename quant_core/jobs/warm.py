"""The model that stays in memory between jobs, so that the second look at it costs no loading."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quant_core.errors import ModelError
from quant_core.schema import ModelRef
from quant_core.store.keys import folder_signature

if TYPE_CHECKING:
    from quant_core.models.loading import LoadedModel

Load = Callable[[ModelRef, tuple[str, ...]], "LoadedModel"]


@dataclass(frozen=True)
class _Held:
    ref: ModelRef
    roots: tuple[str, ...]
    signature: str
    model: LoadedModel


class WarmModel:
    """At most one loaded model; another one is loaded only after the old one is gone."""

    def __init__(self) -> None:
        self._held: _Held | None = None

    def get(self, ref: ModelRef, roots: tuple[str, ...], fingerprint: str = "") -> LoadedModel | None:
        """The model if it is in memory, its files have not changed since, and it was allowed to these ``roots``."""
        held = self._held
        if held is None or held.ref != ref or roots not in ((), held.roots):
            return None
        if held.signature != folder_signature(ref.source) or fingerprint not in (
            "",
            held.model.info.fingerprint,
        ):
            return None
        return held.model

    @property
    def device(self) -> str:
        """What the model in memory computes on; empty if there is none."""
        return self._held.model.info.device if self._held else ""

    def load(self, load: Load, ref: ModelRef, roots: tuple[str, ...], fingerprint: str = "") -> LoadedModel:
        """Drop the old model and load another; ``ModelError`` if it is not the one with ``fingerprint``."""
        self.drop()
        signature = folder_signature(ref.source)
        model = load(ref, roots)
        self._held = _Held(ref, roots, signature, model)
        if fingerprint not in ("", model.info.fingerprint):
            raise ModelError(f"{model.info.title} has changed since it was opened.", "Open it again.")
        return model

    def drop(self) -> None:
        """Forget the model and give its memory back."""
        if self._held is None:
            return
        self._held = None
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
