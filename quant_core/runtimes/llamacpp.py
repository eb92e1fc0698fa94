"""llama.cpp through the wheel ``xllamacpp``: in this environment, or in ``.venv-llamacpp`` beside the project.

The wheel computes on the CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from quant_core.runtimes.base import Found, Runtime, installed, register

PROJECT = Path(__file__).resolve().parents[2]


class LlamaCpp(Runtime):
    """GGUF files; the original as one too, in the 16 or 32 bits that it is stored in."""

    name = "llama.cpp"
    title = "llama.cpp"
    target = "gguf"
    reads_checkpoints = False

    def found(self) -> Found:
        """Whether xllamacpp can be imported here, or lies in the environment that the tests use."""
        version = installed("xllamacpp")
        if version:
            return Found(version, python=sys.executable)
        home = PROJECT / ".venv-llamacpp"
        python = home / "bin" / "python"
        for info in home.glob("lib/python*/site-packages/xllamacpp-*.dist-info"):
            if python.is_file():
                return Found(f"xllamacpp {info.stem.partition('-')[2]}", python=str(python))
        checkout = (PROJECT / "Makefile").is_file()
        return Found(
            why="llama.cpp is not installed here.",
            remedy="make .venv-llamacpp/.quantlens"
            if checkout
            else f"{sys.executable} -m pip install xllamacpp",
        )

    def module(self) -> Sequence[str]:
        """The engine."""
        return ("quant_core.engines.llamacpp",)

    def device(self, device: str) -> str:
        """The CPU, always."""
        return "cpu"


register(LlamaCpp())
