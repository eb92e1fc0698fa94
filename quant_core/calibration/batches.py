"""How many sequences fit a batch, and what is back-propagated for it."""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.models.loading import LoadedModel

_LOGITS = 16_000_000
"""Logits a batch may hold (64 MB in float32), unless one sequence alone has more."""
_GPU = 16
"""How many times as many on a GPU, which is faster with more at a time."""
_ACTIVATIONS = 100_000_000
"""Inputs and gradients a batch may hold (400 MB in float32), unless one sequence alone has more."""
MOST_LABELS = 8
"""Labels that may be drawn at one position."""


def batch_rows(loaded: LoadedModel, length: int, values: int) -> int:
    """How many sequences of ``length`` fit a batch when a token takes ``values`` captured values."""
    logits = _LOGITS * (_GPU if loaded.device.type == "cuda" else 1)
    tokens = min(logits // loaded.info.vocabulary, _ACTIVATIONS // max(1, values))
    return max(1, tokens // length)


def label_uniforms(sequences: int, length: int, seed: int, label: int = 0) -> Tensor:
    """What decides the labels of a text: uniform numbers in [0, 1), (sequences, length).

    They are drawn on the CPU for the whole text at once, so that a label depends on the seed, on which of a position's
    labels it is (0 to ``MOST_LABELS`` - 1) and on its place, and neither on the device nor on the batches.
    """
    generator = torch.Generator().manual_seed(seed * MOST_LABELS + label)
    return torch.rand(sequences, length, generator=generator)


def label_gradient(logits: Tensor, uniforms: Tensor) -> Tensor:
    """D log p(label) / d logits for labels drawn from the model's own distribution: onehot(label) - p.

    Labels come from inverting the cumulative distribution.

    Args:
        logits: (sequences, length, vocabulary).
        uniforms: (sequences, length).
    """
    chances = logits.float().softmax(dim=-1)
    cumulative = chances.cumsum(dim=-1)
    target = uniforms.to(logits.device)[..., None] * cumulative[..., -1:]
    labels = torch.searchsorted(cumulative, target, right=True).clamp_(max=logits.shape[-1] - 1)
    return chances.neg_().scatter_add_(-1, labels, torch.ones_like(target)).to(logits.dtype)
