"""What a runtime is: a program of its own that reads exported files and runs them, if it is installed here.

Free of torch and of the runtimes themselves: pages ask what there is, and a runtime runs in a process apart
(``engine.py``), so that its memory is its own and its crash costs nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, util

from quant_core.registry import Registry


@dataclass(frozen=True)
class Found:
    """Whether a runtime is here."""

    version: str = ""
    """``bitsandbytes 0.50.2``; empty where it is not."""
    why: str = ""
    """One sentence: what is missing."""
    remedy: str = ""
    """The command that gets it."""
    python: str = ""
    """The interpreter that has it."""


@dataclass(frozen=True)
class Task:
    """What an engine is to run."""

    folder: str
    """A checkpoint's, or the one that holds ``model.gguf``."""
    prompt: tuple[int, ...]
    """Token ids."""
    tokens: int
    """Tokens that are written behind the prompt."""
    threads: int
    """That it computes with on a CPU."""
    device: str
    """``cpu``, ``cuda:0``."""


class Runtime(ABC):
    """A program that runs exported files."""

    name: str
    title: str
    target: str
    """The ``quant_core.targets.Target`` whose files it reads."""
    reads_checkpoints: bool
    """Whether it runs the original from its own folder; otherwise the original is exported too."""

    @abstractmethod
    def found(self) -> Found:
        """Whether it is here; nothing is imported."""

    @abstractmethod
    def module(self) -> Sequence[str]:
        """The module of ``quant_core.engines`` to start, with its arguments."""

    def device(self, device: str) -> str:
        """Where it computes, for a model that is on ``device`` here."""
        return device


def installed(package: str) -> str:
    """The version of a package that can be imported here; empty if there is none."""
    if util.find_spec(package) is None:
        return ""
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return ""


RUNTIMES: Registry[Runtime] = Registry("runtime")


def register(runtime: Runtime) -> Runtime:
    """Add a runtime to the registry under its name."""
    return RUNTIMES.add(runtime.name, runtime)
