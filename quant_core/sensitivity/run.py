"""The sensitivity job: what does each unit in each format cost?"""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor

from quant_core.calibration.text import tokenize
from quant_core.formats import find
from quant_core.jobs.context import Context
from quant_core.methods.rewrite import rewritten
from quant_core.methods.rounder import Rounder
from quant_core.schema import ORIGINAL, Matrix, ScoreTable, SensitivityRequest
from quant_core.sensitivity.errors import RoundingErrors
from quant_core.sensitivity.fisher import LABELS, bootstrap_error, score_layers
from quant_core.sensitivity.keep import keep_state, too_large
from quant_core.sensitivity.measured import measure_layers
from quant_core.sensitivity.sums import StateSums


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
    notes: list[str] = []
    if request.score == "measured":
        per_sequence = measure_layers(context, loaded, tokens, slots, errors)
        found["measured"] = _matrix(per_sequence.mean(dim=-1))
        found["measured_stderr"] = _matrix(bootstrap_error(per_sequence, request.seed))
    elif request.score != "weight":
        gradients = request.score == "fisher"
        reason = too_large(slots, context.folder()) if gradients else ""
        sums = StateSums(slots, tokens.count, LABELS, request.seed) if gradients and not reason else None
        scores = score_layers(
            context, loaded, tokens, slots, errors, seed=request.seed, gradients=gradients, sums=sums
        )
        found["output"] = _matrix(scores.output)
        if scores.fisher is not None:
            exact, stderr = scores.fisher.mean(dim=-1), bootstrap_error(scores.fisher, request.seed)
            found["fisher"], found["fisher_stderr"] = _matrix(exact), _matrix(stderr)
            if sums is not None:
                context.progress(1.0, "Keeping the score state")
                searched = next(iter(first.values()), "")
                found["state"] = keep_state(
                    context.folder(),
                    request,
                    searched,
                    tokens,
                    slots,
                    errors,
                    sums,
                    exact,
                    stderr,
                    scores.signal,
                )
        notes += [reason] if reason else []
    weight = []
    for slot in slots:
        context.check_cancelled()
        weight.append(tuple(errors.relative(slot)))
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
        notes=(*notes, *(f"{where}: {note}." for where, note in rounder.notes.items())),
        transforms=request.setup.transforms,
        **found,
    )


def _matrix(values: Tensor) -> Matrix:
    return tuple(tuple(row) for row in values.tolist())
