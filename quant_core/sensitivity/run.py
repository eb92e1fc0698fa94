"""The sensitivity job: what does each unit in each format cost?"""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor

from quant_core.calibration.suitability import doubts
from quant_core.calibration.text import tokenize
from quant_core.formats import find
from quant_core.jobs.context import Context
from quant_core.methods.rewrite import rewritten
from quant_core.methods.rounder import Rounder
from quant_core.schema import ORIGINAL, Matrix, ScoreTable, SensitivityRequest
from quant_core.sensitivity.errors import RoundingErrors
from quant_core.sensitivity.fisher import bootstrap_error, score_layers
from quant_core.sensitivity.measured import Sweep, measure_layers
from quant_core.sensitivity.points import Points
from quant_core.store.keys import request_key


def run(context: Context, request: SensitivityRequest) -> ScoreTable:
    """Score every decided unit (embedding and head too, if asked) in every format of the request.

    ``fisher`` brings output and weight error along, ``output`` brings weight error, and ``measured`` brings weight
    error; see the modules of this folder for what each is. Scores under the setup's rewrites are those of the
    rewritten model, which computes the same; a rewrite that searches takes every decided unit to be in the first of
    the formats.
    """
    original = context.loaded(request.model, request.roots, request.fingerprint)
    names = dict.fromkeys(find(name).name for name in request.formats)
    formats = [find(name) for name in names if name != ORIGINAL]
    tokens = tokenize(context, original, request.text, request.tokens, request.sequence)
    begun = time.monotonic()
    first = {unit.name: form.name for form in formats[:1] for unit in original.graph.units if unit.decided}
    loaded = rewritten(context, original, request.setup.transforms, first, tokens)
    slots = [slot for slot in loaded.graph.slots.values() if slot.unit.decided or request.embeddings]
    rounder = Rounder(context, loaded, tokens)
    errors = RoundingErrors(formats, rounder)
    found: dict[str, Any] = {}
    notes = doubts(original, tokens, request.sequence)
    points: Points | None = None
    if request.score == "measured":
        points = Points(
            context.folder(),
            request_key(request),
            (len(slots), len(formats), len(tokens.ids)),
            {"fingerprint": loaded.info.fingerprint, "text_hash": tokens.text_hash},
        )
        notes += measure_layers(context, Sweep(loaded, tokens, slots, errors), points)
        found["measured"] = _matrix(points.kl.mean(dim=-1))
        found["measured_stderr"] = _matrix(bootstrap_error(points.kl, request.seed))
    elif request.score != "weight":
        gradients = request.score == "fisher"
        scores = score_layers(context, loaded, tokens, slots, errors, seed=request.seed, gradients=gradients)
        found["output"] = _matrix(scores.output)
        if scores.fisher is not None:
            found["fisher"] = _matrix(scores.fisher.mean(dim=-1))
            found["fisher_stderr"] = _matrix(bootstrap_error(scores.fisher, request.seed))
    notes += tuple(f"{where}: {note}." for where, note in rounder.notes.items())
    weight = []
    for slot in slots:
        context.check_cancelled()
        weight.append(tuple(errors.relative(slot)))
    if points is not None:
        points.close()
    storage = [
        [form.storage(slot.unit.rows, slot.unit.columns, slot.unit.bits) for form in formats]
        for slot in slots
    ]
    return ScoreTable(
        fingerprint=loaded.info.fingerprint,
        units=tuple(slot.unit.name for slot in slots),
        formats=tuple(form.name for form in formats),
        storage_bits=tuple(tuple(cell.total for cell in row) for row in storage),
        padded=tuple(tuple(cell.padded for cell in row) for row in storage),
        tokens=tokens.count,
        sequences=len(tokens.ids),
        text_hash=tokens.text_hash,
        text_label=tokens.label,
        seed=request.seed,
        seconds=time.monotonic() - begun,
        weight=tuple(weight),
        notes=notes,
        transforms=request.setup.transforms,
        **found,
    )


def _matrix(values: Tensor) -> Matrix:
    return tuple(tuple(row) for row in values.tolist())
