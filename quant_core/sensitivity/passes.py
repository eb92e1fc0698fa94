"""One forward and backward pass over some text, seen unit by unit: of the whole model at once, or block by block.

The whole pass keeps the inputs and gradients of all units until its end. Block by block there is activation
checkpointing at every block: a forward pass without gradients keeps what enters each block, then each block, from the
last to the first, is computed again with gradients and handed the gradient that the one behind it left. Only one
block's activations and, of a mapped model (``models.mapped``), only one block's weights are held. Both give the same
inputs and gradients. Chen et al. 2016 ("Training deep nets with sublinear memory cost", arXiv:1604.06174).
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quant_core.calibration.batches import batch_rows, label_gradient
from quant_core.calibration.capture import Product, capture
from quant_core.calibration.interruption import interruptible, looking
from quant_core.calibration.text import Tokens
from quant_core.jobs.context import Context
from quant_core.models.blocks import Blocks, Call
from quant_core.models.layers import Slot
from quant_core.models.loading import LoadedModel
from quant_core.models.mapped import COMPUTE, resident
from quant_core.models.memory import free_memory
from quant_core.sensitivity.halfway import Stand
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
    """A product of one batch with the gradients at its outputs and behind an attention."""

    product: Product
    direct: Tensor | None = None
    mixed: Tensor | None = None


class Collector:
    """Keeps inputs and gradients by unit, in a pass or a part of one; ``sums`` looks on for a score state."""

    def __init__(
        self, wanted: Collection[str], look: Callable[[], None], sums: StateSums | None, label: int
    ) -> None:
        self.seen: dict[str, dict[Product, Seen]] = {}
        self.energy: dict[str, Tensor] = {}
        """Sum of |W x|^2 by unit, over tokens where it is finite."""
        self.lost: dict[str, Tensor] = {}
        """Tokens, by unit, where it is not."""
        self.open = True
        """Whether what is computed counts."""
        self._wanted, self._sums, self._look = wanted, sums, look
        self._first = 0
        self._sequences = 0
        if sums is not None:
            sums.begin(label)

    def batch(self, first: int, sequences: int) -> None:
        """The products that come are those of some sequences, the first of whose tokens is number ``first``."""
        self._first, self._sequences = first, sequences

    def forward(self, product: Product, outputs: Tensor) -> None:
        """Keep a product's inputs."""
        name = product.slot.unit.name
        if self.open and name in self._wanted:
            product.token = product.token + self._first
            squares, lost = energy(outputs)
            self.energy[name] = self.energy[name] + squares if name in self.energy else squares
            self.lost[name] = self.lost[name] + lost if name in self.lost else lost
            self.seen.setdefault(name, {})[product] = Seen(product)
            if self._sums is not None:
                self._sums.enter(product)

    def backward(self, product: Product, gradient: Tensor) -> None:
        """Keep the gradient at a product's outputs."""
        self._look()
        if found := self._found(product):
            found.direct = gradient

    def backward_mixed(self, product: Product, gradient: Tensor) -> None:
        """Keep the gradient behind the attention that a product feeds."""
        if found := self._found(product):
            found.mixed = gradient
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


def energy(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of squares of the rows (n, width) that are finite, and how many are not."""
    squares = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float32).square()
    finite = torch.isfinite(squares)
    return torch.where(finite, squares, 0.0).sum(), (~finite).sum()


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
    blocks: int = 0
    """Blocks that are still to come, from the first on, once these units are done."""
    gradient: Tensor | None = None
    """What goes back into the last of these, (sequences, length, hidden), where the pass can go on from there."""


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


class Pass:
    """Readings of the text, as much of it at a time as memory holds.

    Args:
        context: For progress and cancel.
        loaded: The model.
        tokens: The text.
        slots: The units to look at.
        formats: Formats in which what is seen will be scored, for the estimate of time.
        rounding: Seconds that rounding all units to all of these takes, likewise.
        gradients: Whether to draw labels and go back.
        blockwise: Whether to go block by block, where the model can.
    """

    def __init__(
        self,
        context: Context,
        loaded: LoadedModel,
        tokens: Tokens,
        slots: Sequence[Slot],
        formats: int,
        rounding: float,
        gradients: bool,
        blockwise: bool,
    ) -> None:
        self._context, self._loaded, self._tokens = context, loaded, tokens
        self._wanted = {slot.unit.name for slot in slots}
        self._formats, self._rounding = formats, rounding
        self.gradients = gradients
        """Whether labels are drawn."""
        self._length = tokens.ids.shape[1]
        self._blocks = Blocks(loaded.model, loaded.graph) if blockwise else None
        if self._blocks is not None and not self._blocks.lead_on(self._ids(tokens.ids[:1, :_PROBED])):
            self._blocks = None
        self.rows = self._room(slots)
        """Sequences that are read at a time."""
        self._chunk = self.rows
        if self._blocks is not None and loaded.device.type == "cpu":
            largest = max(slot.unit.parameters for slot in slots)
            self._chunk = min(self.rows, max(1, int(_OPERATIONS / (2 * largest * self._length))))

    def _room(self, slots: Sequence[Slot]) -> int:
        """How many sequences fit into memory."""
        if self._blocks is None:
            values = sum(slot.unit.rows + slot.unit.columns for slot in slots)
            return min(len(self._tokens.ids), batch_rows(self._loaded, self._length, values))
        captured: Counter[int] = Counter()
        for slot in slots:
            captured[slot.unit.block] += slot.unit.rows + slot.unit.columns
        captured.pop(-1, None)
        token = _KEPT * max(captured.values(), default=1) * COMPUTE.itemsize
        room = free_memory(self._loaded.device) * _SHARE / token
        return min(len(self._tokens.ids), max(1, int(room / self._length)))

    @property
    def blockwise(self) -> bool:
        """Whether the model is computed block by block."""
        return self._blocks is not None

    def halve(self) -> bool:
        """Take half as many sequences at a time; False if it was one already."""
        if self.rows == 1:
            return False
        self.rows //= 2
        self._chunk = min(self._chunk, self.rows)
        return True

    def run(
        self, first: int, uniforms: Tensor, sums: StateSums | None, label: int, stand: Stand | None = None
    ) -> Iterator[Part]:
        """Read ``rows`` sequences from number ``first`` on, part by part; a part is spent when the next is asked for.

        Args:
            first: The first sequence.
            uniforms: What decides the labels of the whole text, (sequences, length).
            sums: Where to add up what a score state is made of.
            label: How often the text was read before.
            stand: From where to go on, block by block.
        """
        rows = slice(first, min(first + self.rows, len(self._tokens.ids)))
        ids = self._ids(self._tokens.ids[rows])
        collector = partial(Collector, self._wanted, looking(self._context), sums, label)
        if self._blocks is None:
            with closing(collector()) as found:
                self._whole(ids, uniforms[rows], found)
                yield Part(found, 0.0, 1.0)
        else:
            with tempfile.TemporaryDirectory(dir=self._context.folder()) as folder:
                store = _Store(Path(folder) if self._loaded.mapped else None)
                yield from self._steps(self._blocks, ids, uniforms[rows], store, collector, stand)

    def _ids(self, ids: Tensor) -> Tensor:
        return ids.to(self._loaded.device)

    @contextmanager
    def _seeing(self, found: Collector) -> Iterator[None]:
        """Show ``found`` what the model computes inside the block, forward and back if labels are drawn."""
        with (
            torch.set_grad_enabled(self.gradients),
            capture(self._loaded.graph, found, self._loaded.model),
        ):
            yield

    def _whole(self, ids: Tensor, uniforms: Tensor, found: Collector) -> None:
        model: Any = self._loaded.model
        found.batch(0, len(ids))
        with self._seeing(found):
            logits = model(ids, use_cache=False).logits
            if self.gradients:
                logits.backward(label_gradient(logits.detach(), uniforms))

    def _steps(
        self,
        blocks: Blocks,
        ids: Tensor,
        uniforms: Tensor,
        store: _Store,
        collector: Callable[[], Collector],
        stand: Stand | None,
    ) -> Iterator[Part]:
        count, back = (
            len(blocks),
            3 + self._formats,
        )  # in steps of a block's forward pass: again, back, and scored
        total = count * (1 + back)
        chunks = _slices(len(ids), self._chunk)
        entered: list[Tensor] = []
        calls = []
        for chunk in chunks:
            with self._forward():
                states, called = blocks.enter(ids[chunk])
            calls.append(called)
            entered = entered or [store.new(states, len(ids))]
            entered[0][chunk] = states
        left = count if stand is None else stand.blocks
        begun, whole = time.monotonic(), ""
        for index in range(count if stand is None else left - 1):
            if index == 1:
                readings = -(-len(self._tokens.ids) // self.rows)
                seconds = ((time.monotonic() - begun) * total + self._rounding) * readings
                whole = f", about {_duration(seconds)} in all"
            self._context.progress(index / total, f"Reading the text: block {index + 1} of {count}{whole}")
            entered.append(store.new(entered[-1], len(ids)))
            with self._forward(), self._held(blocks, index):
                for chunk, called in zip(chunks, calls, strict=True):
                    entered[-1][chunk] = blocks.step(index, entered[-2][chunk], called[index])
        if stand is None:
            states = entered.pop()
            gradient = torch.empty_like(states)
            with closing(collector()) as found:
                for chunk in _slices(len(ids), self._predicted()):
                    self._leave(blocks, ids, chunk, states, uniforms, gradient, found)
                yield Part(found, count / total, count / total, count, gradient)
        else:
            gradient = stand.gradient.to(entered[0])
        for index in reversed(range(left)):
            states = entered.pop()
            with self._held(blocks, index), closing(collector()) as found:
                for chunk, called in zip(chunks, calls, strict=True):
                    self._step(blocks, index, chunk, states, called[index], gradient, found)
                done = count + (count - 1 - index) * back
                yield Part(found, (done + 3) / total, (done + back) / total, index, gradient)
        with closing(collector()) as found:
            for chunk in chunks:
                self._enter(blocks, ids, chunk, gradient, found)
            yield Part(found, 1.0, 1.0)

    @contextmanager
    def _forward(self) -> Iterator[None]:
        """A pass without gradients that ends soon after the job is cancelled."""
        with torch.no_grad(), interruptible(self._context, self._loaded):
            yield

    def _predicted(self) -> int:
        """Sequences whose logits, chances and gradient fit into memory at a time."""
        token = 4 * self._loaded.info.vocabulary * torch.float32.itemsize
        room = int(free_memory(self._loaded.device) * _SHARE / token)
        return max(1, min(batch_rows(self._loaded, self._length, 1), room // self._length))

    def _held(self, blocks: Blocks, index: int) -> AbstractContextManager[None]:
        """A block's weights in memory, as long as they are needed."""
        return resident([blocks.modules[index]] if self._loaded.mapped else [])

    def _leave(
        self,
        blocks: Blocks,
        ids: Tensor,
        chunk: slice,
        states: Tensor,
        uniforms: Tensor,
        gradient: Tensor,
        found: Collector,
    ) -> None:
        """What comes after the blocks, forward and back."""
        found.batch(chunk.start * self._length, chunk.stop - chunk.start)
        found.open = False  # what comes before the blocks is computed once more
        leaf = states[chunk].detach().clone().requires_grad_(self.gradients)
        with self._seeing(found):
            logits = blocks.leave(ids[chunk], leaf, lambda: setattr(found, "open", True))
            if leaf.requires_grad:
                logits.backward(label_gradient(logits.detach(), uniforms[chunk]))
                gradient[chunk] = _arrived(leaf)

    def _step(
        self,
        blocks: Blocks,
        index: int,
        chunk: slice,
        states: Tensor,
        call: Call,
        gradient: Tensor,
        found: Collector,
    ) -> None:
        """One block, forward and back: the gradient behind it becomes that before it."""
        found.batch(chunk.start * self._length, chunk.stop - chunk.start)
        leaf = states[chunk].detach().clone().requires_grad_(self.gradients)
        with self._seeing(found):
            out = blocks.step(index, leaf, call)
            if leaf.requires_grad:
                out.backward(gradient[chunk].clone())
                gradient[chunk] = _arrived(leaf)

    def _enter(self, blocks: Blocks, ids: Tensor, chunk: slice, gradient: Tensor, found: Collector) -> None:
        """What comes before the blocks, forward and back."""
        found.batch(chunk.start * self._length, chunk.stop - chunk.start)
        with self._seeing(found):
            out, _ = blocks.enter(ids[chunk])
            if self.gradients:
                out.backward(gradient[chunk])


def _duration(seconds: float) -> str:
    for size, unit in ((5400, "hours"), (90, "minutes")):
        if seconds >= size:
            return f"{seconds / (3600 if unit == 'hours' else 60):.1f} {unit}"
    return f"{max(2.0, seconds):.0f} seconds"


def _arrived(leaf: Tensor) -> Tensor:
    """The gradient that a backward pass left."""
    assert leaf.grad is not None, "everything leads back to what enters a block"
    return leaf.grad


def _slices(count: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]
