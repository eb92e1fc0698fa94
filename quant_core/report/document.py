"""A document as data: blocks of plain text that writers turn into markup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Fact(NamedTuple):
    """A figure: what it is, its value with its unit, and what it was measured on."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Listing:
    """Sentences, a point each."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows of cells; columns whose number is in ``numeric`` are set to the right."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[int, ...] = ()


@dataclass(frozen=True)
class Verbatim:
    """Text that keeps its lines: a command, or what a model wrote."""

    title: str
    text: str
    code: bool = True
    """Whether it is a command."""


@dataclass(frozen=True)
class CellMap:
    """A grid of formats: a row a role, a column a block."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    """Names of formats; empty where there is no weight."""
    names: tuple[str, ...]
    """All of them, by rising bits."""


@dataclass(frozen=True)
class Curve:
    """A line through points of rising size (MB) and falling KL (nats/token), and one point that stands out."""

    title: str
    points: tuple[tuple[float, float], ...]
    mark: tuple[float, float]
    label: str


class Span(NamedTuple):
    """A value with the ends of its interval."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Spans:
    """Values in one unit with their intervals."""

    title: str
    rows: tuple[Span, ...]
    unit: str


@dataclass(frozen=True)
class Bars:
    """Values from 0 up in one unit; ``text`` is written beside each."""

    title: str
    rows: tuple[tuple[str, float, str], ...]


Chart = CellMap | Curve | Spans | Bars
Block = Text | Listing | Table | Verbatim | CellMap | Curve | Spans | Bars


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A first page and an appendix."""

    title: str
    question: str
    answer: str
    facts: tuple[Fact, ...]
    unknown: tuple[str, ...]
    """What it does not know, a sentence each."""
    appendix: tuple[Section, ...]
    made_by: str


_BREAKS = str.maketrans(dict.fromkeys("\r\v\f\x1c\x1d\x1e\x85\u2028\u2029", "\n"))
_KEPT = "\n\t\u200c\u200d"


def clean(text: str) -> str:
    """Text without what no file of text should hold: control characters, turned directions, halves of pairs."""
    lines = text.replace("\r\n", "\n").translate(_BREAKS)
    return "".join(one if one in _KEPT or one.isprintable() or one.isspace() else "\ufffd" for one in lines)
