"""The sweep that anyone would write first, as a yardstick: quantize one unit, run the whole model, compare."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quant_core.metrics import kl_divergence, log_probabilities
from quant_core.models.patch import patched, swap
from quant_core.sensitivity.measured import Sweep


def naive(sweep: Sweep) -> Tensor:
    """KL of every point by sequence, (units, formats, sequences), from a full pass a point."""
    formats = sweep.errors.formats
    ids = sweep.tokens.ids.to(sweep.loaded.device)
    model: Any = sweep.loaded.model
    result = torch.zeros(len(sweep.slots), len(formats), len(ids))
    with torch.no_grad():
        reference = log_probabilities(model(ids, use_cache=False).logits)
        for row, slot in enumerate(sweep.slots):
            for column, form in enumerate(formats):
                weights = swap(
                    sweep.loaded.graph, {slot.unit.name: slot.matrix() + sweep.errors.of(slot, form)}
                )
                with patched(weights):
                    other = log_probabilities(model(ids, use_cache=False).logits)
                result[row, column] = kl_divergence(reference, other).mean(dim=1).cpu()
    return result
