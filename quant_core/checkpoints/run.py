"""The job that says what a quantized checkpoint holds, and how far each weight is from the original's.

Weights are read and compared one at a time, the original's straight from its mapped files: neither model is loaded.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

from transformers import AutoConfig

from quant_core.checkpoints.base import Held, Quantized
from quant_core.checkpoints.fidelity import Distance, distance
from quant_core.checkpoints.match import Matched, Original, Piece, by_held, match
from quant_core.checkpoints.opening import content_of, located, open_checkpoint
from quant_core.errors import ExportError
from quant_core.jobs.context import Context
from quant_core.models.layout import layout
from quant_core.models.sources import check, fingerprint, locate, title_of
from quant_core.models.stored import StoredTensors
from quant_core.schema import HeldWeight, ImportRequest, ModelRef, QuantizedCheckpoint, Unmatched

_VALUES = 1 << 25
"""That are compared at once, where a matrix can be read in parts."""
_UNRELATED = 1.0
"""Relative error of weights that have nothing in common: |W' - W| is then larger than |W|."""


def read(context: Context, request: ImportRequest) -> QuantizedCheckpoint:
    """What a checkpoint holds, weight by weight, beside the original if one is named.

    Raises:
        ExportError: It is damaged, packed in a way that is not read here, or was made from another model.
        ModelError: A file is missing, or the original cannot be read or has changed.
        Cancelled: The job was stopped.
    """
    begun = time.monotonic()
    context.progress(0.0, "looking at the files")
    found = open_checkpoint(request.checkpoint, request.roots)
    original = matched = None
    if request.model is not None:
        context.progress(0.0, "checking the original's files")
        original = _original(request.model, request.roots, request.fingerprint)
        matched = match(found, original)
    context.progress(0.0, "hashing the checkpoint's files")
    content = content_of(located(request.checkpoint, request.roots)[1], context.check_cancelled)
    unmatched = [Unmatched(one.name, one.reason) for one in found.unread]
    weights: dict[int, HeldWeight] = {id(one): _told(one) for one in found.held}
    total = [0.0, 0.0]
    if original is not None and matched is not None:
        for one, distances, pieces in _compared(context, original, matched, unmatched):
            squares = sum(each.squares for each in distances)
            norm = sum(each.norm for each in distances)
            rescaled = any(each.rescaled for each in distances)
            weights[id(one)] = _told(one, pieces, math.sqrt(squares / norm) if norm else None, rescaled)
            if one.quantized:
                total = [total[0] + squares, total[1] + norm]
        unmatched += matched.unmatched
    error = math.sqrt(total[0] / total[1]) if total[1] else None
    if original is not None and error is not None and error > _UNRELATED:
        raise ExportError(
            f"{found.title} was not made from {original.title}: its weights have the same shapes, and nothing else in "
            f"common (they are off by {error:.0%} of their size).",
            "Name the model that it was made from as the original, or none.",
        )
    return QuantizedCheckpoint(
        title=found.title,
        method=found.method,
        content=content,
        fingerprint=request.fingerprint,
        original=original.title if original else "",
        weights=tuple(weights.values()),
        other_bits=found.plain_bits,
        bytes=found.bytes,
        error=error,
        unmatched=tuple(unmatched),
        seconds=time.monotonic() - begun,
        notes=_notes(found, list(weights.values()), matched),
    )


def _original(ref: ModelRef, roots: Sequence[str], expected: str) -> Original:
    checkpoint = check(locate(ref, roots), title_of(ref))
    if fingerprint(checkpoint) != expected:
        raise ExportError(f"{checkpoint.title} has changed since it was opened.", "Open it again.")
    tensors = StoredTensors(checkpoint.folder, checkpoint.title)
    units, places = layout(checkpoint, tensors)
    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    return Original(checkpoint.title, config, units, places, tensors)


def _compared(
    context: Context, original: Original, matched: Matched, unmatched: list[Unmatched]
) -> Iterator[tuple[Held, list[Distance], list[Piece]]]:
    """Every matched matrix with its distances; those that cannot be read are added to ``unmatched``."""
    whole = sum(piece.rows * piece.held.columns for piece in matched.pieces) or 1
    done = 0
    for held, pieces in by_held(matched.pieces):
        context.progress(done / whole, held.name)
        done += sum(piece.rows * held.columns for piece in pieces)
        try:
            distances = [each for piece in pieces for each in _distances(context, piece, original)]
        except ExportError as error:
            unmatched.append(Unmatched(held.name, error.message))
            continue
        if all(math.isfinite(each.squares) for each in distances):
            yield held, distances, pieces
        else:
            unmatched.append(Unmatched(held.name, "It holds values that are no finite numbers."))


def _distances(context: Context, piece: Piece, original: Original) -> Iterator[Distance]:
    """Of a piece: of all its rows at once, or of stretches of them where it is large."""
    origin = piece.original(original.tensors)
    columns = piece.held.columns
    if piece.heads or not piece.held.by_rows or piece.rows * columns <= _VALUES:
        yield distance(piece.values(), origin, whole=True)
        return
    step = max(1, _VALUES // columns)
    for start in range(0, piece.rows, step):
        context.check_cancelled()
        some = origin[start : start + step]
        yield distance(piece.values(start, start + step), some, whole=False)


def _told(
    held: Held, pieces: Sequence[Piece] = (), error: float | None = None, rescaled: bool = False
) -> HeldWeight:
    return HeldWeight(
        name=held.name if held.expert is None else f"{held.name}[{held.expert}]",
        unit=pieces[0].unit.name if pieces else "",
        holds=held.holds,
        format=held.format,
        quantized=held.quantized,
        rows=held.rows,
        columns=held.columns,
        bits=held.bits,
        error=error,
        rescaled=rescaled,
    )


def _notes(found: Quantized, weights: Sequence[HeldWeight], matched: Matched | None) -> tuple[str, ...]:
    notes = []
    rescaled = sum(one.rescaled for one in weights)
    if rescaled:
        notes.append(
            f"The inputs or outputs of {rescaled:,} weights are rescaled, as AWQ does and the layers before them make "
            "up for: their error is what is left once that is undone."
        )
    if matched is not None and any(piece.spare for piece in matched.pieces):
        notes.append(
            "The checkpoint stores the head apart from the embedding, which the original ties: text is written with "
            "the embedding's values for both."
        )
    if found.method == "bitsandbytes" and any(one.format.startswith("llm_int8") for one in weights):
        notes.append(
            "bitsandbytes rounds the inputs of these layers to 8 bits too, which is not compared here."
        )
    return tuple(notes)
