"""Rounding the units of a loaded model, with the statistics that methods ask for.

Statistics are collected for as many units at once as a share of the free memory holds, in the model's order, and kept
until others take their place: a small model is read once, a large one in a few passes.
"""

from __future__ import annotations

from collections.abc import Mapping

from quant_core.calibration.inputs import SAMPLES, Inputs
from quant_core.calibration.statistics import collect
from quant_core.calibration.text import Tokens, tokenize
from quant_core.jobs.context import Context
from quant_core.methods.slot_rounder import SlotRounder
from quant_core.methods.trained import Trained, find_trained
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel
from quant_core.models.memory import free_memory
from quant_core.models.patch import Weights, swap
from quant_core.registry import unknown_name
from quant_core.schema import ORIGINAL, Calibration, Setup

_SHARE = 0.25
"""Share of the free memory that statistics may take."""


class Rounder(SlotRounder):
    """Rounds the units of one model.

    Args:
        context: For progress, cancel, and text that the model writes itself.
        loaded: The model.
        calibration: The text that methods learn from, or its tokens.
        trained: A training whose codes are taken for the units it covers.
    """

    def __init__(
        self,
        context: Context,
        loaded: LoadedModel,
        calibration: Calibration | Tokens,
        trained: Trained | None = None,
    ) -> None:
        super().__init__(trained)
        self._context = context
        self._loaded = loaded
        self._calibration = calibration
        self._inputs: dict[str, Inputs] = {}
        self._gradients = False

    def weights(self, assignment: Mapping[str, str]) -> Weights:
        """New storage with every named unit rounded to its format, by full format name."""
        matrices = {}
        for name, form in assignment.items():
            if name not in self._loaded.graph.slots:
                raise unknown_name("weight", name, self._loaded.graph.slots)
            if form != ORIGINAL:
                matrices[name] = self.matrix(self._loaded.graph.slots[name], form)
        return swap(self._loaded.graph, matrices)

    def inputs(self, slot: Slot, gradients: bool = False) -> Inputs:
        """What entered a unit over the calibration text; read anew for it and those behind it if it is not kept."""
        name = slot.unit.name
        if name not in self._inputs or (gradients and not self._gradients):
            tokens = self.tokens()
            self._inputs.clear()
            self._gradients = gradients
            chunk = self._chunk(slot)
            self._inputs = collect(self._context, self._loaded, tokens, chunk, gradients=gradients)
        return self._inputs[name]

    def tokens(self) -> Tokens:
        """The calibration text as tokens."""
        if isinstance(self._calibration, Calibration):
            asked = self._calibration
            self._calibration = tokenize(
                self._context, self._loaded, asked.text, asked.tokens, asked.sequence
            )
        return self._calibration

    def _chunk(self, first: Slot) -> list[Slot]:
        """``first`` and the units behind it whose statistics fit into memory together."""
        slots = list(self._loaded.graph.slots.values())
        place = next(index for index, slot in enumerate(slots) if slot.unit.name == first.unit.name)
        room = free_memory(self._loaded.device) * _SHARE
        chunk: list[Slot] = []
        for slot in slots[place:]:
            if slot.unit.kind == "embedding" and slot is not first:
                continue
            fisher = slot.unit.rows if self._gradients else 0
            room -= 4 * slot.unit.columns * (slot.unit.columns + SAMPLES + fisher)
            if chunk and room < 0:
                break
            chunk.append(slot)
        return chunk


def rounder_for(context: Context, loaded: LoadedModel, setup: Setup) -> Rounder:
    """The rounder of a model that has gone through the rewrites of ``setup``, with its training if it names one."""
    key = setup.trained
    kept = find_trained(context.folder(), key, loaded.info.fingerprint, setup.transforms) if key else None
    return Rounder(context, loaded, setup.calibration, kept)
