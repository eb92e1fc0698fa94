"""The sensitivity job: what does each unit in each format cost?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from quant_core.calibration.suitability import doubts
from quant_core.calibration.text import Tokens, stretches
from quant_core.formats import Format, find
from quant_core.jobs.context import Context
from quant_core.methods.rewrite import rewritten
from quant_core.methods.rounder import Rounder
from quant_core.methods.rounding import learns
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel
from quant_core.schema import ORIGINAL, Matrix, ScoresEvent, ScoreTable, SensitivityRequest, replace
from quant_core.sensitivity.errors import RoundingErrors
from quant_core.sensitivity.fisher import LayerScores, bootstrap_error, score_layers, uncertainty
from quant_core.sensitivity.halfway import Halfway
from quant_core.sensitivity.keep import keep_state, too_large
from quant_core.sensitivity.measured import Sweep, measure_layers
from quant_core.sensitivity.points import Points
from quant_core.sensitivity.sums import StateSums
from quant_core.store.keys import request_key

PARTS = 16
"""How often the scores so far are streamed, at most."""
_RESUMED = "No score state was kept, for the sweep went on from where it had been stopped."
_HALVED = "Memory ran out, so the text was read again with {} sequences at a time."


def run(context: Context, request: SensitivityRequest) -> ScoreTable:
    """Score every decided unit (embedding and head too, if asked) in every format of the request.

    ``fisher`` brings output and weight error along, ``output`` brings weight error, and ``measured`` brings weight
    error; see the modules of this folder for what each is. Scores under the setup's rewrites are those of the
    rewritten model, which computes the same; a rewrite that searches takes every decided unit to be in the first of
    the formats. Where a rounding learns from text, it does so from the text asked for, as it will in a recipe, and all
    formats are scored on as much of the text behind that. What is known so far is streamed while the sweep runs: errors
    of the weights first, where they can be kept, then the scores over the tokens read.
    """
    original = context.loaded(request.model, request.roots, request.fingerprint)
    names = dict.fromkeys(find(name).name for name in request.formats)
    formats = [find(name) for name in names if name != ORIGINAL]
    apart = any(map(learns, formats))
    learned, tokens, parted = stretches(
        context, original, request.text, request.tokens, request.sequence, apart
    )
    begun = time.monotonic()
    first = {unit.name: form.name for form in formats[:1] for unit in original.graph.units if unit.decided}
    loaded = rewritten(context, original, request.setup.transforms, first, learned)
    slots = [slot for slot in loaded.graph.slots.values() if slot.unit.decided or request.embeddings]
    rounder = Rounder(context, loaded, learned)
    errors = RoundingErrors(formats, rounder)
    blockwise = request.score != "measured" and (loaded.mapped or not errors.fit(slots))
    if blockwise:  # each weight is rounded once, as its block is at work
        errors = RoundingErrors(formats, rounder, once=True)
    unsuited = tuple(filter(None, (parted, *doubts(original, tokens, request.sequence))))
    sheet = _Sheet(request, loaded, slots, formats, tokens, rounder, begun, unsuited)
    if request.score == "measured":
        return _measure(context, sheet, errors)
    quick = request.score == "weight" or not blockwise
    weight = _weight_errors(context, slots, errors) if quick else ()
    if request.score == "weight":
        return sheet.table({"weight": weight})
    if weight:
        context.emit(ScoresEvent(sheet.table({"weight": weight}, 0)))

    told = 0

    def report(scores: LayerScores, sequences: int, rows: Sequence[int]) -> None:
        nonlocal told
        part = PARTS * sequences * len(rows) // (len(tokens.ids) * len(slots))
        if told < part < PARTS:
            told = part
            found = _scores(scores, request.seed) | {"weight": weight}
            context.emit(ScoresEvent(sheet.table(found, sequences, rows=rows)))

    gradients = request.score == "fisher"
    halfway = _halfway(context, sheet) if blockwise and not any(slot.unit.tied for slot in slots) else None
    reason = too_large(slots, context.folder()) if gradients else ""
    sums = StateSums(slots, tokens.count, request.seed) if gradients and not reason else None
    scores = score_layers(
        context,
        loaded,
        tokens,
        slots,
        errors,
        seed=request.seed,
        gradients=gradients,
        precision=request.precision,
        sums=sums,
        report=report,
        blockwise=blockwise,
        halfway=halfway,
    )
    halved = _HALVED.format(scores.rows) if scores.rows else ""
    lost = _lost(scores, slots, tokens.count)
    if lost or scores.resumed:
        sums, reason = None, "" if lost else _RESUMED
    table = sheet.table(
        _scores(scores, request.seed) | {"weight": weight or _weight_errors(context, slots, errors)},
        notes=tuple(filter(None, (lost, reason, halved, _unreached(scores, request)))),
    )
    return table if sums is None else replace(table, state=_keep(context, sheet, errors, sums, scores, first))


def _lost(scores: LayerScores, slots: Sequence[Slot], tokens: int) -> str:
    """Where the model's own numbers are not finite, one sentence; empty if they are everywhere."""
    bad = [(slot.unit, count) for slot, count in zip(slots, scores.lost, strict=True) if count]
    if not bad:
        return ""
    first, count = min(bad, key=lambda entry: entry[0].block if entry[0].block >= 0 else len(slots))
    return (
        f"What {first.name} computes is not finite at {count:,} of {tokens:,} tokens: these and what follows from them "
        "are left out of the scores, and no score state was kept."
    )


def _halfway(context: Context, sheet: _Sheet) -> Halfway:
    """Where a sweep block by block keeps what it knows."""
    head = {"fingerprint": sheet.loaded.info.fingerprint, "text_hash": sheet.tokens.text_hash}
    return Halfway(context.folder(), request_key(sheet.request), head)


def _unreached(scores: LayerScores, request: SensitivityRequest) -> str:
    """That scores are less certain than asked, one sentence; empty if they are not."""
    if scores.fisher is None or not request.precision:
        return ""
    left = uncertainty(scores.fisher, request.seed)
    if left <= request.precision:
        return ""
    return (
        f"Scores are known to within {100 * left:.1f} %, not {100 * request.precision:g} %, after {scores.labels} "
        "readings of the text: read more tokens to come nearer."
    )


@dataclass(frozen=True)
class _Sheet:
    """All that a table says beside its scores."""

    request: SensitivityRequest
    loaded: LoadedModel
    slots: Sequence[Slot]
    formats: Sequence[Format]
    tokens: Tokens
    rounder: Rounder
    begun: float
    doubts: tuple[str, ...]
    """What is odd about the text, or was done with it, a sentence each."""

    def table(
        self,
        scores: Mapping[str, Any],
        sequences: int | None = None,
        notes: tuple[str, ...] = (),
        rows: Sequence[int] | None = None,
    ) -> ScoreTable:
        """The table of ``scores``, fields and their values, over the first ``sequences``; over all by default.

        ``rows`` says which of the units they are of; all by default.
        """
        slots = self.slots if rows is None else [self.slots[row] for row in rows]
        count, length = self.tokens.ids.shape
        read = count if sequences is None else sequences
        storage = [
            [form.storage(slot.unit.rows, slot.unit.columns, slot.unit.bits) for form in self.formats]
            for slot in slots
        ]
        table = ScoreTable(
            fingerprint=self.loaded.info.fingerprint,
            units=tuple(slot.unit.name for slot in slots),
            formats=tuple(form.name for form in self.formats),
            storage_bits=tuple(tuple(cell.total for cell in row) for row in storage),
            padded=tuple(tuple(cell.padded for cell in row) for row in storage),
            tokens=read * length,
            sequences=read,
            text_hash=self.tokens.text_hash,
            text_label=self.tokens.label,
            seed=self.request.seed,
            seconds=time.monotonic() - self.begun,
            notes=self.doubts
            + notes
            + tuple(f"{where}: {note}." for where, note in self.rounder.notes.items()),
            transforms=self.request.setup.transforms,
            precision=self.request.precision,
        )
        return replace(table, **scores)


def _measure(context: Context, sheet: _Sheet, errors: RoundingErrors) -> ScoreTable:
    """The table of measured KL; its points are kept in a file until all are there."""
    points = Points(
        context.folder(),
        request_key(sheet.request),
        (len(sheet.slots), len(sheet.formats), len(sheet.tokens.ids)),
        {"fingerprint": sheet.loaded.info.fingerprint, "text_hash": sheet.tokens.text_hash},
    )
    notes = measure_layers(context, Sweep(sheet.loaded, sheet.tokens, sheet.slots, errors), points)
    found = {
        "measured": _matrix(points.kl.mean(dim=-1)),
        "measured_stderr": _matrix(bootstrap_error(points.kl, sheet.request.seed)),
        "weight": _weight_errors(context, sheet.slots, errors),
    }
    points.close()
    return sheet.table(found, notes=notes)


def _keep(
    context: Context,
    sheet: _Sheet,
    errors: RoundingErrors,
    sums: StateSums,
    scores: LayerScores,
    searched: Mapping[str, str],
) -> str:
    """The key of the score state that the pass leaves."""
    assert scores.fisher is not None
    context.progress(1.0, "Keeping the score state")
    return keep_state(
        context.folder(),
        sheet.request,
        next(iter(searched.values()), ""),
        sheet.tokens,
        sheet.rounder.tokens(),
        sheet.slots,
        errors,
        sums,
        scores.fisher.mean(dim=-1),
        bootstrap_error(scores.fisher, sheet.request.seed),
        scores.signal,
    )


def _weight_errors(context: Context, slots: Sequence[Slot], errors: RoundingErrors) -> Matrix:
    found = []
    for done, slot in enumerate(slots):
        context.progress(0.0, f"Rounding: {done} of {len(slots)} layers")
        found.append(tuple(errors.relative(slot)))
    return tuple(found)


def _scores(scores: LayerScores, seed: int) -> dict[str, Any]:
    """The fields of a table that a Fisher pass fills."""
    found: dict[str, Any] = {"output": _matrix(scores.output)}
    if scores.fisher is not None:
        found["labels"] = scores.labels
        found["fisher"] = _matrix(scores.fisher.mean(dim=-1))
        found["fisher_stderr"] = _matrix(bootstrap_error(scores.fisher, seed))
    return found


def _matrix(values: Tensor) -> Matrix:
    return tuple(tuple(row) for row in values.tolist())
