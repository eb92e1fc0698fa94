"""A model as a row of steps: what comes before its first block, each block, and what comes after the last.

For passes that hold one block at a time. No architecture is known by name: the model itself is run with its blocks
replaced, which tells what it feeds the first of them, how it calls each, and what it makes of the last one's answer.
Whether a model is such a row at all is tried before: its logits have to come out as they do from the whole, and only
hidden states may lead from block to block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quant_core.models.graph import Graph, block_path
from quant_core.models.patch import instead

_SAME = 1e-3
"""Logits that differ by more than this, relative to the largest, are not those of the same model."""


class Call(NamedTuple):
    """How the model calls a block, beside its hidden states."""

    first: bool
    """Whether the hidden states are the first argument, not an option by name."""
    rest: tuple[Any, ...]
    options: dict[str, Any]


class _Enough(Exception):  # no error: it ends a pass whose rest nobody needs
    """All that was to be recorded has been."""


class Blocks:
    """The steps of one model.

    Args:
        model: A causal LM of transformers.
        graph: Its units.
    """

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self._model: Any = model
        self.modules = block_modules(model, graph)
        self._wrapped = False
        """Whether a block answers with a tuple of which the hidden states are the first."""

    def __len__(self) -> int:
        return len(self.modules)

    def lead_on(self, ids: Tensor) -> bool:
        """Whether the model is such a row of steps, found out on a few tokens (sequences, length)."""
        if not self.modules:
            return False
        with ExitStack() as stack, torch.no_grad():
            look = partial(setattr, self, "_wrapped")
            hook = self.modules[0].register_forward_hook(
                lambda module, args, out: look(isinstance(out, tuple))
            )
            stack.callback(hook.remove)
            whole: Tensor = self._model(ids, use_cache=False).logits
        with ExitStack() as stack, torch.enable_grad():
            embedding = self._model.get_input_embeddings()
            hook = embedding.register_forward_hook(
                lambda module, args, out: out.detach().requires_grad_(True)
            )
            stack.callback(hook.remove)
            _, calls = self.enter(ids)
        beside = (tensor for call in calls for tensor in _tensors((call.rest, call.options)))
        if len(calls) != len(self.modules) or any(tensor.requires_grad for tensor in beside):
            return False
        with torch.no_grad():
            hidden, calls = self.enter(ids)
            for index, call in enumerate(calls):
                hidden = self.step(index, hidden, call)
            again = self.leave(ids, hidden)
        return bool((again - whole).abs().max() <= _SAME * whole.abs().max())

    def enter(self, ids: Tensor) -> tuple[Tensor, list[Call]]:
        """What enters the first block (sequences, length, hidden), and how each block is called, for tokens ``ids``.

        With gradients enabled the states lead back to where the model's graph is rooted.
        """
        found: list[Tensor] = []
        calls: list[Call] = []

        def record(*args: Any, **options: Any) -> Any:
            hidden, call = _split(args, options)
            found.append(hidden)
            calls.append(call)
            if len(calls) == len(self.modules):
                raise _Enough
            return self._answer(hidden)

        with instead(dict.fromkeys(self.modules, record)), suppress(_Enough):
            self._model(ids, use_cache=False)
        return found[0], calls

    def step(self, index: int, hidden: Tensor, call: Call) -> Tensor:
        """What a block makes of hidden states (sequences, length, hidden)."""
        block = self.modules[index]
        if call.first:
            return _hidden(block(hidden, *call.rest, **call.options))
        return _hidden(block(*call.rest, hidden_states=hidden, **call.options))

    def leave(self, ids: Tensor, hidden: Tensor, begun: Callable[[], None] = lambda: None) -> Tensor:
        """Logits (sequences, length, vocabulary) from what the last block left of ``ids``.

        ``begun`` is called when all that comes before the blocks has been computed, which it is once more.
        """

        def answer(*args: Any, **options: Any) -> Any:
            begun()
            return self._answer(hidden)

        with instead(dict.fromkeys(self.modules, answer)):
            logits: Tensor = self._model(ids, use_cache=False).logits
        return logits

    def _answer(self, hidden: Tensor) -> Any:
        return (hidden,) if self._wrapped else hidden


def block_modules(model: nn.Module, graph: Graph) -> tuple[nn.Module, ...]:
    """The modules that hold the units of a block each, in order."""
    paths = dict.fromkeys(block_path(slot.unit) for slot in graph.slots.values() if slot.unit.block >= 0)
    return tuple(model.get_submodule(path) for path in paths)


def _split(args: tuple[Any, ...], options: dict[str, Any]) -> tuple[Tensor, Call]:
    if args:
        return args[0], Call(True, args[1:], options)
    rest = dict(options)
    return rest.pop("hidden_states"), Call(False, (), rest)


def _hidden(answer: Any) -> Tensor:
    hidden: Tensor = answer[0] if isinstance(answer, tuple) else answer
    return hidden


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping | tuple | list):
        for part in values.values() if isinstance(values, Mapping) else values:
            yield from _tensors(part)
