"""Which weight of the original each matrix of a checkpoint is.

A checkpoint in Hugging Face's layout names a layer as the original does, but for a prefix of the base model, or fuses
what the original stores apart (``qkv_proj``, ``gate_up_proj``, as vLLM has them). A GGUF file has llama.cpp's names,
with the rows of some weights in another order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gguf
from torch import Tensor

from quant_core.checkpoints.base import Held, Quantized
from quant_core.checkpoints.gguf_names import ARCHITECTURES, Names, apart
from quant_core.checkpoints.tensors import word
from quant_core.errors import ExportError
from quant_core.models.layout import Place
from quant_core.models.stored import StoredTensors
from quant_core.schema import Unit, Unmatched

_PREFIX = re.compile(r"^(?:model\.|transformer\.|language_model\.)+")
_FUSED = {
    "q_proj": ("qkv_proj", ("q_proj", "k_proj", "v_proj")),
    "k_proj": ("qkv_proj", ("q_proj", "k_proj", "v_proj")),
    "v_proj": ("qkv_proj", ("q_proj", "k_proj", "v_proj")),
    "gate_proj": ("gate_up_proj", ("gate_proj", "up_proj")),
    "up_proj": ("gate_up_proj", ("gate_proj", "up_proj")),
}


@dataclass(frozen=True)
class Original:
    """A model that a checkpoint may have been made from."""

    title: str
    config: Any
    """transformers' configuration."""
    units: tuple[Unit, ...]
    places: Mapping[str, tuple[Place, ...]]
    tensors: StoredTensors


@dataclass(frozen=True)
class Piece:
    """Rows of a matrix of the checkpoint that are rows of a unit."""

    held: Held
    begin: int
    """The first of those rows in ``held``."""
    rows: int
    unit: Unit
    start: int
    """The first of those rows in the unit."""
    place: Place
    of_place: int
    """The first of those rows in the original's stored tensor."""
    heads: int = 0
    """Heads whose rows llama.cpp keeps in another order; 0 for rows that stay where they are."""
    spare: bool = False
    """Whether the unit has its values from another matrix: a head stored beside the embedding it is tied to."""

    def values(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Those rows, or some of them, (rows, columns) float32, in the unit's order."""
        if self.heads:
            return apart(self.held.read(self.begin, self.begin + self.rows), self.heads)
        return self.held.read(
            self.begin + start, self.begin + (self.rows if stop is None else min(stop, self.rows))
        )

    def original(self, tensors: StoredTensors) -> Tensor:
        """The same rows of the original, (rows, columns) as they are stored."""
        return self.place.matrix(tensors)[self.of_place : self.of_place + self.rows]


@dataclass(frozen=True)
class Matched:
    """What belongs together, and what does not."""

    pieces: tuple[Piece, ...]
    unmatched: tuple[Unmatched, ...]
    plain: Mapping[str, str]
    """Names in the checkpoint by the original's stored names, of all that is no matrix."""
    biases: Mapping[str, int]
    """Heads whose values of a vector are in llama.cpp's order, by the original's stored name."""


def match(found: Quantized, original: Original) -> Matched:
    """Match a checkpoint with an original.

    Raises:
        ExportError: They are not of one model: another architecture, depth or width, or not one weight fits.
    """
    _check_shape(found, original)
    lookup = _Gguf(found, original) if found.keys else _Plainly(found)
    pieces: list[Piece] = []
    unmatched: list[Unmatched] = []
    for unit in original.units:
        held = original.places.get(unit.name, ())
        reason = "" if held else "The original's files do not hold it as it is used."
        start = 0
        for place in held:
            rows = place.shape(original.tensors)[0]
            reason = lookup.find(pieces, unit, place, start, rows) or reason
            start += rows
        for name in unit.tied:
            if name != unit.name and held:
                lookup.find(pieces, unit, Place(name), 0, unit.rows, held[0])
        if reason:
            unmatched.append(Unmatched(unit.name, reason))
    if not pieces:
        raise ExportError(
            f"None of the {len(found.held):,} weights of {found.title} has a name and a shape that {original.title} "
            "has.",
            "Name the model that it was made from as the original.",
        )
    used = {id(piece.held) for piece in pieces}
    others = {lookup.name(name) for name in original.tensors.names}
    for one in found.held:
        if id(one) not in used and lookup.own(one.name) not in others:
            label = one.name if one.expert is None else f"{one.name}[{one.expert}]"
            unmatched.append(Unmatched(label, f"{original.title} has no weight of this name and shape."))
    plain = {name: lookup.plain(name) for name in original.tensors.names}
    heads = {name: lookup.heads(name) for name in original.tensors.names}
    return Matched(
        tuple(pieces),
        tuple(unmatched),
        {name: other for name, other in plain.items() if other in found.plain},
        {name: count for name, count in heads.items() if count},
    )


class _Plainly:
    """Hugging Face's names. ``own`` and ``name`` tell a name of the checkpoint and of the original as compared,
    ``plain`` which tensor of the checkpoint is one of the original's, ``heads`` how many heads are to be reordered.
    """

    def __init__(self, found: Quantized) -> None:
        self._held = {self.own(one.name): one for one in found.held}
        self._plain = {self.own(name): name for name in found.plain}

    def own(self, name: str) -> str:
        """A name of the checkpoint as it is compared."""
        return _PREFIX.sub("", name)

    def name(self, stored: str) -> str:
        """A name of the original as it is compared."""
        return self.own(stored)

    def plain(self, stored: str) -> str:
        return self._plain.get(self.own(stored), "")

    def heads(self, stored: str) -> int:
        return 0

    def find(
        self,
        pieces: list[Piece],
        unit: Unit,
        place: Place,
        start: int,
        rows: int,
        tied: Place | None = None,
    ) -> str:
        """Add the piece that a place's rows are; why there is none, a sentence, else nothing."""
        own = self.own(place.name)
        held = self._held.get(own) if place.expert is None else None
        if held is None and tied is None and place.expert is None:
            return self._fused(pieces, unit, place, start, rows)
        if held is None:
            return f"The checkpoint has no {place.name}."
        if (held.rows, held.columns) != (rows, unit.columns):
            return _shapes(held, rows, unit.columns)
        spare = tied is not None and any(piece.unit is unit for piece in pieces)
        pieces.append(Piece(held, 0, rows, unit, start, tied or place, 0, spare=spare))
        return ""

    def _fused(self, pieces: list[Piece], unit: Unit, place: Place, start: int, rows: int) -> str:
        """Rows of what the checkpoint has fused; they follow each other by the sizes that are there so far."""
        module, _, role = place.name.removesuffix(".weight").rpartition(".")
        fused, parts = _FUSED.get(role, ("", ()))
        held = self._held.get(self.own(f"{module}.{fused}.weight"))
        if held is None:
            return f"The checkpoint has no {place.name}."
        before = [piece for piece in pieces if piece.held is held]
        begin = sum(piece.rows for piece in before)
        whole = begin + rows == held.rows if role == parts[-1] else begin + rows < held.rows
        if held.columns != unit.columns or len(before) != parts.index(role) or not whole:
            return _shapes(held, rows, unit.columns)
        pieces.append(Piece(held, begin, rows, unit, start, place, 0))
        return ""


class _Gguf:
    """llama.cpp's names; for methods see ``_Plainly``."""

    def __init__(self, found: Quantized, original: Original) -> None:
        self._held = {(one.name, one.expert): one for one in found.held}
        self._names = Names(original.config)

    def own(self, name: str) -> str:
        """A name of the checkpoint as it is compared."""
        return name

    def name(self, stored: str) -> str:
        """A name of the original as it is compared."""
        parts = self._parts(stored, 0, None)
        return parts[0].tensor if parts else ""

    def plain(self, stored: str) -> str:
        return self.name(stored)

    def heads(self, stored: str) -> int:
        parts = self._parts(stored, 0, None)
        return parts[0].heads if parts else 0

    def _parts(self, stored: str, rows: int, expert: int | None) -> list[Any]:
        try:
            return list(self._names.parts(stored, rows, expert))
        except ExportError:  # llama.cpp has no such tensor
            return []

    def find(
        self,
        pieces: list[Piece],
        unit: Unit,
        place: Place,
        start: int,
        rows: int,
        tied: Place | None = None,
    ) -> str:
        """Add the pieces that a place's rows are; why there are none, a sentence, else nothing."""
        parts = self._parts(place.name, rows, place.expert)
        if not parts:
            return f"llama.cpp has no place for {place.name}."
        for part in parts:
            held = self._held.get((part.tensor, part.expert))
            count = part.count or rows
            if held is None:
                return f"The file has no {part.tensor}."
            if (held.rows, held.columns) != (count, unit.columns):
                return _shapes(held, count, unit.columns)
            if part.heads and count % (2 * part.heads):
                return f"The heads of {part.tensor} do not divide its rows."
            spare = tied is not None and any(piece.unit is unit for piece in pieces)
            pieces.append(
                Piece(held, 0, count, unit, start + part.start, tied or place, part.start, part.heads, spare)
            )
        return ""


def _shapes(held: Held, rows: int, columns: int) -> str:
    return f"The checkpoint's {held.name} is {held.rows} x {held.columns}, the original's {rows} x {columns}."


def _check_shape(found: Quantized, original: Original) -> None:
    """Refuse an original of another architecture, depth or width, as far as both say what theirs are."""
    config = original.config
    mine = (getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None))
    kind = str(config.model_type)
    if found.keys:
        if kind not in ARCHITECTURES:
            raise ExportError(
                f"Where llama.cpp keeps the weights of a {kind} model is not known here.",
                f"It is known of {', '.join(ARCHITECTURES)}; leave the original out to see what the file holds.",
            )
        kind = gguf.MODEL_ARCH_NAMES[ARCHITECTURES[kind]]
        theirs = word(found.keys.get("general.architecture", "unknown"))
        sizes = [found.keys.get(f"{theirs}.{name}") for name in ("block_count", "embedding_length")]
    else:
        theirs = word(found.config.get("model_type", "unknown"))
        sizes = [
            next((found.config[name] for name in names if name in found.config), None)
            for names in (("num_hidden_layers", "n_layer"), ("hidden_size", "n_embd"))
        ]
    both = [(size, own) for size, own in zip(sizes, mine, strict=True) if isinstance(size, int) and own]
    differ = any(size != own for size, own in both)
    if differ or (found.keys and theirs != kind):
        raise ExportError(
            f"{found.title} was not made from {original.title}: it is {_told(theirs, sizes)}, and {original.title} is "
            f"{_told(kind, mine)}.",
            "Name the model that it was made from as the original, or none.",
        )


def _told(kind: str, sizes: Sequence[Any]) -> str:
    blocks, wide = (size if isinstance(size, int) else "an unknown number of" for size in sizes)
    return f"{kind} with {blocks} blocks of width {wide}"


def by_held(pieces: Sequence[Piece]) -> Iterator[tuple[Held, list[Piece]]]:
    """The pieces of each matrix."""
    found: dict[int, list[Piece]] = {}
    for piece in pieces:
        found.setdefault(id(piece.held), []).append(piece)
    for some in found.values():
        yield some[0].held, some
