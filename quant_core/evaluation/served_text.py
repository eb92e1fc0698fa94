"""A served model writes from a prompt, and beside it the original and the approved variant.

The server writes first, while nothing else is computed here, so that its speed is its own and the connection's. It
draws with random numbers of its own: at temperature 0 alone can texts be compared word for word.
"""

from __future__ import annotations

import time

from quant_core.evaluation.endpoint import Piece, Server
from quant_core.evaluation.generation import Writer, encode, write
from quant_core.jobs.context import Context
from quant_core.methods.variant import Variant, make_variant
from quant_core.schema import ServedRequest, ServedText, Side, TokenEvent


def served_text(context: Context, request: ServedRequest) -> ServedText:
    """Stream the endpoint's continuation, then write the others; each piece is emitted as it comes.

    Raises:
        EndpointError: The endpoint cannot be reached, or its text broke off.
        TextError: The prompt is empty or too long for the model.
    """
    loaded = context.loaded(request.model, request.roots, request.fingerprint)
    begun = time.monotonic()
    prompt = encode(loaded, request.prompt, request.tokens, chat=False)
    pieces: list[Piece] = []
    context.progress(0.0, "The server writes")
    with Server(request.endpoint) as server:
        name = server.name
        for piece in server.stream(
            request.prompt, request.tokens, request.seed, request.temperature, request.top_p
        ):
            context.check_cancelled()
            context.emit(TokenEvent("other", len(pieces), piece.text))
            pieces.append(piece)
        counted = server.counted
    written = len(pieces) if counted is None else counted
    sides: dict[Side, Writer] = {"original": Writer(Variant(loaded, {}, ()), prompt)}
    notes: tuple[str, ...] = ()
    if request.assignment is not None:
        variant = make_variant(context, loaded, request.assignment, request.setup)
        notes = variant.notes
        sides["recipe"] = Writer(variant, prompt)
    for step, side, text in write(sides, request.tokens, request.seed, request.temperature, request.top_p):
        if text is not None:
            context.emit(TokenEvent(side, step, text))
        context.progress(0.5 + 0.5 * (step + 1) / request.tokens, f"{step + 1} of {request.tokens} tokens")
    return ServedText(
        original=tuple(sides["original"].pieces),
        approved=tuple(sides["recipe"].pieces) if "recipe" in sides else (),
        served=tuple(piece.text for piece in pieces),
        first=pieces[0].seconds if pieces else 0.0,
        rate=_rate(pieces, written),
        written=written,
        counted=counted is not None,
        name=name,
        seconds=time.monotonic() - begun,
        notes=notes,
    )


def _rate(pieces: list[Piece], written: int) -> float | None:
    """Tokens a second behind the first piece; None for fewer than three, or where all came at once."""
    taken = pieces[-1].seconds - pieces[0].seconds if pieces else 0.0
    return (written - 1) / taken if len(pieces) > 2 and written > 2 and taken > 0 else None
