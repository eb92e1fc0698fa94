"""What a model computes before it comes to a unit, kept so that a change to the unit need not compute it again.

One pass tells when each module begins and ends. Whatever ended before the module of a unit first began cannot depend on
that unit, so that it may answer as it answered before (``patch.bypassed``); of nested modules the outermost does. No
architecture is known by name: blocks, norms, projections and routers are all alike.

Kept are the answers of what lies outside the blocks, of every block, and of the modules of the one block that is worked
on. Whether that is right is looked at, too: with nothing changed the logits have to come out as they were, and nothing
that is kept may be written to. A model that fails this is computed as a whole each time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quant_core.models.graph import block_path
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel
from quant_core.models.patch import bypassed

Answers = dict[nn.Module, Any]
_SAME = 1e-3
"""Logits that differ by more than this, with nothing changed, are not those of the same model."""


class _Span(NamedTuple):
    """When a module began and ended, on a clock that ticks at every begin and end."""

    begin: int
    end: int


class _Enough(Exception):  # no error: it ends a pass whose rest nobody needs
    """All that was to be recorded has been."""


class Prefix:
    """The kept answers of one model, for one batch of tokens at a time.

    Args:
        loaded: The model.
        slots: The units that will be asked for, in the model's order or any other.
        ids: Some tokens (sequences, length), from which to learn in which order the modules compute.
    """

    def __init__(self, loaded: LoadedModel, slots: Collection[Slot], ids: Tensor) -> None:
        self._model: Any = loaded.model
        self.safe = True
        """False once it was seen that answers cannot be kept; from then on there are none."""
        self._first, self._spans = _order(self._model, ids)
        self._blocks = {slot.unit.name: self._block(slot) for slot in slots}
        self._before = {slot.unit.name: self._ended_before(slot) for slot in slots}
        self._outer: Answers = {}
        self._inner: Answers = {}
        self._now: nn.Module | None = None
        self._checked: set[nn.Module | None] = set()
        self._ids = ids

    def begin(self, ids: Tensor) -> Tensor:
        """The logits (sequences, length, vocabulary) of another batch (sequences, length), whose answers are kept."""
        self._outer, self._inner, self._now, self._ids = {}, {}, None, ids
        wanted: set[nn.Module] = set()
        for name, modules in self._before.items():
            wanted.update(set(modules) - _parts(self._blocks[name]))
        with self._recorded(wanted if self.safe else ()) as self._outer:
            return _logits(self._model, ids)

    def answers(self, slot: Slot, logits: Tensor) -> Mapping[nn.Module, Any]:
        """Modules that may answer as they did while ``slot`` is changed, and what they answered.

        ``logits`` are what ``begin`` returned; the first batch is checked against them, once a block.
        """
        block = self._blocks[slot.unit.name]
        if self.safe and block is not None and block is not self._now:
            self._now, self._inner = block, {}
            self._inner = self._inside(block)
        found = self._known(self._before[slot.unit.name])
        if self.safe and block not in self._checked:
            self._checked.add(block)
            self._check(found, logits)
        return found if self.safe else {}

    def _known(self, modules: Iterable[nn.Module]) -> Answers:
        known = self._outer | self._inner
        return {module: known[module] for module in modules if module in known}

    def _block(self, slot: Slot) -> nn.Module | None:
        """The block a unit belongs to, if the model goes through it once."""
        path = block_path(slot.unit)
        if not path:
            return None
        block: nn.Module = self._model.get_submodule(path)
        return block if block in self._spans else None

    def _ended_before(self, slot: Slot) -> list[nn.Module]:
        """The outermost modules that end before any that holds the unit begins; none if one of these never does."""
        holders = [
            module
            for module in self._model.modules()
            if any(parameter is slot.parameter for parameter in module.parameters(recurse=False))
        ]
        if not all(module in self._first for module in holders):
            return []
        return self._ended(min(self._first[module] for module in holders))

    def _ended(self, moment: int) -> list[nn.Module]:
        found: list[nn.Module] = []
        covered = -1
        for module, span in self._spans.items():
            if span.end < moment and span.begin > covered:
                found.append(module)
                covered = span.end
        return found

    def _inside(self, block: nn.Module) -> Answers:
        """The answers of the modules within a block, from a pass that ends with the last of them."""
        wanted = {module for module in _parts(block) if module in self._spans}
        if not wanted:
            return {}
        last = max(wanted, key=lambda module: self._spans[module].end)
        known = self._known(self._ended(self._first[block]))
        with bypassed(known), self._recorded(wanted, last) as found:
            _logits(self._model, self._ids)
        return found

    @contextmanager
    def _recorded(self, wanted: Collection[nn.Module], last: nn.Module | None = None) -> Iterator[Answers]:
        """Keep the answers of modules inside the block, which ends with that of ``last``."""
        found: Answers = {}
        versions: list[tuple[Tensor, int]] = []

        def keep(module: nn.Module, answer: Any) -> None:
            found[module] = answer
            versions.extend((tensor, tensor._version) for tensor in _tensors(answer))
            if module is last:
                raise _Enough

        with suppress(_Enough), _hooked(wanted, lambda module: None, keep):
            yield found
        self.safe = self.safe and _untouched(versions)

    def _check(self, found: Answers, logits: Tensor) -> None:
        """See that nothing changes where nothing is changed."""
        versions = [(tensor, tensor._version) for answer in found.values() for tensor in _tensors(answer)]
        with bypassed(found):
            again = _logits(self._model, self._ids)
        same = torch.allclose(again, logits, rtol=_SAME, atol=_SAME, equal_nan=True)
        self.safe = self.safe and same and _untouched(versions)


def _logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(ids, use_cache=False).logits
    return logits


def _order(model: nn.Module, ids: Tensor) -> tuple[dict[nn.Module, int], dict[nn.Module, _Span]]:
    """When each module first begins, and the spans of those that compute once, in the order of their begins."""
    begins: dict[nn.Module, list[int]] = {}
    ends: dict[nn.Module, int] = {}
    clock = iter(range(2**62))

    def begun(module: nn.Module) -> None:
        begins.setdefault(module, []).append(next(clock))

    def ended(module: nn.Module, answer: Any) -> None:
        ends[module] = next(clock)

    with _hooked(model.modules(), begun, ended):
        _logits(model, ids)
    spans = {module: _Span(times[0], ends[module]) for module, times in begins.items() if len(times) == 1}
    return {module: times[0] for module, times in begins.items()}, spans


@contextmanager
def _hooked(
    modules: Iterable[nn.Module], begun: Callable[[nn.Module], None], ended: Callable[[nn.Module, Any], None]
) -> Iterator[None]:
    """Tell of every begin and end of modules inside the block."""
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(lambda module, args: begun(module)).remove)
            stack.callback(module.register_forward_hook(lambda module, args, out: ended(module, out)).remove)
        yield


def _parts(block: nn.Module | None) -> set[nn.Module]:
    """Every module within a block, itself left out."""
    return set() if block is None else set(block.modules()) - {block}


def _tensors(answer: Any) -> Iterator[Tensor]:
    if isinstance(answer, Tensor):
        yield answer
    elif isinstance(answer, Mapping | tuple | list):
        for part in answer.values() if isinstance(answer, Mapping) else answer:
            yield from _tensors(part)


def _untouched(versions: Iterable[tuple[Tensor, int]]) -> bool:
    """Whether tensors were not written to since their versions were noted."""
    return all(tensor._version == version for tensor, version in versions)
