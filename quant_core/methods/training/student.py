"""The model in training: the original computes beside it, its weights are made anew from what is learned every step.

The loss is KL(original || student), the mean over all positions: every position teaches the whole next-token
distribution and not one token (distillation, Hinton et al. 2015, arXiv:1503.02531; for quantization, LLM-QAT, Liu et
al. 2023, arXiv:2305.17888, section 3.2). What else a setup does to the model, rounded inputs or a rounded KV cache, is
done to the student too; gradients pass through it as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quant_core.calibration.batches import batch_rows
from quant_core.methods.training.units import TrainedUnit
from quant_core.methods.variant import Variant
from quant_core.metrics import kl_divergence, log_probabilities
from quant_core.models.loading import LoadedModel
from quant_core.models.patch import compute_with
from quant_core.schema import replace


class Student:
    """A model whose units are in training.

    Args:
        loaded: The original.
        around: What is done beside rounding weights, and the model that it is done to (a rewritten copy, perhaps).
        units: The units in training, of that model, by name.
    """

    def __init__(self, loaded: LoadedModel, around: Variant, units: Mapping[str, TrainedUnit]) -> None:
        self.units = units
        self._original = loaded
        inputs = {name: _through(rounding) for name, rounding in around.inputs.items()}
        cache = None if around.cache is None else _through(around.cache)
        self._around = replace(around, weights={}, inputs=inputs, cache=cache)

    def learned(self) -> dict[str, Tensor]:
        """All that is learned, by unit and name."""
        return {
            f"{unit}|{name}": tensor
            for unit, state in self.units.items()
            for name, tensor in state.learned.items()
        }

    def backward(self, ids: Tensor) -> float:
        """The loss on sequences (rows, length), in nats a token; its gradients are added to what is learned.

        A batch that is too large is run in parts. The weights are made once: gradients of all parts are gathered on
        them and passed on to what is learned together.
        """
        weights = self._weights()
        leaves = {parameter: weight.detach().requires_grad_() for parameter, weight in weights.items()}
        total = 0.0
        for part in self._parts(ids):
            loss = self._divergence(part, leaves).sum() / ids.numel()
            loss.backward()
            total += float(loss.detach())
        used = [(weights[p], leaf.grad) for p, leaf in leaves.items() if leaf.grad is not None]
        torch.autograd.backward([weight for weight, _ in used], [gradient for _, gradient in used])
        return total

    @torch.no_grad()
    def divergence(self, ids: Tensor) -> float:
        """KL(original || student) on sequences (rows, length): the mean over all positions, in nats a token."""
        weights = self._weights()
        return sum(float(self._divergence(part, weights).sum()) for part in self._parts(ids)) / ids.numel()

    def _parts(self, ids: Tensor) -> Iterator[Tensor]:
        for part in ids.split(batch_rows(self._original, ids.shape[1], 1)):
            yield part.to(self._original.device)

    def _divergence(self, ids: Tensor, weights: Mapping[nn.Parameter, Tensor]) -> Tensor:
        original: Any = self._original.model
        with torch.no_grad():
            reference = log_probabilities(original(ids, use_cache=False).logits)
        with self._around.active() as model:
            logits = compute_with(model, weights, ids, use_cache=False).logits
        return kl_divergence(reference, log_probabilities(logits))

    def _weights(self) -> dict[nn.Parameter, Tensor]:
        """What stands in for each parameter that holds units in training, in its shape and dtype."""
        found: dict[nn.Parameter, Tensor] = {}
        experts: dict[nn.Parameter, list[Tensor]] = {}
        for unit in self.units.values():
            slot = unit.slot
            matrix = unit.matrix()
            weight = (matrix.T if slot.transposed else matrix).to(slot.parameter.dtype)
            if slot.expert is None:
                found[slot.parameter] = weight
            else:
                slices = experts.setdefault(slot.parameter, list(slot.parameter.data.unbind()))
                slices[slot.expert] = weight
        return found | {parameter: torch.stack(slices) for parameter, slices in experts.items()}


def _through(rounding: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``rounding`` with a gradient of one."""

    def apply(values: Tensor) -> Tensor:
        return values + (rounding(values.detach()) - values.detach())

    return apply
