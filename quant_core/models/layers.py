"""One adapter a kind of layer: how its weight is seen as a matrix (outputs, inputs), whatever way it is stored.

``nn.Linear`` stores (outputs, inputs); GPT-2's ``Conv1D`` stores (inputs, outputs); Mixture-of-experts layers of
transformers 5 keep all experts in one 3-D parameter (experts, outputs, inputs); an embedding is a table
(tokens, width) and, where it is tied, also the head's matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from quant_core.models.slots import Slot

__all__ = ["ExpertEnter", "ExpertVisit", "Site", "Slot", "experts_forward", "is_experts", "is_matrix"]


@dataclass(frozen=True)
class Site:
    """A module that applies one or more units to its input; a tied embedding has two sites."""

    module: nn.Module
    slots: tuple[Slot, ...]
    kind: str
    """``matrix`` (y = W x + b), ``lookup`` (y = W[token]) or ``experts``."""


def is_matrix(module: nn.Module) -> bool:
    """Whether the module computes W x + b."""
    return isinstance(module, nn.Linear | Conv1D)


def is_experts(module: nn.Module) -> bool:
    """Whether the module keeps its experts as 3-D parameters in the layout that Mixtral and its kin share."""
    gate_up, down = getattr(module, "gate_up_proj", None), getattr(module, "down_proj", None)
    if not (
        isinstance(gate_up, nn.Parameter) and isinstance(down, nn.Parameter) and hasattr(module, "act_fn")
    ):
        return False
    biased = any(name.endswith("bias") for name, _ in module.named_parameters(recurse=False))
    if gate_up.dim() != 3 or down.dim() != 3 or biased or getattr(module, "is_transposed", False):
        return False
    return gate_up.shape[1] == 2 * down.shape[2] and gate_up.shape[2] == down.shape[1]


ExpertVisit = Callable[[Slot, Tensor, Tensor, Tensor], None]
ExpertEnter = Callable[[Slot, Tensor], Tensor]


def experts_forward(
    site: Site, visit: ExpertVisit | None = None, enter: ExpertEnter | None = None
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A forward for an experts module, as transformers' eager one, that shows every product it computes.

    ``visit(slot, x, y, token)`` gets inputs x (n, inputs), outputs y (n, outputs), and which of the flattened tokens
    each row belongs to (n,); ``enter(slot, x)`` returns what is multiplied instead of x.
    """
    module: Any = site.module
    slots = {(slot.parameter is module.down_proj, slot.expert): slot for slot in site.slots}

    def product(down: bool, expert: int, x: Tensor, token: Tensor) -> Tensor:
        slot = slots[down, expert]
        x = x if enter is None else enter(slot, x)
        y = nn.functional.linear(x, (module.down_proj if down else module.gate_up_proj)[expert])
        if visit is not None:
            visit(slot, x, y, token)
        return y

    def forward(hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        result = torch.zeros_like(hidden_states)
        for expert in top_k_index.unique().tolist():
            if expert >= module.gate_up_proj.shape[0]:
                continue
            token, choice = torch.where(top_k_index == expert)
            gate, up = product(False, expert, hidden_states[token], token).chunk(2, dim=-1)
            out = product(True, expert, module.act_fn(gate) * up, token)
            out = out * top_k_weights[token, choice, None]
            result = result.index_add(0, token, out.to(result.dtype))
        return result

    return forward
