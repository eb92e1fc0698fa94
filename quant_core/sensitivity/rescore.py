"""The rescoring job: further formats of a sweep from its score state, without running the model.

Only the weights are read. Rounding methods learn from what the state keeps of the inputs. A rewritten model is the
rewritten copy that the sweep scored, made again unless it is still in memory.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from quant_core.calibration.statistics import Inputs
from quant_core.formats import Format, find
from quant_core.jobs.context import Context
from quant_core.methods.rewrite import rewritten
from quant_core.methods.rounder import Rounder
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel
from quant_core.schema import ORIGINAL, RescoreRequest, ScoreTable
from quant_core.sensitivity.factors import square
from quant_core.sensitivity.state import ScoreState

DIAGONAL = (
    "Fisher weights were taken as the product of what the score state keeps of inputs and of gradients."
)
"""What a table's notes say where a method asked for gradients."""


class _FromState(Rounder):
    """Rounds with what a state keeps of a unit's inputs."""

    def __init__(self, context: Context, loaded: LoadedModel, state: ScoreState) -> None:
        super().__init__(context, loaded, state.tokens())
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
    units = request.units or tuple(state.head.units)
    loaded = _scored_model(context, request, state)
    rounder = _FromState(context, loaded, state)
    rows = []
    for place, unit in enumerate(units):
        context.progress(place / len(units), f"{place} of {len(units)} layers from the score state")
        rows.append(_scores(state, _slot(loaded, state, unit), forms, rounder))
    storage = [
        [form.storage(slot.unit.rows, slot.unit.columns, slot.unit.bits) for form in forms]
        for slot in (loaded.graph.slots[unit] for unit in units)
    ]
    sequences, length = state.tokens().ids.shape
    notes = [f"{where}: {note}." for where, note in rounder.notes.items()]
    return ScoreTable(
        fingerprint=request.fingerprint,
        units=units,
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
        notes=(*([DIAGONAL] if rounder.approximated else []), *notes),
        transforms=state.head.transforms,
        state=request.state,
        rescored=tuple(form.name for form in forms),
    )


def _scored_model(context: Context, request: RescoreRequest, state: ScoreState) -> LoadedModel:
    """The model that the sweep scored."""
    original = context.loaded(request.model, request.roots, request.fingerprint)
    searched = {unit.name: state.head.searched for unit in original.graph.units if unit.decided}
    transforms = state.head.transforms
    return rewritten(context, original, transforms, searched if state.head.searched else {}, state.tokens())


def _slot(loaded: LoadedModel, state: ScoreState, unit: str) -> Slot:
    state.unit(unit)  # a unit that was not scored is told of by the state
    return loaded.graph.slots[unit]


def _scores(state: ScoreState, slot: Slot, forms: list[Format], rounder: Rounder) -> list[_Cell]:
    """One unit in each format."""
    weight = slot.matrix().float()
    scorer, energy = state.scorer(slot.unit.name, weight.device), square(weight)
    cells = []
    for form in forms:
        error = rounder.matrix(slot, form.name).float() - weight
        cells.append(_Cell(*scorer.score(error), square(error) / energy if energy else 0.0))
    return cells
