"""The score state of a sweep: its factors in one file, from which any rounding error is scored without the model.

A unit's roots (``factors``) are stored with what rounding methods learn from its inputs, the text's tokens, and the
anchor of its scores (``anchors``). Values are float16, each tensor divided by its largest, and of a triangular root
only the triangle is kept: a side of d values takes d (d + 1) bytes up to 4,096, and 2,048 d beyond, where some 1,024
rows are kept instead. The file is written whole or not at all, named by its content, and mapped into memory for
reading.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quant_core.calibration.inputs import Inputs
from quant_core.calibration.text import Tokens
from quant_core.errors import QuantError
from quant_core.methods.trained import read_head, write_tensors
from quant_core.schema import Unit, digest, dump, load
from quant_core.sensitivity.anchors import Anchor
from quant_core.sensitivity.factors import WIDE, Term, cost, diagonal
from quant_core.store.arrays import array_file

VERSION = 2
"""Of the layout; a state of another one is not read."""
_LOST = "Score the layers again with the new formats among the sweep's."


@dataclass(frozen=True)
class UnitState:
    """What the file holds of one unit beside tensors."""

    unit: Unit
    source: str
    """The unit under whose name the inputs are kept; empty if it multiplies none or saw no token."""
    terms: tuple[bool, ...]
    """One a term: whether it has a right root of its own, or that of the inputs."""
    looked_up: bool
    """Whether its rows are looked up by token."""
    signal: float
    """Mean |W x|^2."""
    anchor: Anchor


@dataclass(frozen=True)
class StateHead:
    """What a state is of."""

    fingerprint: str
    """The model's."""
    dtype: str
    """What it computed in."""
    transforms: tuple[str, ...]
    """Rewrites that the model had gone through."""
    searched: str
    """The format that rewrites which search took every decided unit to be in."""
    text_hash: str
    text_label: str
    seed: int
    units: Mapping[str, UnitState]
    seen: Mapping[str, int]
    """Tokens that each source of inputs saw."""
    scales: Mapping[str, float] = field(default_factory=dict)
    """What the tensors' values are to be multiplied by."""
    version: int = VERSION


def pack(root: Tensor) -> Tensor:
    """A root as it is stored: the triangle row by row, (width (width + 1) / 2,); others as they are."""
    if root.dim() == 1 or root.shape[1] > WIDE:
        return root
    return root.flatten()[_triangle(root.shape[1]).to(root.device)]


def unpack(stored: Tensor, width: int) -> Tensor:
    """Undo ``pack`` for vectors of ``width`` values."""
    if stored.dim() == 2 or len(stored) == width:
        return stored
    root = stored.new_zeros(width * width)
    root[_triangle(width).to(stored.device)] = stored
    return root.view(width, width)


@lru_cache(maxsize=8)
def _triangle(width: int) -> Tensor:
    """Places of the upper triangle in a flattened (width, width) matrix, row by row."""
    rows, columns = torch.triu_indices(width, width).unbind()
    return rows * width + columns


def write_state(folder: Path, head: StateHead, tensors: Mapping[str, Tensor]) -> str:
    """Write a state and return the key it is found by.

    Raises:
        QuantError: The disk does not take it.
    """
    halves: dict[str, Tensor] = {}
    scales: dict[str, float] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            halves[name] = tensor.cpu()
            continue
        scales[name] = float(tensor.abs().max()) if tensor.numel() else 0.0
        halves[name] = (tensor / (scales[name] or 1.0)).half().cpu().contiguous()
    told = dump(StateHead(**{**head.__dict__, "scales": scales}))
    hashes = {
        name: hashlib.sha256(part.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, part in halves.items()
    }
    key = digest({"head": told, "tensors": hashes})
    write_tensors(_path(folder, key), halves, told)
    return key


def _path(folder: Path, key: str) -> Path:
    return array_file(folder, "state", key)


@dataclass(frozen=True)
class Scorer:
    """Scores any error of one unit."""

    unit: UnitState
    terms: list[Term]
    inputs: Tensor
    """F_x over the text's tokens, (k, columns)."""
    looked_up: Tensor | None
    """Token ids (n,), where the unit's rows are looked up."""

    def score(self, error: Tensor, fitted: bool = False) -> tuple[float, float, float]:
        """Of an error (rows, columns): predicted KL in nats a token, its standard error, and relative output error.

        ``fitted`` says that the rounding looked at the inputs.
        """
        found = cost(error, self.terms, self.inputs)
        energy = found.energy
        if self.looked_up is not None:
            energy += float(error.square().sum(dim=1)[self.looked_up].mean())
        return *self.unit.anchor.score(found.score, fitted), energy / max(self.unit.signal, 1e-30)


class ScoreState:
    """A stored state, read unit by unit.

    Args:
        folder: Where states are.
        key: Which.
        fingerprint: The model's; another one's state is refused.

    Raises:
        QuantError: The file is gone or damaged, or of another model.
    """

    def __init__(self, folder: Path, key: str, fingerprint: str) -> None:
        self.path = _path(folder, key)
        if not key.isalnum() or not self.path.is_file():
            raise QuantError(f"The score state {key!r} of this sweep is not stored here.", _LOST)
        try:
            self.head = load(StateHead, read_head(self.path))
            self._file: Any = safe_open(self.path, framework="pt", device="cpu")
        except (ValueError, OSError, SafetensorError) as error:
            raise self._damaged() from error
        if self.head.version != VERSION:
            raise QuantError(f"The score state {key} is of another version of QuantLens.", _LOST)
        if self.head.fingerprint != fingerprint:
            raise QuantError(f"The score state {key} is of another model.", "Choose a sweep of this model.")

    def _damaged(self) -> QuantError:
        return QuantError(f"The score state {self.path} is damaged.", f"Delete the file. {_LOST}")

    def tokens(self) -> Tokens:
        """The text that was scored."""
        return Tokens(self._read("tokens").long(), self.head.text_hash, self.head.text_label)

    def learned(self) -> Tokens:
        """The text that the sweep's rewrites and rounding methods learned from."""
        return Tokens(self._read("learned").long(), self.head.text_hash, self.head.text_label)

    def unit(self, name: str) -> UnitState:
        """What is known of a unit; ``QuantError`` if the sweep did not score it."""
        if name not in self.head.units:
            raise QuantError(f"The sweep did not score {name}.", "Choose a layer that it scored.")
        return self.head.units[name]

    def scorer(self, name: str, device: torch.device) -> Scorer:
        """What scores errors of a unit that are on ``device``."""
        unit = self.unit(name)
        terms = [
            Term(
                unpack(self._read(f"{name}|{place}|left"), unit.unit.rows).to(device),
                unpack(self._read(f"{name}|{place}|right"), unit.unit.columns).to(device) if own else None,
            )
            for place, own in enumerate(unit.terms)
        ]
        ids = self.tokens().ids.flatten().to(device) if unit.looked_up else None
        return Scorer(unit, terms, self._inputs_root(unit).to(device), ids)

    def _inputs_root(self, unit: UnitState) -> Tensor:
        """F_x, (k, columns); no rows for a unit that multiplies nothing."""
        if not unit.source:
            return torch.zeros(0, unit.unit.columns)
        return unpack(self._read(f"{unit.source}|root"), unit.unit.columns)

    def inputs(self, name: str, device: torch.device) -> Inputs:
        """What rounding methods learn from, on ``device``; ``fisher`` is the product of the factors' diagonals."""
        unit = self.unit(name)
        scorer = self.scorer(name, device)
        if not unit.source:
            nothing = torch.zeros(unit.unit.columns, device=device)
            return Inputs(torch.zeros(0, 0, device=device), nothing, nothing, nothing[None][:0], 0, None)
        seen = self.head.seen[unit.source]
        mean_abs, largest, samples = (
            self._read(f"{unit.source}|{part}").to(device) for part in ("mean_abs", "largest", "samples")
        )
        moment = scorer.inputs.T @ scorer.inputs * (self.tokens().count / seen)
        fisher = diagonal(scorer.terms, scorer.inputs)
        return Inputs(moment, mean_abs, largest, samples, seen, fisher)

    def _read(self, name: str) -> Tensor:
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except (SafetensorError, KeyError) as error:
            raise self._damaged() from error
        return tensor.float() * self.head.scales[name] if tensor.is_floating_point() else tensor
