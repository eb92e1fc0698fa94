"""The one place that changes a model: swap weights, round what enters layers and the KV cache, and always undo it.

New weights are prepared as separate tensors, and entering or leaving ``patched`` only exchanges the parameters'
storage. The original storage is never written to, so leaving restores it exactly, whatever happened inside. Inputs
are rounded by hooks (``rounded_inputs``), keys and values on their way into transformers' attention function
(``rounded_cache``); both are gone when their block is left. Weights that carry gradients stand in for one call
(``compute_with``). To measure many changes of one unit, modules before it answer as they did (``bypassed``), and the
unit may stand for several matrices at once (``stacked``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from quant_core.errors import ModelError, QuantError
from quant_core.models.graph import Graph
from quant_core.models.layers import Site, Slot, experts_forward
from quant_core.registry import unknown_name

Weights = dict[nn.Parameter, Tensor]
InputRounding = Callable[[Tensor], Tensor]
"""From a unit's inputs (tokens, columns) to what is multiplied instead, in the same shape and dtype."""
CacheRounding = Callable[[Tensor], Tensor]
"""From keys or values (batch, heads, tokens, head_dim) to what attention sees, in the same shape and dtype."""


def swap(graph: Graph, matrices: Mapping[str, Tensor]) -> Weights:
    """New storage for the parameters that hold the named units, given as (rows, columns) matrices.

    Units that share a parameter (experts) and are not named keep their values.
    """
    weights: Weights = {}
    for name, matrix in matrices.items():
        if name not in graph.slots:
            raise unknown_name("weight", name, graph.slots)
        slot = graph.slots[name]
        if tuple(matrix.shape) != (slot.unit.rows, slot.unit.columns):
            raise QuantError(
                f"{name} is {slot.unit.rows} x {slot.unit.columns}, not {' x '.join(map(str, matrix.shape))}.",
                "Use a recipe made for this model.",
            )
        if slot.parameter not in weights:
            fresh = torch.empty_like(slot.parameter.data)
            weights[slot.parameter] = fresh if slot.expert is None else fresh.copy_(slot.parameter.data)
        slot.write(weights[slot.parameter], matrix)
    return weights


@contextmanager
def patched(weights: Weights) -> Iterator[None]:
    """Let the model compute with ``weights`` inside the block."""
    kept = {parameter: parameter.data for parameter in weights}
    try:
        for parameter, data in weights.items():
            parameter.data = data
        yield
    finally:
        for parameter, data in kept.items():
            parameter.data = data


def compute_with(
    model: nn.Module, weights: Mapping[nn.Parameter, Tensor], *inputs: Tensor, **options: Any
) -> Any:
    """What ``model`` answers with other tensors in the place of some parameters; gradients reach those tensors."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    stand_ins = {names[id(parameter)]: weight for parameter, weight in weights.items()}
    return functional_call(model, stand_ins, inputs, options)


@contextmanager
def rounded_inputs(graph: Graph, roundings: Mapping[str, InputRounding]) -> Iterator[None]:
    """Round what enters the named units inside the block; an embedding's lookups have no inputs to round."""
    with ExitStack() as stack:
        for site in graph.sites:
            if site.kind == "lookup" or not any(slot.unit.name in roundings for slot in site.slots):
                continue
            if site.kind == "experts":
                stack.enter_context(_rounded_experts(site, roundings))
            else:
                hook = partial(_enter, roundings[site.slots[0].unit.name])
                stack.callback(site.module.register_forward_pre_hook(hook).remove)
        yield


def _enter(rounding: InputRounding, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    inputs, *rest = args
    return (rounding(inputs.flatten(0, -2)).view(inputs.shape), *rest)


@contextmanager
def _rounded_experts(site: Site, roundings: Mapping[str, InputRounding]) -> Iterator[None]:
    def enter(slot: Slot, inputs: Tensor) -> Tensor:
        rounding = roundings.get(slot.unit.name)
        return inputs if rounding is None else rounding(inputs)

    module: Any = site.module
    module.forward = experts_forward(site, enter=enter)
    try:
        yield
    finally:
        del module.forward


@contextmanager
def rounded_cache(model: Any, rounding: CacheRounding) -> Iterator[None]:
    """Round keys and values as they enter an attention inside the block.

    The cache itself keeps them as they are, and every step rounds a token's anew to the same values, so that what
    attention sees is what a cache of rounded values would hold, provided ``rounding`` treats tokens one by one.
    """
    name = model.config._attn_implementation
    before = ALL_ATTENTION_FUNCTIONS.get(name)

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any
    ) -> Any:
        function = before or getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        if function is None:
            raise ModelError(
                f"The keys and values of {type(module).__name__} cannot be rounded.",
                "Leave the KV cache as it is.",
            )
        return function(module, query, rounding(key), rounding(value), *rest, **options)

    ALL_ATTENTION_FUNCTIONS[name] = attend
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]
        if before is not None and ALL_ATTENTION_FUNCTIONS.get(name) is not before:
            ALL_ATTENTION_FUNCTIONS[name] = before  # it was a local one


@contextmanager
def instead(functions: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Have modules answer with what a function of their arguments gives instead of computing, inside the block."""
    with ExitStack() as stack:
        for module, function in functions.items():
            stack.enter_context(_forward(module, function))
        yield


@contextmanager
def bypassed(answers: Mapping[nn.Module, Any]) -> Iterator[None]:
    """Have modules answer with what is given instead of computing, inside the block."""
    with instead({module: partial(_answer, answer) for module, answer in answers.items()}):
        yield


def _answer(answer: Any, *args: Any, **options: Any) -> Any:
    return answer


@contextmanager
def stacked(graph: Graph, name: str, matrices: Sequence[Tensor]) -> Iterator[None]:
    """Let a unit stand for several matrices inside the block: the batch falls into as many equal parts, in order.

    The matrices are (rows, columns); ``stackable`` says for which models.
    """
    with ExitStack() as stack:
        for site in graph.sites:
            if site.slots[0].unit.name == name:
                stack.enter_context(_forward(site.module, partial(_part_by_part, site, matrices)))
        yield


def stackable(graph: Graph) -> bool:
    """Whether every unit is a plain linear layer or embedding: of an expert, or a layer with a twist, no parts are
    known.
    """
    return all(type(site.module) in (nn.Linear, Conv1D, nn.Embedding) for site in graph.sites)


def _part_by_part(site: Site, matrices: Sequence[Tensor], inputs: Tensor) -> Tensor:
    parts = zip(inputs.chunk(len(matrices)), matrices, strict=True)
    if site.kind == "lookup":
        return torch.cat([nn.functional.embedding(part, matrix) for part, matrix in parts])
    bias = getattr(site.module, "bias", None)
    return torch.cat([nn.functional.linear(part, matrix, bias) for part, matrix in parts])


@contextmanager
def watched(modules: Iterable[nn.Module], look: Callable[[], None]) -> Iterator[None]:
    """Call ``look`` whenever one of the modules is about to compute inside the block; it may raise."""
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(lambda module, args: look()).remove)
        yield


@contextmanager
def _forward(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace what a module computes inside the block; a forward that another program had put there comes back."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before
