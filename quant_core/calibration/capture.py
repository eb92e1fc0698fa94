"""Seeing what enters a layer and what gradient leaves it, for every unit, as a context manager.

Inside ``capture`` each unit's product y = W x is shown to a visitor as it is computed, with x flattened to
(n, inputs), y without bias as (n, outputs), and the index of the token each row belongs to. If gradients flow, the
visitor gets the gradient at y on every backward pass. All hooks are gone when the block is left.

Values of an attention are a case of their own. Attention averages them over tokens, so that errors of many tokens act
together at one position; their gradient is therefore taken behind the attention, where an error acts on its own
position again. The attention is linear in its values, so ``Product.mix`` applies the same attention to errors. Which
unit makes the values is found by comparing numbers; where none matches, the gradient at y serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from quant_core.models.graph import Graph
from quant_core.models.layers import Site, Slot, experts_forward

Mix = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Product:
    """One application of a unit: ``inputs`` is (n, columns) floats, or (n,) token ids for a lookup.

    The last ``values`` rows of the weight make an attention's values; ``mix`` turns errors of these, (n, values),
    into errors of the attention's output, (n, features).
    """

    slot: Slot
    inputs: Tensor
    token: Tensor
    """Index of the flattened batch position each row belongs to, (n,)."""
    lookup: bool = False
    values: int = 0
    mix: Mix | None = None


class Visitor(Protocol):
    """What ``capture`` calls."""

    def forward(self, product: Product, outputs: Tensor) -> None:
        """A product was computed; ``outputs`` (n, rows) are without the bias."""

    def backward(self, product: Product, gradient: Tensor) -> None:
        """The gradient at the product's outputs, (n, rows)."""

    def backward_mixed(self, product: Product, gradient: Tensor) -> None:
        """The gradient at the output of the attention that takes the product's values, (n, features)."""


@contextmanager
def capture(graph: Graph, visitor: Visitor, model: Any) -> Iterator[None]:
    """Show every unit's products to ``visitor`` while the block runs the model.

    With gradients enabled the graph is rooted at the embedding's output, since no parameter requires one.
    """
    embedding = model.get_input_embeddings()
    recent: list[tuple[Product, Tensor]] = []
    with ExitStack() as stack:
        for site in graph.sites:
            if site.kind == "experts":
                stack.enter_context(_replaced_forward(site, visitor))
            else:
                hook = partial(_seen, site, visitor, recent, site.module is embedding)
                stack.callback(site.module.register_forward_hook(hook).remove)
        stack.enter_context(_watched_attention(model.config._attn_implementation, visitor, recent))
        yield


def _seen(
    site: Site,
    visitor: Visitor,
    recent: list[tuple[Product, Tensor]],
    root: bool,
    module: nn.Module,
    args: tuple[Any, ...],
    output: Tensor,
) -> Tensor:
    lookup = site.kind == "lookup"
    flat = args[0].detach().reshape(-1) if lookup else args[0].detach().flatten(0, -2)
    product = Product(site.slots[0], flat, torch.arange(len(flat), device=flat.device), lookup)
    if root and torch.is_grad_enabled() and not output.requires_grad:
        output = output.detach().requires_grad_(True)
    _show(visitor, product, output, getattr(module, "bias", None))
    if not lookup:
        recent.append((product, output.detach().flatten(0, -2)))
    return output


def _show(visitor: Visitor, product: Product, output: Tensor, bias: Tensor | None = None) -> None:
    outputs = output.detach().flatten(0, -2)
    visitor.forward(product, outputs if bias is None else outputs - bias)
    if output.requires_grad:
        output.register_hook(lambda gradient: visitor.backward(product, gradient.flatten(0, -2)))


@contextmanager
def _replaced_forward(site: Site, visitor: Visitor) -> Iterator[None]:
    def visit(slot: Slot, x: Tensor, y: Tensor, token: Tensor) -> None:
        _show(visitor, Product(slot, x.detach(), token), y)

    module: Any = site.module
    module.forward = experts_forward(site, visit)
    try:
        yield
    finally:
        del module.forward


@contextmanager
def _watched_attention(name: str, visitor: Visitor, recent: list[tuple[Product, Tensor]]) -> Iterator[None]:
    """Look into transformers' attention function ``name``, if it is one of those that models look up by name."""
    if name not in ALL_ATTENTION_FUNCTIONS:
        yield
        return
    attend = ALL_ATTENTION_FUNCTIONS[name]

    def watched(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
    ) -> Any:
        output, weights = attend(module, query, key, value, mask, **options)
        product = _source(recent, value)
        recent.clear()
        if product is not None and output.requires_grad:
            fixed = query.detach(), key.detach()

            def mix(errors: Tensor) -> Tensor:
                batch, heads, length, width = value.shape
                shaped = errors.view(batch, length, heads, width).transpose(1, 2).to(value.dtype)
                mixed: Tensor = attend(module, *fixed, shaped, mask, **options)[0]
                return mixed.flatten(2).flatten(0, 1)

            product.values, product.mix = value.shape[1] * value.shape[3], mix
            output.register_hook(lambda g: visitor.backward_mixed(product, g.flatten(2).flatten(0, 1)))
        return output, weights

    ALL_ATTENTION_FUNCTIONS[name] = watched
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]


def _source(recent: list[tuple[Product, Tensor]], value: Tensor) -> Product | None:
    """The product whose last outputs are the attention's values (batch, heads, length, width), if there is one."""
    flat = value.detach().transpose(1, 2).flatten(2).flatten(0, 1)
    for product, outputs in reversed(recent):
        same_size = len(outputs) == len(flat) and outputs.shape[1] >= flat.shape[1]
        if same_size and torch.equal(outputs[:, outputs.shape[1] - flat.shape[1] :], flat):
            return product
    return None
