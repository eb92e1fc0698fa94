"""Runtimes that are libraries behind transformers."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from quant_core.runtimes.base import Found, Runtime, installed


class Behind(Runtime):
    """A library whose kernels transformers calls; it runs where the model does, on a GPU too."""

    reads_checkpoints = True

    def __init__(self, library: str) -> None:
        self.name = self.title = self.target = library

    def found(self) -> Found:
        """Whether the library can be imported here."""
        version = installed(self.name)
        if version:
            return Found(f"{version}, {installed('transformers')}", python=sys.executable)
        return Found(
            why=f"{self.title} is not installed here.", remedy=f"{sys.executable} -m pip install {self.name}"
        )

    def module(self) -> Sequence[str]:
        """It loads the library first, for the original as well."""
        return "quant_core.engines.transformers", self.name
