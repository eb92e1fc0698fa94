"""What an exporter reads: a checkpoint's tensors under their stored names, with a recipe's weights rounded.

The names, their order and all that is not rounded come from the checkpoint's files, in the dtype they are stored in, so
that whatever reads the original reads the copy. Weights are rounded one at a time, by the very function that simulates
them; a model rewritten beforehand (AWQ, rotation, ...) gives all its tensors from the rewritten copy.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quant_core.errors import ExportError
from quant_core.formats import Codes, Format, find, from_blocks
from quant_core.jobs.context import Context
from quant_core.methods.rewrite import for_copy, rewritten
from quant_core.methods.rounder import rounder_for
from quant_core.models.layers import Slot
from quant_core.models.layout import Place, places, stored_names
from quant_core.models.loading import LoadedModel
from quant_core.models.sources import Checkpoint
from quant_core.models.stored import StoredTensors
from quant_core.schema import ORIGINAL, Recipe, Unit


@dataclass(frozen=True)
class Entry:
    """A quantized matrix of the checkpoint: rows of a unit under one stored name."""

    name: str
    """The stored tensor (``model.layers.0.mlp.up_proj.weight``)."""
    unit: Unit
    form: Format
    start: int
    stop: int
    """Which rows of the unit."""
    expert: int | None = None
    """Which slice of a stored tensor (experts, outputs, inputs)."""
    transposed: bool = False
    """Whether it is stored as (inputs, outputs)."""

    @property
    def module(self) -> str:
        """The name of the layer."""
        return self.name.removesuffix(".weight")

    @property
    def rows(self) -> int:
        """Outputs."""
        return self.stop - self.start

    @property
    def columns(self) -> int:
        """Inputs."""
        return self.unit.columns


@dataclass(frozen=True)
class Rounded:
    """An entry's values: codes with their grids, rows first, and the float32 matrix (rows, columns) they stand for."""

    entry: Entry
    codes: Codes
    matrix: Tensor


@dataclass(frozen=True)
class Plain:
    """A tensor that stays as it is, in the dtype and shape it is stored in."""

    name: str
    values: Tensor


class Source:
    """A checkpoint under a recipe.

    Args:
        context: For progress, cancel, and text that the model writes itself.
        loaded: The model.
        checkpoint: Its folder.
        recipe: What is done to it.

    Raises:
        ExportError: The files hold a quantized weight in a way that is not known here.
        QuantError: A rewrite or a training of the recipe cannot be had.
    """

    def __init__(self, context: Context, loaded: LoadedModel, checkpoint: Checkpoint, recipe: Recipe) -> None:
        self.recipe = recipe
        self.checkpoint = checkpoint
        self.tokenizer = loaded.tokenizer
        self.dtype: torch.dtype = getattr(torch, checkpoint.dtype)
        """What most of the stored values are."""
        self.config: dict[str, Any] = copy.deepcopy(checkpoint.config)
        """``config.json``, to be written beside the weights."""
        self._context = context
        self._tensors = StoredTensors(checkpoint.folder, checkpoint.title)
        setup, assignment = recipe.setup, recipe.assignment()
        made = rewritten(context, loaded, setup.transforms, assignment, setup.calibration)
        self._changed = made is not loaded
        if self._changed and not made.model.config.tie_word_embeddings:
            self.config["tie_word_embeddings"] = False
        self._model, self._graph = made.model, made.graph
        self._rounder = rounder_for(context, made, setup)
        self._places = places(made.model, made.graph, self._tensors)
        self._stored = stored_names(made.model, self._tensors)
        self._forms = {
            name: find(form) for name, form in for_copy(assignment, loaded, made).items() if form != ORIGINAL
        }
        self.entries: tuple[Entry, ...] = tuple(
            entry
            for name, form in self._forms.items()
            for entry in self._entries(made.graph.slots[name], form)
        )
        """All quantized matrices, in the model's order."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The stored names, without ``.weight``, of all linear layers and of the head."""
        kinds = ("linear", "conv1d", "head", "expert")
        slots = [slot for slot in self._graph.slots.values() if slot.unit.kind in kinds]
        names = [place.name for slot in slots for place in self._held(slot)]
        tied = [name for slot in self._graph.slots.values() for name in slot.unit.tied]
        return tuple(dict.fromkeys(name.removesuffix(".weight") for name in (*names, *tied)))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how weights were rounded, a sentence each; complete once all were given."""
        return tuple(f"{where}: {note}." for where, note in self._rounder.notes.items())

    def tensors(self) -> Iterator[Rounded | Plain]:
        """Every tensor once: the quantized matrices, unit by unit, then all others."""
        done = 0.0
        total = sum(entry.rows * entry.columns for entry in self.entries) or 1
        for name, form in self._forms.items():
            slot = self._graph.slots[name]
            self._context.progress(done / total, f"Writing {name}")
            quantized = self._rounder.quantize(slot, form)
            matrix = from_blocks(form.dequantize(quantized.codes), form, slot.unit.rows, slot.unit.columns)
            for entry in self._entries(slot, form):
                yield Rounded(entry, _rows(quantized.codes, form, entry), matrix[entry.start : entry.stop])
                done += entry.rows * entry.columns
        yield from self._plain()

    def _entries(self, slot: Slot, form: Format) -> Iterator[Entry]:
        found, start = self._held(slot), 0
        if not found:
            raise ExportError(
                f"{slot.unit.name} is not stored as a matrix of its own, so that its copy cannot be written.",
                "Keep it as it is in the recipe.",
            )
        for place in found:
            rows = place.shape(self._tensors)[0] if len(found) > 1 else slot.unit.rows
            yield Entry(place.name, slot.unit, form, start, start + rows, place.expert, place.transposed)
            start += rows

    def _held(self, slot: Slot) -> tuple[Place, ...]:
        """Where a unit is stored; a head that a rewrite untied gets the place that its name says."""
        name = slot.unit.name
        untied = self._changed and name not in self._stored and slot.unit.kind == "head"
        return (Place(name),) if untied else self._places.get(name, ())

    def _plain(self) -> Iterator[Plain]:
        written = {entry.name for entry in self.entries}
        whole = {name for entry in self.entries for name in entry.unit.tied if name in self._stored}
        written |= {self._stored[name] for name in whole}
        if self._changed:
            rewritten_values = self._rewritten()
        for name in self._tensors.names:
            if name in written:
                continue
            stored = self._tensors.get(name)
            if self._changed and name in rewritten_values:
                stored = rewritten_values.pop(name).to(stored.dtype).reshape(stored.shape)
            yield Plain(name, stored)
        if self._changed:
            for name, values in rewritten_values.items():
                if name not in written and name not in self._tensors.names:
                    yield Plain(name, values.to(self.dtype))

    def _rewritten(self) -> dict[str, Tensor]:
        """All tensors of the rewritten copy by stored name, as views of it."""
        parameters = dict(self._model.named_parameters())
        found = {stored: parameters[name] for name, stored in self._stored.items() if name in parameters}
        for name, slot in self._graph.slots.items():
            start = 0
            for place in self._held(slot):
                rows = (
                    slot.unit.rows if place.name not in self._tensors.names else place.shape(self._tensors)[0]
                )
                part = slot.matrix()[start : start + rows]
                if place.expert is None:
                    found[place.name] = part.T if place.transposed else part
                elif name not in self._stored:
                    raise ExportError(
                        "Rewritten experts stored as one tensor cannot be written.", "Leave the rewrite out."
                    )
                start += rows
        return found


def _rows(codes: Codes, form: Format, entry: Entry) -> Codes:
    """The codes of some rows of a unit."""
    if (entry.start, entry.stop) == (0, entry.unit.rows):
        return codes
    if form.spec.granularity in ("tensor", "block"):
        raise ExportError(
            f"{entry.unit.name} shares its {form.spec.family} scales across weights that are stored apart.",
            "Choose a scale a channel or a group for it.",
        )
    each = len(codes.values) // entry.unit.rows
    some = slice(entry.start * each, entry.stop * each)
    return Codes(codes.values[some], codes.grid.take(some))
