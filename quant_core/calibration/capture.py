"""Seeing what enters a layer and what gradient leaves it, for every unit, as a context manager.

Inside ``capture`` each unit's product y = W x is shown to a visitor as it is computed, with x flattened to
(n, inputs), y without bias as (n, outputs), and the index of the token each row belongs to. If gradients flow, the
visitor gets the gradient at y on every backward pass. All hooks are gone when the block is left.

Projections that make an attention's keys and values are a case of their own: their gradient is taken behind the
attention (``attention`` says why), and ``Product.slopes`` says what errors of theirs do along it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from quant_core.calibration.attention import Mixing
from quant_core.models.graph import Graph
from quant_core.models.layers import Site, Slot, experts_forward


@dataclass(eq=False)
class Product:
    """One application of a unit: ``inputs`` is (n, columns) floats, or (n,) token ids for a lookup.

    Where some of the weight's rows make an attention's keys or values, ``mixed`` (rows,) says which, and ``slopes``
    takes errors of the outputs, (n, rows) each, and a gradient at the attention's output, (n, features), to the
    products of the latter with what the former do there, (errors, n). ``pull`` goes from vectors at the attention's
    output to this one's; it needs the pass's graph, and may be called as long as that is there: in
    ``backward_mixed``.
    """

    slot: Slot
    inputs: Tensor
    token: Tensor
    """Index of the flattened batch position each row belongs to, (n,)."""
    lookup: bool = False
    mixed: Tensor | None = None
    slopes: Callable[[Sequence[Tensor], Tensor], Tensor] | None = None
    pull: Callable[[Tensor], Tensor] | None = None


Recent = dict[nn.Module, tuple[Product, Tensor]]
"""Products since the last attention, by module, with their outputs as the graph holds them."""


class Visitor(Protocol):
    """What ``capture`` calls."""

    def forward(self, product: Product, outputs: Tensor) -> None:
        """A product was computed; ``outputs`` (n, rows) are without the bias."""

    def backward(self, product: Product, gradient: Tensor) -> None:
        """The gradient at the product's outputs, (n, rows)."""

    def backward_mixed(self, product: Product, gradient: Tensor) -> None:
        """The gradient at the output of the attention that takes the product's keys or values, (n, features)."""


@contextmanager
def capture(graph: Graph, visitor: Visitor, model: Any) -> Iterator[None]:
    """Show every unit's products to ``visitor`` while the block runs the model.

    With gradients enabled the graph is rooted at the embedding's output, since no parameter requires one.
    """
    embedding = model.get_input_embeddings()
    recent: Recent = {}
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
    recent: Recent,
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
    passed = output.view_as(output)  # looking for paths back to here must not set off the hook above
    if not lookup:
        recent[module] = product, passed
    return passed


def _show(visitor: Visitor, product: Product, output: Tensor, bias: Tensor | None = None) -> None:
    outputs = output.detach().flatten(0, -2)
    visitor.forward(product, outputs if bias is None else outputs - bias)
    if output.requires_grad:
        root = output.is_leaf  # autograd keeps a leaf's first gradient and adds the later ones into it

        def hook(gradient: Tensor) -> None:
            flat = gradient.flatten(0, -2)
            visitor.backward(product, flat.clone() if root else flat)

        output.register_hook(hook)


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
def _watched_attention(name: str, visitor: Visitor, recent: Recent) -> Iterator[None]:
    """Look into transformers' attention function ``name``, if it is one of those that models look up by name."""
    if name not in ALL_ATTENTION_FUNCTIONS:
        yield
        return
    attend = ALL_ATTENTION_FUNCTIONS[name]

    def watched(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
    ) -> Any:
        output, weights = attend(module, query, key, value, mask, **options)
        passed = output.view_as(output)  # pulling back from ``output`` must not set off the hooks below
        if output.requires_grad:
            again = partial(attend, module, attention_mask=mask, **options)
            scale = options.get("scaling") or query.shape[-1] ** -0.5
            mixing = Mixing(again, query.detach(), key, value, output.detach(), scale)
            for feeding in module.children():
                if feeding in recent:
                    _follow(mixing, *recent[feeding], output, passed, visitor)
        recent.clear()
        return passed, weights

    ALL_ATTENTION_FUNCTIONS[name] = watched
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]
        recent.clear()


def _follow(
    mixing: Mixing, product: Product, made: Tensor, output: Tensor, passed: Tensor, visitor: Visitor
) -> None:
    """Have the visitor see the gradient behind the attention for a product that makes its keys or values."""
    to_key, to_value, rows = mixing.paths(made)
    if to_key is None and to_value is None:
        return

    def pull(vectors: Tensor) -> Tensor:
        (back,) = torch.autograd.grad(output, made, vectors.view_as(output), retain_graph=True)
        return back.flatten(0, -2) * rows

    product.mixed = rows
    product.slopes = partial(mixing.slopes, to_key=to_key, to_value=to_value)
    product.pull = pull
    passed.register_hook(lambda gradient: visitor.backward_mixed(product, gradient.flatten(2).flatten(0, 1)))
