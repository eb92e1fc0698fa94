"""The measured score: quantize one unit, run the whole model, and take the KL divergence to the original.

This is what the other scores try to predict, at the price of a full forward pass for each unit and format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from quant_core.calibration.batches import batch_rows
from quant_core.calibration.text import Tokens
from quant_core.jobs.context import Context
from quant_core.metrics import kl_divergence, log_probabilities
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel
from quant_core.models.patch import patched, swap
from quant_core.sensitivity.errors import RoundingErrors


def measure_layers(
    context: Context, loaded: LoadedModel, tokens: Tokens, slots: Sequence[Slot], errors: RoundingErrors
) -> Tensor:
    """KL in nats a token of every unit in every format, by sequence: (units, formats, sequences)."""
    formats = errors.formats
    sequences, length = tokens.ids.shape
    result = torch.zeros(len(slots), len(formats), sequences)
    model: Any = loaded.model
    step = batch_rows(loaded, length, 1)
    points = len(slots) * len(formats) * -(-sequences // step)
    done = 0
    for start in range(0, sequences, step):
        ids = tokens.ids[start : start + step].to(loaded.device)
        with torch.no_grad():
            reference = log_probabilities(model(ids, use_cache=False).logits)
        for row, slot in enumerate(slots):
            for column, form in enumerate(formats):
                context.progress(
                    done / points, f"{done:,} of {points:,} points: {slot.unit.name} in {form.name}"
                )
                weights = swap(loaded.graph, {slot.unit.name: slot.matrix() + errors.of(slot, form)})
                with torch.no_grad(), patched(weights):
                    other = log_probabilities(model(ids, use_cache=False).logits)
                result[row, column, start : start + step] = kl_divergence(reference, other).mean(dim=1).cpu()
                done += 1
    return result
