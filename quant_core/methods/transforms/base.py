"""What a transform is: a rewrite of a copy of the model that computes the same and is easier to round.

What it may move is in ``quant_core.models.anatomy``: a positive scale a channel, from where a channel is written to
where it is read, or a rotation of the whole residual stream. In exact arithmetic the model's function stays what it
was; weights in 16 bits are rounded once to their dtype after every rewrite.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quant_core.calibration.inputs import Inputs
from quant_core.errors import ModelError
from quant_core.formats import Format
from quant_core.jobs.context import Context
from quant_core.methods.rounder import Rounder
from quant_core.models.anatomy import ARCHITECTURES, Link, Wiring
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel
from quant_core.names import method_options
from quant_core.registry import Registry
from quant_core.schema import MethodInfo


@dataclass(frozen=True)
class Work:
    """What a transform works on: a copy it may change, what entered its layers, and how they will be rounded."""

    context: Context
    loaded: LoadedModel
    """The copy; its parameters may be changed in place."""
    rounder: Rounder
    """Of this copy as it was before this transform, for the statistics."""
    formats: Mapping[str, Format]
    """Unit to the format it will be rounded to, without the method; units that stay as they are are left out."""

    def inputs(self, slot: Slot) -> Inputs:
        """What entered a unit before this transform began."""
        return self.rounder.inputs(slot)

    def each(self, links: tuple[Link, ...], doing: str) -> Iterator[Link]:
        """The links one by one, with progress and room to cancel; ``ModelError`` if there are none."""
        if not links:
            raise ModelError(
                f"Nothing in {self.loaded.info.title} can be scaled this way: its norms lie behind its layers.",
                "Leave the rewrite out.",
            )
        last = max(link.block for link in links) + 1
        for link in links:
            self.context.check_cancelled()
            self.context.progress(0.0, f"{doing}: block {link.block + 1} of {last}")
            yield link


class Transform(ABC):
    """A rewrite with its options fixed."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = options

    @abstractmethod
    def apply(self, work: Work) -> None:
        """Change the copy in place; ``ModelError`` if its architecture does not allow it."""


@dataclass(frozen=True)
class Entry:
    """A transform in the registry."""

    info: MethodInfo
    build: Callable[[Mapping[str, str]], Transform]
    refuses: Callable[[Wiring], str]
    """Why it cannot rewrite an architecture, one sentence; empty if it can."""
    searches: bool
    """Whether what it does depends on the formats of the units."""


TRANSFORMS: Registry[Entry] = Registry("rewrite")


def register(
    info: MethodInfo,
    build: Callable[[Mapping[str, str]], Transform],
    refuses: Callable[[Wiring], str] = lambda wiring: "",
    searches: bool = False,
) -> None:
    """Add a transform under ``info.name``."""
    TRANSFORMS.add(info.name, Entry(info, build, refuses, searches))


def infos() -> dict[str, MethodInfo]:
    """What every registered transform offers, by name.

    ``families`` are the architectures it can rewrite (class names), ``except_for`` says why it cannot rewrite another
    one that is known here. What is in neither is of an unknown architecture.
    """
    found = {}
    for name, entry in TRANSFORMS.items():
        reasons = {architecture: entry.refuses(wiring) for architecture, wiring in ARCHITECTURES.items()}
        takes = tuple(architecture for architecture, reason in reasons.items() if not reason)
        refused = {architecture: reason for architecture, reason in reasons.items() if reason}
        found[name] = replace(entry.info, families=takes, except_for=refused)
    return found


def find(text: str) -> tuple[Entry, Transform]:
    """The transform that ``text`` names, options included (``smoothquant:alpha=0.7``).

    Raises ``QuantError`` if there is no such transform or option.
    """
    entry = TRANSFORMS[text.split(":", maxsplit=1)[0]]
    return entry, entry.build(method_options(text, entry.info))


def read_inputs(work: Work, link: Link) -> list[tuple[Slot, Inputs]]:
    """The units that read a link, with what entered them; those that saw no token are left out."""
    slots = [slot for reader in link.readers for slot in reader.slots]
    found = [(slot, work.inputs(slot)) for slot in slots]
    return [(slot, inputs) for slot, inputs in found if inputs.rows]


def mean_size(link: Link, read: list[tuple[Slot, Inputs]]) -> Tensor:
    """Mean |x| of each channel, (channels,), over all tokens and readers, experts by the tokens they saw."""
    rows = sum(inputs.rows for _, inputs in read)
    total = torch.stack([inputs.mean_abs * (inputs.rows / rows) for _, inputs in read]).sum(dim=0)
    return link.average(total)
