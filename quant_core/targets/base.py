"""What a runtime can hold, as data: number formats, whole groups, weights that share one format, weights that stay.

A recipe that solves should be one that serves. A runtime is a file of this folder with a ``Target`` in it, and its
sources beside it; what follows from the data is in ``rules.py``, the same for all. Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from quant_core.registry import Registry
from quant_core.schema import Granularity, Symmetry

Tie = Literal["fused", "routed", "experts", "stacked"]
"""``fused``: q/k/v are one weight there, and gate/up; ``routed``: all experts of the model with all their weights;
``experts``: those of a block; ``stacked``: the same weight of all experts of a block."""


@dataclass(frozen=True)
class Holds:
    """Some number formats that a runtime holds; ``()`` in a field means that it does not matter."""

    families: tuple[str, ...]
    granularities: tuple[Granularity, ...] = ()
    group_sizes: tuple[int, ...] = ()
    symmetries: tuple[Symmetry, ...] = ()
    double: bool = False
    """Whether quantized scales (``dq``) are held too."""
    multiple: int = 0
    """What a row's length must be a multiple of, beside its own groups; 0 for nothing."""
    rows: int = 0
    """What the number of rows must be a multiple of; 0 for nothing."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """By family, which one the runtime takes where ``multiple`` does not divide a row."""
    alone: bool = False
    """Whether weights that the runtime fuses cannot take it (it would merge their scales)."""
    stays: Mapping[str, str] = field(default_factory=dict)
    """Why weights of a kind (``Unit.kind``) cannot take these, where the runtime quantizes them otherwise."""


@dataclass(frozen=True)
class Target:
    """A runtime, and what it can hold."""

    name: str
    title: str
    help: str
    """Which programs read it, one sentence."""
    source: str
    """Where the facts below were read or run."""
    holds: tuple[Holds, ...] | None = None
    """None for everything."""
    ties: tuple[Tie, ...] = ()
    stays: Mapping[str, str] = field(default_factory=dict)
    """Why weights of a kind (``Unit.kind``) stay in 16 bits there."""
    needs: Mapping[str, str] = field(default_factory=dict)
    """Why weights of a kind cannot stay as they are where others are quantized."""
    refuses: Mapping[str, str] = field(default_factory=dict)
    """Why an architecture (``OPTForCausalLM``) does not run there."""
    writes: tuple[str, ...] = ()
    """Architectures that its files can be written for; ``()`` for all."""
    whole_groups: bool = True
    """Whether groups have to divide the row; none of those here pads."""
    one_format: bool = False
    """Whether all quantized weights have to take the same format, whatever way they are rounded."""
    notes: tuple[str, ...] = ()
    """What to know of it, a sentence each."""


TARGETS: Registry[Target] = Registry("target")


def register(target: Target) -> Target:
    """Add a runtime to the registry under its name."""
    return TARGETS.add(target.name, target)
