"""How far one model's predictions are from another's, from logits; natural logarithm, so nats a token.

Sensitivity and evaluation use these same functions. Logits have shape (positions, vocabulary); everything is
computed in float32 whatever dtype they come in.
"""

from __future__ import annotations

import torch
from torch import Tensor


def log_probabilities(logits: Tensor) -> Tensor:
    """Float32 log-softmax over the vocabulary, same shape."""
    return torch.log_softmax(logits.float(), dim=-1)


def kl_divergence(reference: Tensor, other: Tensor) -> Tensor:
    """KL(reference || other) at each position, shape (positions,), from log-probabilities of both.

    Kullback & Leibler 1951: the sum over tokens of p (log p - log q).
    """
    return (reference.exp() * (reference - other)).sum(dim=-1)


def negative_log_likelihood(log_probs: Tensor, labels: Tensor) -> Tensor:
    """-log p(label) at each position, shape (positions,)."""
    return -log_probs.gather(-1, labels[..., None]).squeeze(-1)


def top1_agreement(reference: Tensor, other: Tensor) -> Tensor:
    """Whether both find the same token likeliest, as bool (positions,); takes logits or log-probabilities."""
    return reference.argmax(dim=-1) == other.argmax(dim=-1)


def mean_and_error(per_sequence: Tensor) -> tuple[float, float]:
    """Mean of per-sequence means (sequences,) and its standard error, which is 0 for a single sequence.

    Tokens of one sequence are not independent, so the error is taken over sequences.
    """
    values = per_sequence.double()
    if len(values) < 2:
        return float(values.mean()), 0.0
    return float(values.mean()), float(values.std(correction=1) / len(values) ** 0.5)
