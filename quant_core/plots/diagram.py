"""The architecture from top to bottom: what comes before the blocks, each block, what comes after them.

A block is one cell with what its weights have together until it is opened. One open block shows its attention and its
MLP layer by layer, and of many experts ranges of them, one of which can be opened in turn; several open blocks take a
row each, a column a role. Every cell is a bar, since Plotly reports clicks on bars: its ``customdata`` is the cell's
key (``block:3``, ``layer:<name>``, ``experts:16``; empty where there is nothing to open).

After Model Explorer (google-ai-edge/model-explorer), which folds a graph by its modules and colours nodes by data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import (
    SCORES,
    TICK_SIZE,
    axis,
    empty_figure,
    frame,
    hover,
    log_ticks,
    number,
    positive_range,
    quantity,
)
from quant_core.plots.grid import add_scale
from quant_core.plots.palette import Palette, at, readable_on
from quant_core.plots.saving import exactly
from quant_core.plots.sensitivity import score_column
from quant_core.schema import ModelInfo, ScoreName, ScoreTable, Unit

OTHER = "norms and other"
MANY_EXPERTS = 32
"""From more than so many on, experts stand in ranges."""
RANGES = 8
"""At most so many ranges."""
MOST_BITS = 16.0
"""Upper end of the colours for bits: the same for every recipe."""
_ROWS = ((14, 30), (44, 24), (math.inf, 18))
"""Pixels of a row, by how many there are."""


class Measure(NamedTuple):
    """A number of every weight that the diagram shows."""

    title: str
    unit: str
    detail: str
    """What it is of, in a few words."""
    values: Mapping[str, float]
    """By unit; a unit without a value is left out."""
    other: float | None = None
    """Of what is no unit: norms, biases, positions."""
    average: bool = False
    """Whether weights together have their mean, each counting with its size, and not their sum."""
    ends: tuple[float, float] | None = None
    """Ends of the colours, in proportion; None for logarithms from the least to the largest value shown."""

    @property
    def name(self) -> str:
        """Title and unit, as a column is called."""
        return f"{self.title} ({self.unit})"


class Cell(NamedTuple):
    """One cell: a weight, or several together."""

    key: str
    """What a click on it names; empty for nothing."""
    label: str
    left: float
    """0..1, like ``width``."""
    width: float
    row: int
    weights: int
    """How many weights it stands for; 0 for what is no unit."""
    parameters: int
    value: float | None
    known: int
    """How many of the weights have a value."""
    hint: str
    """What a click does, or what else to know."""


class Diagram(NamedTuple):
    """The cells row by row, and the ends of their colours."""

    measure: Measure
    cells: tuple[Cell, ...]
    rows: tuple[str, ...]
    """A label each."""
    columns: tuple[str, ...]
    """Roles, where several blocks are open and share them."""
    low: float
    high: float


def parameter_measure(model: ModelInfo) -> Measure:
    """How many values each weight has."""
    values = {unit.name: float(unit.parameters) for unit in model.units}
    other = float(model.parameters - sum(unit.parameters for unit in model.units))
    return Measure("Parameters", "values", "shared storage counts once", values, max(other, 0.0))


def byte_measure(model: ModelInfo, bits: Mapping[str, int], detail: str) -> Measure:
    """Megabytes (10^6 bytes) of each weight, from its stored bits; ``detail`` says in which format."""
    values = {unit.name: bits[unit.name] / 8e6 for unit in model.units if unit.name in bits}
    return Measure("Size", "MB", detail, values, model.other_bits / 8e6)


def bit_measure(model: ModelInfo, bits: Mapping[str, int], detail: str) -> Measure:
    """Stored bits a weight, scales and zero points included."""
    values = {unit.name: bits[unit.name] / unit.parameters for unit in model.units if unit.name in bits}
    return Measure("Bits a weight", "bits", detail, values, average=True, ends=(0.0, MOST_BITS))


def score_measure(table: ScoreTable, form: str, score: ScoreName = "fisher") -> Measure:
    """What each weight in format ``form`` adds to the model's KL; a score that adds up (``fisher``, ``measured``)."""
    text = SCORES[score]
    return Measure(text.title, text.unit, f"each layer alone in {form}", score_column(table, form, score))


class _Layout:
    """Rows that are filled one after the other."""

    def __init__(self, model: ModelInfo, measure: Measure) -> None:
        self.model, self.measure = model, measure
        self.cells: list[Cell] = []
        self.rows: list[str] = []

    def line(self, label: str) -> None:
        self.rows.append(label)

    def add(self, key: str, label: str, units: Sequence[Unit], place: tuple[float, float], hint: str) -> None:
        """A cell from ``place[0]``, ``place[1]`` wide, in the row that was begun last."""
        have = [unit for unit in units if unit.name in self.measure.values]
        size = sum(unit.parameters for unit in units)
        cell = Cell(
            key, label, *place, len(self.rows) - 1, len(units), size, self._together(have), len(have), hint
        )
        self.cells.append(cell)

    def spread(self, label: str, cells: Sequence[tuple[str, str, Sequence[Unit], str]]) -> None:
        """A row of cells of equal width."""
        self.line(label)
        for place, (key, name, units, hint) in enumerate(cells):
            self.add(key, name, units, (place / len(cells), 1 / len(cells)), hint)

    def _together(self, units: Sequence[Unit]) -> float | None:
        if not units:
            return None
        values = self.measure.values
        if not self.measure.average:
            return math.fsum(values[unit.name] for unit in units)
        total = math.fsum(values[unit.name] * unit.parameters for unit in units)
        return total / sum(unit.parameters for unit in units)


def diagram(
    model: ModelInfo, measure: Measure, opened: Collection[int] = (), experts_from: int = -1
) -> Diagram:
    """Lay the model out.

    Args:
        model: Its units in their order; those outside the blocks lie before or after them.
        measure: What the cells show.
        opened: Blocks that are open; others are one cell.
        experts_from: First expert of the range that is open, where one block is and has many; none by default.
    """
    layout = _Layout(model, measure)
    blocks: dict[int, list[Unit]] = {}
    for unit in model.units:
        blocks.setdefault(unit.block, []).append(unit)
    outside = blocks.pop(-1, [])
    first = next((place for place, unit in enumerate(model.units) if unit.block >= 0), len(model.units))
    before = [unit for unit in outside if unit in model.units[:first]]
    _outside(layout, before)
    wanted = [block for block in blocks if block in opened]
    roles = _roles(unit for block in wanted for unit in blocks[block]) if len(wanted) > 1 else ()
    for block, units in blocks.items():
        if block not in opened:
            _whole(layout, block, units, "▸")
        elif roles:
            _one_line(layout, block, units, roles)
        else:
            _whole(layout, block, units, "▾")
            _parts(layout, block, units, experts_from)
    _rest(layout)
    _outside(layout, [unit for unit in outside if unit not in before])
    for unit in before:
        for name in unit.tied:
            layout.line("")
            hint = f"Shares the storage of {unit.role}, which is counted there."
            layout.add(f"layer:{unit.name}", f"{name.split('.')[-2]} = {unit.role}", (), (0.0, 1.0), hint)
    low, high = measure.ends or positive_range(cell.value or 0.0 for cell in layout.cells if cell.weights)
    return Diagram(measure, tuple(layout.cells), tuple(layout.rows), roles, low, high)


def part(unit: Unit) -> str:
    """Which part of its block a unit belongs to, by its name: ``attention``, ``MLP``, or ``other layers``."""
    inside = unit.name.lower().split(f".{unit.block}.", maxsplit=1)[-1]
    if unit.kind == "expert" or re.search(r"mlp|ffn|feed_forward|moe|expert|\bfc\d", inside):
        return "MLP"
    return "attention" if "attn" in inside or "attention" in inside else "other layers"


def _role(unit: Unit) -> str:
    """The role, the same for all experts of a block."""
    return unit.role.partition("[")[0] if unit.kind == "expert" else unit.role


def _expert(unit: Unit) -> int:
    return int(unit.role.partition("[")[2].rstrip("]"))


def _roles(units: Iterator[Unit]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_role(unit) for unit in units))


def _outside(layout: _Layout, units: Sequence[Unit]) -> None:
    for unit in units:
        layout.spread("", [(f"layer:{unit.name}", unit.role, [unit], "Click to choose it.")])


def _rest(layout: _Layout) -> None:
    """What is no unit, where the final norm lies."""
    if not layout.model.other_bits:
        return
    layout.line("")
    hint = "The final norm, and norms, biases and positions of all blocks: they keep their format."
    layout.cells.append(Cell("", OTHER, 0.0, 1.0, len(layout.rows) - 1, 0, 0, layout.measure.other, 0, hint))


def _whole(layout: _Layout, block: int, units: Sequence[Unit], sign: str) -> None:
    hint = "Click to open it." if sign == "▸" else "Click to close it."
    layout.spread(str(block), [(f"block:{block}", f"{sign} block {block}", units, hint)])


def _one_line(layout: _Layout, block: int, units: Sequence[Unit], roles: Sequence[str]) -> None:
    layout.line(str(block))
    for place, role in enumerate(roles):
        found = [unit for unit in units if _role(unit) == role]
        if found:
            single = len(found) == 1
            key = f"layer:{found[0].name}" if single else f"block:{block}"
            hint = "Click to choose it." if single else "Click to see its experts."
            layout.add(key, role, found, (place / len(roles), 1 / len(roles)), hint)


def _parts(layout: _Layout, block: int, units: Sequence[Unit], experts_from: int) -> None:
    for name in ("attention", "MLP", "other layers"):
        inside = [unit for unit in units if part(unit) == name and unit.kind != "expert"]
        if inside:
            layout.spread(
                name, [(f"layer:{unit.name}", unit.role, [unit], "Click to choose it.") for unit in inside]
            )
    experts = [unit for unit in units if unit.kind == "expert"]
    ranges = expert_ranges(units)
    for role in _roles(iter(experts)):
        same = [unit for unit in experts if _role(unit) == role]
        if not ranges:
            _experts(layout, role, same)
            continue
        cells = []
        for first, last in ranges:
            inside = [unit for unit in same if first <= _expert(unit) <= last]
            cells.append((f"experts:{first}", f"{first}–{last}", inside, "Click to see these experts."))
        layout.spread(role, cells)
    for first, last in ranges:
        if first <= experts_from <= last:
            for role in _roles(iter(experts)):
                inside = [unit for unit in experts if _role(unit) == role and first <= _expert(unit) <= last]
                _experts(layout, f"{role} {first}–{last}", inside)


def _experts(layout: _Layout, label: str, units: Sequence[Unit]) -> None:
    layout.spread(
        label,
        [(f"layer:{unit.name}", str(_expert(unit)), [unit], "Click to choose it.") for unit in units],
    )


def expert_ranges(units: Sequence[Unit]) -> tuple[tuple[int, int], ...]:
    """First and last expert of each range that a block's experts are shown in; none where they are few."""
    count = 1 + max((_expert(unit) for unit in units if unit.kind == "expert"), default=-1)
    if count <= MANY_EXPERTS:
        return ()
    size = 2 ** math.ceil(math.log2(count / RANGES))
    return tuple((first, min(first + size, count) - 1) for first in range(0, count, size))


def draw_diagram(data: Diagram, palette: Palette, selected: str = "") -> go.Figure:
    """The cells from top to bottom, coloured by their values; clicks return the cell's key. ``selected`` is a unit."""
    measure = data.measure
    if not any(cell.weights for cell in data.cells):
        return empty_figure(palette, measure.title, "This model has no layer that can be quantized.")
    pixels = next(size for most, size in _ROWS if len(data.rows) <= most)
    subtitle = f"{measure.unit}, {measure.detail}" + ("" if measure.ends else ", log colours")
    room = 62 if data.columns else 40
    figure = frame(
        palette, measure.title, 64 + room + 24 + pixels * len(data.rows), subtitle, bargap=0,
        uniformtext={"mode": "hide", "minsize": 9},
        clickmode="event+select",
        hovermode="closest",
        dragmode="pan",
        xaxis=axis(
            palette, "", lines=False, fixedrange=True, range=[0, 1], side="top", tickangle=0,
            tickvals=[(place + 0.5) / len(data.columns) for place in range(len(data.columns))],
            ticktext=[column.removesuffix("_proj") for column in data.columns],
        ),
        yaxis=axis(
            palette, "Block", lines=False, fixedrange=True, range=[len(data.rows) - 0.5, -0.5],
            tickvals=[place for place, label in enumerate(data.rows) if label],
            ticktext=[label for label in data.rows if label],
        ),
    )  # fmt: skip
    fills = [
        palette.grid if cell.value is None else _colour(data, palette, cell.value) for cell in data.cells
    ]
    chosen = [bool(selected) and cell.key == f"layer:{selected}" and cell.weights > 0 for cell in data.cells]
    still = {"marker": {"opacity": 1}}
    figure.add_trace(
        go.Bar(
            base=[cell.left for cell in data.cells],
            x=[cell.width for cell in data.cells],
            y=[cell.row for cell in data.cells],
            width=0.94,
            orientation="h",
            marker={
                "color": fills,
                "line": {
                    "color": [palette.text if picked else palette.background for picked in chosen],
                    "width": [3 if picked else 1 for picked in chosen],
                },
            },
            text=[_text(data, cell) for cell in data.cells],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            insidetextfont={"size": TICK_SIZE, "color": [readable_on(fill) for fill in fills]},
            customdata=[[cell.key] for cell in data.cells],
            hovertext=[_hover(data, cell) for cell in data.cells],
            hovertemplate="%{hovertext}<extra></extra>",
            selected=still,
            unselected=still,
            meta=_numbers(data),
        )
    )
    _add_colours(figure, data, palette, room)
    return figure


def _position(data: Diagram, value: float) -> float:
    """Where a value lies among the colours, 0..1."""
    if data.measure.ends:
        return (value - data.low) / (data.high - data.low)
    span = math.log10(data.high / data.low)
    return math.log10(max(value, data.low) / data.low) / span if span else 0.5


def _colour(data: Diagram, palette: Palette, value: float) -> str:
    return at(palette.sequential, _position(data, value))


def _add_colours(figure: go.Figure, data: Diagram, palette: Palette, room: int) -> None:
    if data.measure.ends:
        values: Sequence[float] = tuple(data.low + (data.high - data.low) * place / 4 for place in range(5))
        add_scale(figure, palette, data.low, data.high, values, [number(value) for value in values], room)
    else:
        values, texts = log_ticks(data.low, data.high, 5)
        low = math.log10(data.low)
        high = max(math.log10(data.high), low + 1e-6)
        add_scale(figure, palette, low, high, [math.log10(value) for value in values], texts, room)


def brief(value: float) -> str:
    """A number that fits a cell: three digits and k, M, G or T."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.3g}"


def _text(data: Diagram, cell: Cell) -> str:
    value = "" if cell.value is None else brief(cell.value)
    if data.columns and cell.label in data.columns:
        return value
    if cell.width == 1.0:
        return f"{cell.label}   {value} {data.measure.unit}" if value else cell.label
    return f"{cell.label} {value}".rstrip()


def _hover(data: Diagram, cell: Cell) -> str:
    measure = data.measure
    kind = "on average " if measure.average and cell.weights > 1 else ""
    shown = "no value" if cell.value is None else kind + quantity(cell.value, measure.unit)
    name = cell.key.partition(":")[2] if cell.key.startswith("layer:") and cell.weights else cell.label
    several = f"{cell.weights:,} weights, {cell.parameters:,} values" if cell.weights > 1 else ""
    partly = f"of {cell.known:,} weights that have one" if 0 < cell.known < cell.weights else ""
    return hover(name, f"{measure.title}: {shown}", partly, several, cell.hint)


def _numbers(data: Diagram) -> dict[str, object]:
    shown = [cell for cell in data.cells if cell.value is not None]
    return exactly(
        {
            "Row": [data.rows[cell.row] for cell in shown],
            "Part": [cell.label.lstrip("▸▾ ") for cell in shown],
            "Weights (count)": [cell.weights for cell in shown],
            data.measure.name: [cell.value for cell in shown],
        }
    )
