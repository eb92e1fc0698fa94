"""Adding up, beside the Fisher pass, what a score state is made of (``factors`` says what that is)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quant_core.calibration.capture import Product
from quant_core.models.layers import Slot
from quant_core.sensitivity.factors import Moment, Term, behind_rows

SAMPLES = 256
"""Whole inputs kept for rounding methods that run the layer."""


@dataclass(eq=False)
class InputSums:
    """What entered the units that are fed one tensor."""

    moment: Moment
    mean_abs: Tensor
    largest: Tensor
    samples: list[Tensor] = field(default_factory=list)

    def add(self, x: Tensor, stride: int) -> None:
        """Count inputs (n, columns); every ``stride``-th is kept as it is."""
        size = x.abs().float()
        self.mean_abs += size.sum(dim=0)
        self.largest = torch.maximum(self.largest, size.amax(dim=0))
        self.samples.append(x[-self.moment.count % stride :: stride].float())
        self.moment.add(x)

    def rows(self) -> Tensor:
        """The inputs that were kept, (about ``SAMPLES`` at most, columns)."""
        return torch.cat(self.samples)


class StateSums:
    """The sums over the text, read once or, with fresh labels, several times.

    Args:
        slots: Units that are scored.
        tokens: Tokens of the text.
        seed: For the signs of pull-backs, drawn on the CPU.
    """

    def __init__(self, slots: Sequence[Slot], tokens: int, seed: int) -> None:
        self.inputs: dict[str, InputSums] = {}
        self.source: dict[str, str] = {}
        """Unit to the unit under whose name its inputs are counted."""
        self._slots = {slot.unit.name: slot for slot in slots}
        self._tokens, self._labels = tokens, 1
        self._signs = torch.Generator().manual_seed(seed)
        self._fed: dict[tuple[int, tuple[int, ...]], str] = {}
        self._direct: dict[str, Moment] = {}
        self._squares: dict[str, Tensor] = {}
        self._looked_up: dict[str, tuple[Tensor, Moment]] = {}
        self._behind: dict[str, tuple[Moment, Moment]] = {}

    def begin(self, label: int) -> None:
        """A batch begins, read with the label of that number; tensors in memory are other ones than before."""
        self._labels = label + 1
        self._fed.clear()

    def enter(self, product: Product) -> None:
        """A product is computed; units that are fed the same tensor (q, k, v) share what is kept of it."""
        x, name = product.inputs, product.slot.unit.name
        if not product.lookup:
            feeds = self._fed.setdefault((x.data_ptr(), tuple(x.shape)), name)
            self.source.setdefault(name, self.source.get(feeds, feeds))

    def pull(self, product: Product, gradient: Tensor, sequences: int) -> None:
        """One pull-back of all tokens' gradients behind the attention, (n, features), under random signs."""
        assert product.pull is not None, "an attention's keys and values can be pulled back to"
        unit = product.slot.unit
        signs = torch.randint(2, (len(gradient), 1), generator=self._signs) * 2 - 1
        pulled = product.pull(gradient * signs.to(gradient.device, gradient.dtype))
        rows = behind_rows(pulled, product.inputs, sequences)
        if unit.name not in self._behind:
            texts = self._tokens * sequences // len(gradient)
            self._behind[unit.name] = (
                Moment(unit.rows, texts * unit.columns, rows.device),
                Moment(unit.columns, texts * unit.rows, rows.device),
            )
        left, right = self._behind[unit.name]
        left.add(rows.transpose(1, 2).flatten(0, 1))
        right.add(rows.flatten(0, 1))

    def add(self, name: str, seen: Sequence[tuple[Product, Tensor | None]]) -> None:
        """Count one batch's products of a unit, each with the gradient at its outputs, (n, rows)."""
        for product, gradient in seen:
            if product.lookup:
                self._look_up(name, product, gradient)
                continue
            if len(product.inputs) and self.source[name] == name and self._labels == 1:
                self._enter(name, product.inputs)
            if gradient is not None and (product.mixed is None or not bool(product.mixed.all())):
                self._leave(name, gradient if product.mixed is None else gradient * ~product.mixed)

    def _enter(self, name: str, x: Tensor) -> None:
        if name not in self.inputs:
            zeros = torch.zeros(x.shape[1], device=x.device)
            self.inputs[name] = InputSums(Moment(x.shape[1], self._tokens, x.device), zeros, zeros.clone())
        self.inputs[name].add(x, max(1, self._tokens // SAMPLES))

    def _leave(self, name: str, gradient: Tensor) -> None:
        unit = self._slots[name].unit
        if unit.kind in ("embedding", "head"):
            squares = gradient.float().square().sum(dim=0)
            self._squares[name] = self._squares[name] + squares if name in self._squares else squares
            return
        if name not in self._direct:
            self._direct[name] = Moment(unit.rows, self._tokens, gradient.device)
        self._direct[name].add(gradient)

    def _look_up(self, name: str, product: Product, gradient: Tensor | None) -> None:
        unit = self._slots[name].unit
        if gradient is None:
            return
        if name not in self._looked_up:
            moment = Moment(unit.columns, self._tokens, gradient.device)
            self._looked_up[name] = torch.zeros(unit.rows, device=gradient.device), moment
        weights, moment = self._looked_up[name]
        weights.index_add_(0, product.inputs, gradient.float().square().sum(dim=1))
        moment.add(gradient)

    def input_root(self, source: str) -> Tensor:
        """F_x of the units that ``source`` stands for, (k, columns); a token that they did not see counts as zeros."""
        return self.inputs[source].moment.root(self._tokens)

    def looked_up(self, name: str) -> bool:
        """Whether a unit's rows are looked up by token."""
        return name in self._looked_up

    def terms(self, name: str) -> list[Term]:
        """The terms of a unit's score."""
        found: list[Term] = []
        total = self._tokens * self._labels
        if name in self._direct:
            moment = self._direct[
                name
            ]  # of the tokens that a unit saw: its inputs bring their share of the text
            found.append(Term(moment.root(max(1, moment.count)), None))
        if name in self._squares:
            found.append(Term((self._squares[name] / total).sqrt(), None))
        if name in self._looked_up:
            weights, moment = self._looked_up[name]
            found.append(Term((weights / total).sqrt(), _normal(moment.root(total))))
        if name in self._behind:
            left, right = self._behind[name]
            found.append(Term(left.root(total), _normal(right.root(total))))
        return found


def _normal(root: Tensor) -> Tensor:
    """A root divided so that its moment has a trace of 1."""
    length = torch.linalg.vector_norm(root)
    return root / torch.where(length > 0, length, 1.0)
