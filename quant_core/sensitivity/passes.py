"""One forward and backward pass over some text, seen unit by unit: of the whole model at once, or block by block.

The whole pass keeps the inputs and gradients of all units until its end. Block by block there is activation
checkpointing at every block: a forward pass without gradients keeps what enters each block, then each block, from the
last to the first, is computed again with gradients and handed the gradient that the one behind it left. Only one
block's activations and, of a mapped model (``models.mapped``), only one block's weights are held. Both give the same
inputs and gradients. Chen et al. 2016 ("Training deep nets with sublinear memory cost", arXiv:1604.06174).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quant_core.calibration.batches import batch_rows, label_gradient
from quant_core.calibration.capture import Product, capture
from quant_core.calibration.interruption import interruptible, looking
from quant_core.calibration.text import Tokens
from quant_core.jobs.context import Context
from quant_core.models.blocks import Blocks, Call
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel
from quant_core.models.mapped import resident
from quant_core.models.memory import free_memory
from quant_core.sensitivity.sums import StateSums

_SHARE = 0.25
"""Share of the free memory that one block's activations may take."""
_KEPT = 3
"""What a block's graph holds, as a multiple of its units' inputs and outputs."""
_OPERATIONS = 5e10
"""Floating-point operations a CPU is given before it looks whether the job was cancelled: under a second."""
_PROBED = 16
"""Tokens on which it is tried whether a model can be computed block by block."""


@dataclass(eq=False)
class Seen:
    """A product of one batch with the gradients of each backward pass, directly and behind an attention."""

    product: Product
    direct: list[Tensor] = field(default_factory=list)
    mixed: list[Tensor] = field(default_factory=list)


class Collector:
    """Keeps inputs and gradients by unit, in a pass or a part of one; ``sums`` looks on for a score state."""

    def __init__(self, wanted: Collection[str], sums: StateSums | None, look: Callable[[], None]) -> None:
        self.seen: dict[str, dict[Product, Seen]] = {}
        self.energy: dict[str, Tensor] = {}
        """Sum of |W x|^2 by unit."""
        self.open = True
        """Whether what is computed counts."""
        self._wanted, self._sums, self._look = wanted, sums, look
        self._first = 0
        self._sequences = 0
        if sums is not None:
            sums.begin()

    def batch(self, first: int, sequences: int) -> None:
        """The products that come are those of some sequences, the first of whose tokens is number ``first``."""
        self._first, self._sequences = first, sequences

    def forward(self, product: Product, outputs: Tensor) -> None:
        """Keep a product's inputs."""
        name = product.slot.unit.name
        if self.open and name in self._wanted:
            product.token = product.token + self._first
            squares = torch.linalg.vector_norm(outputs, dtype=torch.float32).square()
            self.energy[name] = self.energy[name] + squares if name in self.energy else squares
            self.seen.setdefault(name, {})[product] = Seen(product)
            if self._sums is not None:
                self._sums.enter(product)

    def backward(self, product: Product, gradient: Tensor) -> None:
        """Keep the gradient at a product's outputs."""
        self._look()
        if found := self._found(product):
            found.direct.append(gradient)

    def backward_mixed(self, product: Product, gradient: Tensor) -> None:
        """Keep the gradient behind the attention that a product feeds."""
        if found := self._found(product):
            found.mixed.append(gradient)
            if self._sums is not None:
                self._sums.pull(product, gradient, self._sequences)

    @contextmanager
    def taken(self, name: str) -> Iterator[list[Seen]]:
        """What was seen of a unit, given up after the block."""
        seen = list(self.seen.pop(name).values())
        try:
            yield seen
        finally:
            _let_go(entry.product for entry in seen)

    def close(self) -> None:
        """Give up all that is left."""
        for unit in self.seen.values():
            _let_go(unit)
        self.seen.clear()

    def _found(self, product: Product) -> Seen | None:
        return self.seen.get(product.slot.unit.name, {}).get(product)


def _let_go(products: Iterable[Product]) -> None:
    """Forget the pass's graph: the graph's hooks hold the products, so that neither would go by itself."""
    for product in products:
        product.slopes = product.pull = None


class Part(NamedTuple):
    """What a pass has seen of some units, complete for each of its products."""

    found: Collector
    begin: float
    """Share of the pass that was done before these units are worked on, 0..1."""
    end: float
    """And after."""


class Pass:
    """Passes over the text, as much of it at a time as memory holds.

    Args:
        context: For progress and cancel.
        loaded: The model.
        tokens: The text.
        slots: The units to look at.
        labels: Backward passes over each batch.
        formats: Formats in which what is seen will be scored, for the estimate of time.
        blockwise: Whether to go block by block, where the model can.
    """

    def __init__(
        self,
        context: Context,
        loaded: LoadedModel,
        tokens: Tokens,
        slots: Sequence[Slot],
        labels: int,
        formats: int,
        blockwise: bool,
    ) -> None:
        self._context, self._loaded, self._tokens = context, loaded, tokens
        self._wanted = {slot.unit.name for slot in slots}
        self._labels, self._formats = labels, formats
        self._length = tokens.ids.shape[1]
        self._blocks = Blocks(loaded.model, loaded.graph) if blockwise else None
        if self._blocks is not None and not self._blocks.lead_on(self._ids(tokens.ids[:1, :_PROBED])):
            self._blocks = None
        captured = [labels * slot.unit.rows + slot.unit.columns for slot in slots]
        if self._blocks is None:
            self.rows = batch_rows(loaded, self._length, sum(captured))
            """Sequences that go through the model at a time."""
            return
        by_block: dict[int, int] = {}
        for slot, values in zip(slots, captured, strict=True):
            by_block[slot.unit.block] = by_block.get(slot.unit.block, 0) + values
        most = max((values for block, values in by_block.items() if block >= 0), default=1)
        token = _KEPT * most * slots[0].parameter.element_size()
        room = free_memory(loaded.device) * _SHARE / token
        self.rows = min(len(tokens.ids), max(1, int(room / self._length)))
        largest = max(slot.unit.parameters for slot in slots if slot.unit.block >= 0 or len(slots) == 1)
        least = max(1, int(_OPERATIONS / (2 * largest * self._length)))
        self._chunk = min(self.rows, least) if loaded.device.type == "cpu" else self.rows

    @property
    def blockwise(self) -> bool:
        """Whether the model is computed block by block."""
        return self._blocks is not None

    def halve(self) -> bool:
        """Take half as many sequences at a time; False if it was one already."""
        if self.rows == 1:
            return False
        self.rows //= 2
        if self._blocks is not None:
            self._chunk = min(self._chunk, self.rows)
        return True

    def run(self, first: int, uniforms: Sequence[Tensor], sums: StateSums | None) -> Iterator[Part]:
        """Show ``rows`` sequences from number ``first`` on, part by part; a part is spent when the next is asked for.

        Args:
            first: The first sequence.
            uniforms: What decides their labels, (sequences, length) of the whole text for each backward pass.
            sums: Where to add up what a score state is made of.
        """
        rows = slice(first, min(first + self.rows, len(self._tokens.ids)))
        ids = self._ids(self._tokens.ids[rows])
        drawn = [numbers[rows] for numbers in uniforms]
        look = looking(self._context)
        if self._blocks is None:
            with closing(Collector(self._wanted, sums, look)) as found:
                self._whole(ids, drawn, found)
                yield Part(found, 0.0, 1.0)
        else:
            with tempfile.TemporaryDirectory(dir=self._context.folder()) as folder:
                yield from self._steps(self._blocks, ids, drawn, sums, look, Path(folder))

    def _ids(self, ids: Tensor) -> Tensor:
        return ids.to(self._loaded.device)

    def _whole(self, ids: Tensor, drawn: Sequence[Tensor], found: Collector) -> None:
        model: Any = self._loaded.model
        found.batch(0, len(ids))
        with torch.set_grad_enabled(bool(drawn)), capture(self._loaded.graph, found, model):
            logits = model(ids, use_cache=False).logits
            _back(logits, [label_gradient(logits.detach(), numbers) for numbers in drawn])

    def _steps(
        self,
        blocks: Blocks,
        ids: Tensor,
        drawn: Sequence[Tensor],
        sums: StateSums | None,
        look: Callable[[], None],
        folder: Path,
    ) -> Iterator[Part]:
        count = len(blocks)
        chunks = _slices(len(ids), self._chunk)
        clock = _Clock(count, self._labels, self._formats)
        entered = _Store(folder if self._loaded.mapped else None)
        calls = []
        hidden = None
        with torch.no_grad(), interruptible(self._context, self._loaded):
            for chunk in chunks:
                states, called = blocks.enter(ids[chunk])
                calls.append(called)
                hidden = entered.new(states, len(ids)) if hidden is None else hidden
                hidden[chunk] = states
            assert hidden is not None, "there is text"
            inputs = [hidden]
            for index in range(count):
                self._context.progress(clock.share(index), f"Reading the text: block {index + 1} of {count}")
                hidden = entered.new(hidden, len(ids))
                with self._held(blocks.modules[index]):
                    for chunk, called in zip(chunks, calls, strict=True):
                        hidden[chunk] = blocks.step(index, inputs[-1][chunk], called[index])
                inputs.append(hidden)
        states = inputs.pop()
        gradients = [torch.empty_like(states) for _ in drawn]
        with closing(Collector(self._wanted, sums, look)) as found:
            for chunk in _slices(len(ids), batch_rows(self._loaded, self._length, 1)):
                self._leave(blocks, ids, chunk, states, drawn, gradients, found)
            yield Part(found, clock.share(count), clock.share(count))
        for index in reversed(range(count)):
            states = inputs.pop()
            with (
                self._held(blocks.modules[index]),
                closing(Collector(self._wanted, sums, look)) as found,
            ):
                for chunk, called in zip(chunks, calls, strict=True):
                    self._step(blocks, index, chunk, states, called[index], gradients, found)
                done = count + (count - 1 - index) * clock.back
                yield Part(found, clock.share(done + 1 + 2 * self._labels), clock.share(done + clock.back))
        with closing(Collector(self._wanted, sums, look)) as found:
            for chunk in chunks:
                self._enter(blocks, ids, chunk, gradients, found)
            yield Part(found, 1.0, 1.0)

    def _held(self, block: nn.Module) -> Any:
        """The block's weights in memory, as long as they are needed."""
        return resident([block] if self._loaded.mapped else [])

    def _leave(
        self,
        blocks: Blocks,
        ids: Tensor,
        chunk: slice,
        states: Tensor,
        drawn: Sequence[Tensor],
        gradients: Sequence[Tensor],
        found: Collector,
    ) -> None:
        """What comes after the blocks, forward and back."""
        found.batch(chunk.start * self._length, chunk.stop - chunk.start)
        found.open = False
        leaf = states[chunk].detach().clone().requires_grad_(bool(drawn))
        with torch.set_grad_enabled(bool(drawn)), capture(self._loaded.graph, found, self._loaded.model):
            logits = blocks.leave(ids[chunk], leaf, lambda: setattr(found, "open", True))
            found.open = True
            wanted = [label_gradient(logits.detach(), numbers[chunk]) for numbers in drawn]
            _back(logits, wanted, leaf, [gradient[chunk] for gradient in gradients])

    def _step(
        self,
        blocks: Blocks,
        index: int,
        chunk: slice,
        states: Tensor,
        call: Call,
        gradients: Sequence[Tensor],
        found: Collector,
    ) -> None:
        """One block, forward and back: the gradients behind it become those before it."""
        found.batch(chunk.start * self._length, chunk.stop - chunk.start)
        leaf = states[chunk].detach().clone().requires_grad_(bool(gradients))
        parts = [gradient[chunk] for gradient in gradients]
        with torch.set_grad_enabled(bool(gradients)), capture(self._loaded.graph, found, self._loaded.model):
            out = blocks.step(index, leaf, call)
            _back(out, [part.clone() for part in parts], leaf, parts)

    def _enter(
        self, blocks: Blocks, ids: Tensor, chunk: slice, gradients: Sequence[Tensor], found: Collector
    ) -> None:
        """What comes before the blocks, forward and back."""
        found.batch(chunk.start * self._length, chunk.stop - chunk.start)
        with torch.set_grad_enabled(bool(gradients)), capture(self._loaded.graph, found, self._loaded.model):
            out, _ = blocks.enter(ids[chunk])
            _back(out, [gradient[chunk] for gradient in gradients])


def _back(
    out: Tensor, wanted: Sequence[Tensor], leaf: Tensor | None = None, into: Sequence[Tensor] = ()
) -> None:
    """One backward pass from ``out`` for each gradient; what arrives at ``leaf`` is put into ``into``."""
    for number, gradient in enumerate(wanted):
        out.backward(gradient, retain_graph=number < len(wanted) - 1)
        if leaf is not None and leaf.grad is not None:
            into[number].copy_(leaf.grad)
            leaf.grad = None


def _slices(count: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


class _Store:
    """Where hidden states are kept: on the device they are on, or in files of ``folder``, mapped into memory."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._count = 0

    def new(self, like: Tensor, sequences: int) -> Tensor:
        """A tensor as ``like`` for so many sequences."""
        shape = (sequences, *like.shape[1:])
        if self._folder is None:
            return like.new_empty(shape)
        self._count += 1
        size = sequences * like[0].numel()
        name = str(self._folder / f"states-{self._count}")
        return torch.from_file(name, shared=True, size=size, dtype=like.dtype).view(shape)


class _Clock:
    """What share of a pass is done, in steps of one block's forward pass."""

    def __init__(self, blocks: int, labels: int, formats: int) -> None:
        self.back = 1 + 2 * labels + formats
        """Steps for a block on the way back: again forward, back, and scored."""
        self._total = blocks * (1 + self.back)

    def share(self, steps: float) -> float:
        """Share of the pass that so many steps are, 0..1."""
        return min(1.0, steps / self._total)
