"""How many sequences fit a batch, and what is back-propagated for it."""

from __future__ import annotations

import torch
from torch import Tensor

from quant_core.models.loading import LoadedModel

_LOGITS = 16_000_000
"""Logits a batch may hold (64 MB in float32), unless one sequence alone has more."""
_ACTIVATIONS = 100_000_000
"""Inputs and gradients a batch may hold (400 MB in float32), unless one sequence alone has more."""


def batch_rows(loaded: LoadedModel, length: int, values: int) -> int:
    """How many sequences of ``length`` fit a batch when a token takes ``values`` captured values."""
    tokens = min(_LOGITS // loaded.info.vocabulary, _ACTIVATIONS // max(1, values))
    return max(1, tokens // length)


def label_gradient(logits: Tensor, generator: torch.Generator) -> Tensor:
    """D log p(label) / d logits for labels drawn from the model's own distribution: onehot(label) - p.

    Labels come from inverting the cumulative distribution at uniform numbers drawn on the CPU.
    """
    chances = logits.float().softmax(dim=-1)
    uniform = torch.rand(logits.shape[:-1], generator=generator).to(logits.device)
    cumulative = chances.cumsum(dim=-1)
    target = uniform[..., None] * cumulative[..., -1:]
    labels = torch.searchsorted(cumulative, target, right=True).clamp_(max=logits.shape[-1] - 1)
    return chances.neg_().scatter_add_(-1, labels, torch.ones_like(target)).to(logits.dtype)
