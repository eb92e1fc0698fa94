"""How a variant saw the tokens of its text as it wrote them, and how far it was from the original at each.

Both read the same tokens (teacher forcing), so that what they predict for a place rests on the same text before it,
though the original alone would have written another. The text is read in pieces that share a KV cache, so that the
logits of one piece are all that is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quant_core.jobs.context import Context
from quant_core.methods.variant import Variant
from quant_core.metrics import Baseline, log_probabilities, negative_log_likelihood
from quant_core.schema import TokenReading

_LOGITS = 1 << 24
"""Logits of one variant that are held at a time (64 MB in float32)."""


def read_tokens(
    context: Context,
    original: Variant,
    variant: Variant,
    prompt: Sequence[int],
    ids: Sequence[int],
    piece: int = 0,
) -> TokenReading:
    """The probability of every token of ``ids``, which go on from ``prompt``, and the KL divergence before it is drawn.

    The probability is what the variant gives the token that stands there; the divergence is that of what the variant
    predicts for the place from what the original does, KL(original || variant) in nats. Both are at temperature 1 and
    over the whole vocabulary, however the token was drawn.

    Args:
        context: For cancel.
        original: The model as it is.
        variant: What wrote the text; may be the original itself, whose divergence is 0.
        prompt: Token ids before the text, at least one.
        ids: Token ids of the text.
        piece: Tokens that are read at a time; 0 for as many as ``_LOGITS`` hold.
    """
    if not ids:
        return TokenReading((), (), ())
    text = torch.tensor([*prompt, *ids], dtype=torch.long)
    size = piece or max(1, _LOGITS // variant.loaded.info.vocabulary)
    writer, reader = _Reader(variant), None if variant is original else _Reader(original)
    chances: list[Tensor] = []
    moved: list[Tensor] = []
    for start, places, labels in zip(
        range(0, len(text), size), text[:-1].split(size), text[1:].split(size), strict=False
    ):
        context.check_cancelled()
        skipped = max(0, len(prompt) - 1 - start)  # these predict the prompt
        mine = writer.logits(places)[skipped:]
        chances.append((-negative_log_likelihood(log_probabilities(mine), labels[skipped:])).exp())
        if reader is None:
            moved.append(torch.zeros(len(mine)))
        else:
            moved.append(Baseline(reader.logits(places)[skipped:]).counted(mine)[0])
    return TokenReading(
        tuple(ids), tuple(torch.cat(chances).nan_to_num(0.0).tolist()), tuple(torch.cat(moved).tolist())
    )


class _Reader:
    """A variant reading a text from its beginning, a piece at a time."""

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self._cache: Any = None

    def logits(self, ids: Tensor) -> Tensor:
        """What it predicts behind each token of the next piece: (tokens, vocabulary) in float32, on the CPU."""
        with torch.no_grad(), self._variant.active() as model:
            run: Any = model
            out = run(ids[None].to(self._variant.loaded.device), past_key_values=self._cache, use_cache=True)
        self._cache = out.past_key_values
        logits: Tensor = out.logits[0].float().cpu()
        return logits
