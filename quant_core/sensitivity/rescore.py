"""The rescoring job: further formats of a sweep from its score state, without running the model.

Only the weights are read. Rounding methods learn from what the state keeps of the inputs. A rewritten model is the
rewritten copy that the sweep scored, made again unless it is still in memory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from quant_core.calibration.inputs import Inputs
from quant_core.formats import Format, find
from quant_core.jobs.context import Context
from quant_core.methods import rounding
from quant_core.methods.slot_rounder import SlotRounder
from quant_core.models.slots import Slot
from quant_core.models.stored import StoredWeights
from quant_core.schema import ORIGINAL, RescoreRequest, ScoreTable, Unit
from quant_core.sensitivity.factors import square
from quant_core.sensitivity.state import ScoreState

DIAGONAL = (
    "Fisher weights were taken as the product of what the score state keeps of inputs and of gradients."
)
"""What a table's notes say where a method asked for gradients."""

SAME_TEXT = (
    "From the score state, methods learn from the text that they are scored on, so that their scores are too low, the "
    "more so the fewer tokens there are; a sweep with them scores them on text of its own."
)
"""What they say where a method learned from inputs."""


class _FromState(SlotRounder):
    """Rounds with what a state keeps of a unit's inputs."""

    def __init__(self, state: ScoreState) -> None:
        super().__init__()
        self._state = state
        self.approximated = False

    def inputs(self, slot: Slot, gradients: bool = False) -> Inputs:
        """From the state; gradients as its factors have them."""
        self.approximated |= gradients
        return self._state.inputs(slot.unit.name, slot.parameter.device)


class _Cell(NamedTuple):
    """The scores of one unit in one format."""

    fisher: float
    stderr: float
    output: float
    weight: float


def rescore(context: Context, request: RescoreRequest) -> ScoreTable:
    """Score the request's formats from a sweep's state: the columns that the sweep would have had, and no others.

    ``fisher`` is the factored score times the unit's anchor (``anchors``); ``output`` and ``weight`` are as in a sweep.

    Raises:
        QuantError: The state is gone, damaged or of another model; a unit was not scored.
        FormatError: A format does not exist, or its method cannot round to it.
    """
    begun = time.monotonic()
    state = ScoreState(context.folder(), request.state, request.fingerprint)
    os.utime(state.path)  # states used longest ago are the first to go
    names = dict.fromkeys(find(name).name for name in request.formats)
    forms = [find(name) for name in names if name != ORIGINAL]
    units = [state.unit(name).unit for name in request.units or state.head.units]
    weights, rounder = _weights(context, request, state, units), _FromState(state)
    rows = []
    for place, unit in enumerate(units):
        context.progress(place / len(units), f"{place} of {len(units)} layers from the score state")
        rows.append(_scores(state, weights(unit), forms, rounder))
    storage = [[form.storage(unit.rows, unit.columns, unit.bits) for form in forms] for unit in units]
    sequences, length = state.tokens().ids.shape
    notes = [SAME_TEXT] if any(map(rounding.learns, forms)) else []
    notes += [DIAGONAL] if rounder.approximated else []
    notes += [f"{where}: {note}." for where, note in rounder.notes.items()]
    return ScoreTable(
        fingerprint=request.fingerprint,
        units=tuple(unit.name for unit in units),
        formats=tuple(form.name for form in forms),
        storage_bits=tuple(tuple(cell.total for cell in row) for row in storage),
        padded=tuple(tuple(cell.padded for cell in row) for row in storage),
        tokens=sequences * length,
        sequences=sequences,
        text_hash=state.head.text_hash,
        text_label=state.head.text_label,
        seed=state.head.seed,
        seconds=time.monotonic() - begun,
        weight=tuple(tuple(cell.weight for cell in row) for row in rows),
        output=tuple(tuple(cell.output for cell in row) for row in rows),
        fisher=tuple(tuple(cell.fisher for cell in row) for row in rows),
        fisher_stderr=tuple(tuple(cell.stderr for cell in row) for row in rows),
        notes=tuple(notes),
        transforms=state.head.transforms,
        state=request.state,
        rescored=tuple(form.name for form in forms),
    )


def _weights(
    context: Context, request: RescoreRequest, state: ScoreState, units: Sequence[Unit]
) -> Callable[[Unit], Slot]:
    """Where units come from: the checkpoint's files if they are there as they are used, else the model."""
    transforms = state.head.transforms
    if not transforms and not torch.cuda.is_available():
        stored = StoredWeights(request.model, request.roots, request.fingerprint, state.head.dtype)
        if all(map(stored.holds, units)):
            return stored.slot
    from quant_core.methods.rewrite import (
        rewritten,  # loads transformers, which takes longer than all else here
    )

    original = context.loaded(request.model, request.roots, request.fingerprint)
    decided = {unit.name: state.head.searched for unit in original.graph.units if unit.decided}
    searched = decided if state.head.searched else {}
    slots = rewritten(context, original, transforms, searched, state.learned()).graph.slots
    return lambda unit: slots[unit.name]


def _scores(state: ScoreState, slot: Slot, forms: list[Format], rounder: SlotRounder) -> list[_Cell]:
    """One unit in each format."""
    weight = slot.matrix().float()
    scorer, energy = state.scorer(slot.unit.name, weight.device), square(weight)
    cells = []
    for form in forms:
        error = rounder.matrix(slot, form.name).float() - weight
        cells.append(
            _Cell(*scorer.score(error, rounding.learns(form)), square(error) / energy if energy else 0.0)
        )
    return cells
