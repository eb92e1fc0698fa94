"""Texts that say little about a model: what is odd about one, and what that does to the scores."""

from __future__ import annotations

import math
from typing import Any

import torch

from quant_core.calibration.text import Tokens
from quant_core.metrics import log_probabilities, negative_log_likelihood
from quant_core.models.loading import LoadedModel

_READ = 512
"""Tokens that are read to see whether the model can read the text."""
_LOST = 0.8
"""Share of ln(vocabulary) that the model loses a token from which on it cannot. The bundled one loses 0.4 of it on its
own kind of story, 0.6 on a legal text, 0.9 on program code and 1.1 on German."""
_SAME = 0.5
"""Share of one token from which on the text repeats it."""


def doubts(loaded: LoadedModel, tokens: Tokens, length: int) -> tuple[str, ...]:
    """A sentence for each reason not to trust scores on a text; ``length`` is what a sequence was to have."""
    return tuple(filter(None, (_short(tokens, length), _repeated(tokens), _unread(loaded, tokens))))


def _short(tokens: Tokens, length: int) -> str:
    if tokens.count >= length:
        return ""
    rows, each = tokens.ids.shape
    return (
        f"The text ({tokens.label}) is shorter than one sequence of {length} tokens and was cut into {rows} of {each}: "
        "with so little before a token, attention is hardly tried, and the standard errors are themselves uncertain."
    )


def _repeated(tokens: Tokens) -> str:
    counts = tokens.ids.flatten().bincount()
    share = float(counts.max()) / tokens.count
    if share < _SAME:
        return ""
    return (
        f"{share:.0%} of the text ({tokens.label}) is one and the same token: the scores say how the model continues "
        "that, the standard errors are far too small, and other text will rank layers otherwise."
    )


def _unread(loaded: LoadedModel, tokens: Tokens) -> str:
    rows = max(1, _READ // tokens.ids.shape[1])
    ids = tokens.ids[:rows].to(loaded.device)
    model: Any = loaded.model
    with torch.no_grad():
        reference = log_probabilities(model(ids, use_cache=False).logits[:, :-1])
    lost = float(negative_log_likelihood(reference, ids[:, 1:]).mean())
    guessing = math.log(loaded.info.vocabulary)
    if not lost >= _LOST * guessing:
        return ""
    return (
        f"The model hardly reads this text ({tokens.label}): it loses {lost:.1f} nats a token, and guessing among all "
        f"tokens loses {guessing:.1f}. It may be in a language that the model never saw. The scores say what rounding "
        "does to its confusion, not to what it knows."
    )
