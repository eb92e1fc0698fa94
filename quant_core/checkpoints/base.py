"""What a quantized checkpoint holds: a list of matrices, each told in words, and read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from quant_core.errors import FormatError
from quant_core.formats import find


@dataclass(frozen=True)
class Held:
    """A matrix of a checkpoint."""

    name: str
    """As the original's files name it (``model.layers.0.mlp.up_proj.weight``), or the tensor's name in a GGUF file."""
    rows: int
    """Outputs."""
    columns: int
    """Inputs."""
    holds: str
    """What it holds, in words: ``int4, groups of 128, symmetric``."""
    bits: int
    """Stored bits, scales and all else counted."""
    read: Callable[[int, int], Tensor]
    """The rows from one to before another, (rows, columns) float32."""
    format: str = ""
    """Full name of the format of ours that holds the same; empty where none does."""
    quantized: bool = True
    expert: int | None = None
    """Which slice of a GGUF tensor."""
    parts: tuple[str, ...] = ()
    """The stored tensors that make it."""
    by_rows: bool = False
    """Whether some rows can be read without reading all."""


@dataclass(frozen=True)
class Unread:
    """A quantized matrix whose values cannot be read here, and why, a sentence."""

    name: str
    reason: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quantized:
    """A checkpoint that was opened."""

    title: str
    method: str
    """Who wrote it so: ``GPTQ``, ``AWQ``, ``compressed-tensors``, ``bitsandbytes``, ``FP8``, ``GGUF``."""
    held: tuple[Held, ...]
    unread: tuple[Unread, ...]
    plain: Mapping[str, Callable[[], Tensor]]
    """Float tensors that are no matrices (norms, biases) by stored name."""
    plain_bits: int
    """That these take."""
    bytes: int
    """Of its files of weights."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """``config.json``; empty for a GGUF file."""
    keys: Mapping[str, Any] = field(default_factory=dict)
    """A GGUF file's metadata."""


def known(name: str) -> str:
    """The full name of a format of ours; empty if there is none of that name."""
    try:
        return find(name).name
    except FormatError:
        return ""


def in_groups(size: int, columns: int) -> str:
    """Who shares a scale, in words."""
    return "one scale an output" if size >= columns else f"groups of {size}"


def integer(bits: int, size: int, columns: int, symmetric: bool) -> str:
    """The full name of an integer format of ours, empty if there is none."""
    grouping = "channel" if size >= columns else f"g{size}"
    return known(f"int{bits}/{grouping}/{'sym' if symmetric else 'asym'}")
