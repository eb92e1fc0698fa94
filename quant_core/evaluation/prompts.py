"""Two variants writing from every prompt of a set, for readers who do not know which is which."""

from __future__ import annotations

import time

from quant_core.errors import TextError
from quant_core.evaluation.generation import Writer, encode, write
from quant_core.jobs.context import Context
from quant_core.methods.variant import variants_of
from quant_core.schema import PromptsRequest, PromptTexts


def prompts(context: Context, request: PromptsRequest) -> PromptTexts:
    """Write from each prompt with both variants and the same random numbers; ``TextError`` names one that fails."""
    loaded = context.loaded(request.model, request.roots, request.fingerprint)
    begun = time.monotonic()
    encoded = []
    for number, prompt in enumerate(request.prompts, 1):
        try:
            encoded.append(encode(loaded, prompt, request.tokens, request.chat))
        except TextError as error:
            raise TextError(f"Prompt {number}: {error.message}", error.hint) from error
    variants = variants_of(context, loaded, request.variants)
    texts: list[tuple[str, str]] = []
    for place, ids in enumerate(encoded):
        sides = [Writer(variant, ids) for variant in variants]
        doing = f"prompt {place + 1} of {len(encoded)}"
        context.progress(place / len(encoded), doing)
        written = write(
            dict(enumerate(sides)), request.tokens, request.seed + place, request.temperature, request.top_p
        )
        for step, _, _ in written:
            context.progress((place + (step + 1) / request.tokens) / len(encoded), doing)
        first, second = ("".join(side.pieces) for side in sides)
        texts.append((first, second))
    notes = dict.fromkeys(note for variant in variants for note in variant.notes)
    return PromptTexts(tuple(texts), time.monotonic() - begun, tuple(notes))
