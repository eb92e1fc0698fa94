"""Seeing what enters a layer and what gradient leaves it, for every unit, as a context manager.

Inside ``capture`` each unit's product y = W x is shown to a visitor as it is computed, with x flattened to
(n, inputs), y without bias as (n, outputs), and the index of the token each row belongs to. If gradients flow, the
visitor gets a second call with the gradient at y. All hooks are gone when the block is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from quant_core.models.graph import Graph
from quant_core.models.layers import Site, Slot, experts_forward


@dataclass(frozen=True)
class Product:
    """One application of a unit: ``inputs`` is (n, columns) floats, or (n,) token ids for a lookup."""

    slot: Slot
    inputs: Tensor
    token: Tensor
    """Index of the flattened batch position each row belongs to, (n,)."""
    lookup: bool


class Visitor(Protocol):
    """What ``capture`` calls."""

    def forward(self, product: Product, outputs: Tensor) -> None:
        """A product was computed; ``outputs`` (n, rows) are without the bias."""

    def backward(self, product: Product, gradient: Tensor) -> None:
        """The gradient at the product's outputs, (n, rows)."""


@contextmanager
def capture(graph: Graph, visitor: Visitor, embedding: nn.Module) -> Iterator[None]:
    """Show every unit's products to ``visitor`` while the block runs the model.

    With gradients enabled the graph is rooted at the embedding's output, since no parameter requires one.
    """
    with ExitStack() as stack:
        for site in graph.sites:
            if site.kind == "experts":
                stack.enter_context(_replaced_forward(site, visitor))
            else:
                handle = site.module.register_forward_hook(
                    partial(_seen, site, visitor, site.module is embedding)
                )
                stack.callback(handle.remove)
        yield


def _seen(
    site: Site, visitor: Visitor, root: bool, module: nn.Module, args: tuple[Any, ...], output: Tensor
) -> Tensor:
    slot = site.slots[0]
    flat = args[0].detach().reshape(-1) if site.kind == "lookup" else args[0].detach().flatten(0, -2)
    product = Product(slot, flat, torch.arange(len(flat), device=flat.device), site.kind == "lookup")
    if root and torch.is_grad_enabled() and not output.requires_grad:
        output = output.detach().requires_grad_(True)
    _show(visitor, product, output, getattr(module, "bias", None))
    return output


def _show(visitor: Visitor, product: Product, output: Tensor, bias: Tensor | None = None) -> None:
    outputs = output.detach().flatten(0, -2)
    visitor.forward(product, outputs if bias is None else outputs - bias)
    if output.requires_grad:
        output.register_hook(lambda gradient: visitor.backward(product, gradient.flatten(0, -2)))


@contextmanager
def _replaced_forward(site: Site, visitor: Visitor) -> Iterator[None]:
    def visit(slot: Slot, x: Tensor, y: Tensor, token: Tensor) -> None:
        _show(visitor, Product(slot, x.detach(), token, False), y)

    module: Any = site.module
    module.forward = experts_forward(site, visit)
    try:
        yield
    finally:
        del module.forward
