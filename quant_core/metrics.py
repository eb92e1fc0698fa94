"""How far one model's predictions are from another's, from logits; natural logarithm, so nats a token.

Sensitivity and evaluation use these same functions. Logits have shape (positions, vocabulary); everything is
computed in float32 whatever dtype they come in.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_CHUNK = 1 << 19
"""Logits that are compared at a time on a CPU (2 MB in float32)."""


REST = 1e-7
"""Least probability of all tokens together that an endpoint did not name."""


def log_probabilities(logits: Tensor) -> Tensor:
    """Float32 log-softmax over the vocabulary, same shape."""
    return torch.log_softmax(logits.float(), dim=-1)


def kl_divergence(reference: Tensor, other: Tensor) -> Tensor:
    """KL(reference || other) at each position, shape (positions,), from log-probabilities of both.

    Kullback & Leibler 1951: the sum over tokens of p (log p - log q).
    """
    return (reference.exp() * (reference - other)).sum(dim=-1)


class Baseline:
    """What the original predicts at some positions, kept so that many changed models are compared with it quickly.

    With logits z0 and chances p of the original, d = z - z0 and any number m, the divergence is

        KL = log(sum p exp(d)) - sum p d = log(1 + sum p (exp(d - m) - 1)) - sum p (d - m).

    With the mean sum p d for m, the last form loses no small KL in the difference of large numbers. It needs no softmax
    of the changed model and is exactly 0 where nothing changed. Some rows are computed at a time, so that they stay in
    the cache.

    Args:
        logits: Of the original, (..., vocabulary).
    """

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits.float().flatten(0, -2)
        self._chances = self._logits.softmax(dim=-1)
        self._sound = logits.isfinite().all(dim=-1)

    def counted(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """KL at each position (...,) in nats, finite everywhere, and where the other's logits are not.

        Such a position counts as ln(vocabulary), what guessing among all tokens costs at most. Where the original's own
        are not finite nothing can be measured, and it counts as 0.
        """
        found = self.divergence(logits)
        bad = ~found.isfinite() & self._sound
        found = torch.where(bad, math.log(logits.shape[-1]), found)
        return torch.where(self._sound, found, 0.0), bad

    def divergence(self, logits: Tensor) -> Tensor:
        """KL(original || other) at each position (...,) in nats; not finite where either one's logits are not."""
        flat = logits.flatten(0, -2)
        rows = max(1, (_CHUNK if flat.device.type == "cpu" else _CHUNK * 64) // flat.shape[-1])
        parts = [
            _divergence(before, chances, after)
            for before, chances, after in zip(
                self._logits.split(rows), self._chances.split(rows), flat.split(rows), strict=True
            )
        ]
        return torch.cat(parts).view(logits.shape[:-1])


def _divergence(before: Tensor, chances: Tensor, after: Tensor) -> Tensor:
    moved: Tensor = after - before
    mean = torch.linalg.vecdot(chances, moved)
    moved -= mean[:, None]
    rest = torch.linalg.vecdot(chances, moved)  # what rounding left of the mean
    found: Tensor = torch.linalg.vecdot(chances, moved.expm1_()).log1p() - rest
    finite = found.isfinite()
    if not bool(finite.all()):  # exp overflows where a logit rises by 88
        whole = torch.logsumexp(after.float(), -1) - torch.logsumexp(before, -1) - mean
        found = torch.where(finite, found, whole)
    return found


def negative_log_likelihood(log_probs: Tensor, labels: Tensor) -> Tensor:
    """-log p(label) at each position, shape (positions,)."""
    return -log_probs.gather(-1, labels[..., None]).squeeze(-1)


def top1_agreement(reference: Tensor, other: Tensor) -> Tensor:
    """Whether both find the same token likeliest, as bool (positions,); takes logits or log-probabilities."""
    return reference.argmax(dim=-1) == other.argmax(dim=-1)


def top_k_kl(reference: Tensor, tokens: Tensor, others: Tensor) -> Tensor:
    """KL(reference || other) at each position (positions,) in nats, of what is known of the other: its top k.

    The k tokens that the other named are a class each, and all the rest is one more, on both sides. Merging outcomes
    never raises a divergence (the log sum inequality: Cover & Thomas, "Elements of Information Theory", theorem 2.7.1),
    so this is at least 0 and at most the whole KL, and equals it where every token is named.

    Args:
        reference: Log-probabilities (positions, vocabulary).
        tokens: Ids that the other named (positions, k), none twice at a position; -1 where there are fewer than k.
        others: The other's log-probabilities of these (positions, k).

    What the other leaves for the rest is at least ``REST``, below which log-probabilities in float32 cannot tell it.
    """
    named = tokens >= 0
    p_log = reference.double().gather(-1, tokens.clamp(min=0))
    p, q = p_log.exp() * named, others.double().exp() * named
    inside = torch.where(named, p * (p_log - others.double()), 0.0).sum(dim=-1)
    p_rest = (1.0 - p.sum(dim=-1)).clamp(min=0.0)
    q_rest = (1.0 - q.sum(dim=-1)).clamp(min=REST)
    return (inside + torch.xlogy(p_rest, p_rest) - p_rest * q_rest.log()).clamp(min=0.0)


def mean_and_error(per_sequence: Tensor) -> tuple[float, float]:
    """Mean of per-sequence means (sequences,) and its standard error, which is 0 for a single sequence.

    Tokens of one sequence are not independent, so the error is taken over sequences.
    """
    values = per_sequence.double()
    if len(values) < 2:
        return float(values.mean()), 0.0
    return float(values.mean()), float(values.std(correction=1) / len(values) ** 0.5)
