"""Cells laid out by block and role, drawn as a heatmap that can be clicked.

Plotly reports no selection on a heatmap, so an invisible scatter of one point a cell lies over it and carries
the unit's name as ``customdata``; :func:`clicked` reads it back from what the browser returns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import TICK_SIZE, axis, thinned
from quant_core.plots.palette import Palette, at, readable_on
from quant_core.plots.saving import cells_exactly
from quant_core.schema import Unit

OUTSIDE = "–"
"""Label of the column that holds what lies outside the blocks."""

EXPERT = "expert beside others"
"""The kind of units that lie side by side within one block."""
MOST_ROWS = 60
"""Of more rows a map is no longer read."""

MANY_POINTS = 1000
"""From here on the overlay is drawn by WebGL."""

TEXT_CELLS = 200
TEXT_COLUMNS = 16
"""Cells are written into up to this many cells and columns."""


class CellGrid(NamedTuple):
    """Where each unit is drawn: ``units[row][column]`` is its name, empty where there is none."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    units: tuple[tuple[str, ...], ...]
    row_title: str
    """What rows are, for the saved table; the labels say it in the chart."""
    column_title: str

    def places(self) -> dict[str, tuple[int, int]]:
        """Row and column of each unit (of its first cell, where it has several)."""
        found: dict[str, tuple[int, int]] = {}
        for row, names in enumerate(self.units):
            for column, name in enumerate(names):
                if name:
                    found.setdefault(name, (row, column))
        return found

    def spread(self, values: Mapping[str, float]) -> tuple[tuple[float | None, ...], ...]:
        """The values in the shape of the grid; None where there is no unit or no value."""
        return tuple(tuple(values.get(name) for name in names) for names in self.units)


def block_grid(units: Sequence[Unit]) -> CellGrid:
    """Blocks from left to right, roles from top to bottom in the model's order.

    Units outside the blocks have rows of their own, in a column of their own at the left. Where two units
    would share a cell (one role twice in a block), each keeps its own row, named by what tells them apart.
    """
    blocks = sorted({unit.block for unit in units if unit.block >= 0})
    outside = any(unit.block < 0 for unit in units)
    labels = ([-1] if outside else []) + blocks
    title = "Expert" if any(unit.kind == EXPERT for unit in units) else "Block"
    roles = _distinct_roles(units)
    inside = dict.fromkeys(roles[unit.name] for unit in units if unit.block >= 0)
    rows = dict.fromkeys([*(roles[unit.name] for unit in units if unit.block < 0), *inside])
    by_place = {(roles[unit.name], unit.block): unit.name for unit in units}
    return CellGrid(
        rows=tuple(rows),
        columns=tuple(OUTSIDE if block < 0 else str(block) for block in labels),
        units=tuple(tuple(by_place.get((role, block), "") for block in labels) for role in rows),
        row_title="Role",
        column_title=title,
    )


def block_rows(units: Sequence[Unit]) -> int:
    """How many rows ``block_grid`` gives units."""
    return len(set(_distinct_roles(units).values()))


def _distinct_roles(units: Sequence[Unit]) -> dict[str, str]:
    """A row label for each unit: its role, with a number where a block has the role more than once."""
    seen: dict[tuple[int, str], int] = {}
    labels = {}
    for unit in units:
        place = (unit.block, unit.role)
        seen[place] = seen.get(place, 0) + 1
        labels[unit.name] = unit.role if seen[place] == 1 else f"{unit.role} #{seen[place]}"
    return labels


def exact_cells(grid: CellGrid, name: str, values: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """The ``meta`` of a heatmap whose cells stand for ``values``; ``name`` tells what they are, and their unit."""
    return cells_exactly((grid.row_title, grid.rows), (grid.column_title, grid.columns), (name, values))


def short_name(unit: Unit) -> str:
    """How a unit is called where space is short: ``3 · q_proj``, or its role alone outside the blocks."""
    return unit.role if unit.block < 0 else f"{unit.block} · {unit.role}"


def grid_height(rows: int, least: int = 260, most: int = 1400) -> int:
    """Pixels for a figure of so many rows, frame included."""
    return min(max(130 + rows * (34 if rows <= 12 else 22 if rows <= 40 else 14), least), most)


def has_text(grid: CellGrid) -> bool:
    """Whether the cells are few enough to be written into."""
    return len(grid.rows) * len(grid.columns) <= TEXT_CELLS and len(grid.columns) <= TEXT_COLUMNS


def add_cell_texts(
    figure: go.Figure, grid: CellGrid, texts: Sequence[Sequence[str]], fills: Sequence[Sequence[str]]
) -> None:
    """Write into the cells, black or white by the cell's colour, if they are few enough to hold text."""
    if not has_text(grid):
        return
    cells = [
        (row, column) for row, names in enumerate(grid.units) for column, name in enumerate(names) if name
    ]
    cells = [(row, column) for row, column in cells if texts[row][column]]
    figure.add_trace(
        go.Scatter(
            x=[column for _, column in cells],
            y=[row for row, _ in cells],
            mode="text",
            text=[texts[row][column] for row, column in cells],
            textfont={"size": TICK_SIZE, "color": [readable_on(fills[row][column]) for row, column in cells]},
            selected={"textfont": {"color": "#000000"}},
            hoverinfo="skip",
            showlegend=False,
        )
    )


def add_overlay(
    figure: go.Figure,
    grid: CellGrid,
    hovers: Mapping[tuple[int, int], str],
    palette: Palette,
    selected: Collection[str] = (),
    extra: Mapping[tuple[int, int], Sequence[str]] | None = None,
) -> None:
    """Axes, clickable cell centres and outlines of the selected units, on a figure that holds the cells.

    ``extra`` adds to the ``customdata`` of a cell, behind the unit's name (the format of its column, say).
    """
    cells = [
        (row, column) for row, names in enumerate(grid.units) for column, name in enumerate(names) if name
    ]
    scatter: Any = go.Scattergl if len(cells) >= MANY_POINTS else go.Scatter
    size = 18 if len(cells) < 400 else 10
    invisible = {"marker": {"opacity": 0}}
    figure.add_trace(
        scatter(
            x=[column for _, column in cells],
            y=[row for row, _ in cells],
            mode="markers",
            marker={"size": size, "symbol": "square", "color": palette.accent, "opacity": 0},
            selected=invisible,
            unselected=invisible,
            customdata=[
                [grid.units[row][column], *(extra or {}).get((row, column), ())] for row, column in cells
            ],
            text=[hovers.get(cell, grid.units[cell[0]][cell[1]]) for cell in cells],
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
    )
    wanted = set(selected)
    outlined = [cell for cell in cells if grid.units[cell[0]][cell[1]] in wanted]
    figure.update_layout(shapes=[shape for cell in outlined for shape in _outline(*cell, palette)])
    figure.update_layout(clickmode="event+select", hovermode="closest", hoverdistance=-1, dragmode="pan")
    columns, rows = thinned(len(grid.columns), 12), thinned(len(grid.rows), 80)
    figure.update_layout(
        xaxis=axis(
            palette, grid.column_title, lines=False, fixedrange=True, range=[-0.5, len(grid.columns) - 0.5],
            tickvals=list(columns), ticktext=[grid.columns[index] for index in columns],
        )
    )  # fmt: skip
    figure.update_layout(
        yaxis=axis(
            palette, "", lines=False, fixedrange=True, range=[len(grid.rows) - 0.5, -0.5],
            tickvals=list(rows), ticktext=[grid.rows[index] for index in rows],
        )
    )  # fmt: skip


def add_scale(
    figure: go.Figure,
    palette: Palette,
    low: float,
    high: float,
    ticks: Sequence[float],
    texts: Sequence[str],
    room: int = 40,
) -> None:
    """The colours from ``low`` to ``high`` in a strip ``room`` pixels above the cells (Plotly's own bar moves the
    title off the figure), with ``texts`` at ``ticks``.
    """
    inner = figure.layout.height - figure.layout.margin.t - 50
    step = (high - low) / 64
    figure.add_trace(
        go.Heatmap(
            z=[[low + step * (place + 0.5) for place in range(64)]],
            x0=low + step / 2,
            dx=step,
            y=[0],
            xaxis="x2",
            yaxis="y2",
            colorscale=[[place / 16, at(palette.sequential, place / 16)] for place in range(17)],
            showscale=False,
            hoverinfo="skip",
        )
    )
    places = {"tickvals": list(ticks), "ticktext": list(texts), "tickangle": 0}
    figure.update_layout(
        yaxis_domain=[0, 1 - room / inner],
        xaxis2=axis(palette, "", lines=False, fixedrange=True, range=[low, high], anchor="y2", **places),
        yaxis2={"domain": [1 - 10 / inner, 1], "anchor": "x2", "visible": False, "fixedrange": True},
    )


def _outline(row: int, column: int, palette: Palette) -> list[dict[str, Any]]:
    """A frame around a cell that shows on any colour: the text's colour outside, the background's inside."""
    place = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
    lines = ((palette.text, 4.0), (palette.background, 1.5))
    return [{"type": "rect", **place, "line": {"color": colour, "width": width}} for colour, width in lines]


def clicked(selection: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The ``customdata`` of the first point of a Plotly selection as Streamlit returns it, empty if there is
    none.

    ``selection`` is the value of the chart's key (``{"selection": {"points": [...]}}``). Data that does not
    come from one of our overlays is ignored, not trusted.
    """
    points = ((selection or {}).get("selection") or {}).get("points") or []
    data = points[0].get("customdata") if points else None
    values = list(data.values()) if isinstance(data, Mapping) else data
    if isinstance(values, str):
        return (values,)
    return tuple(str(value) for value in values) if isinstance(values, Sequence) else ()


def all_clicked(selection: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The unit names of every selected point (a box drawn over cells), each once, in order."""
    points = ((selection or {}).get("selection") or {}).get("points") or []
    names = [clicked({"selection": {"points": [point]}}) for point in points]
    return tuple(dict.fromkeys(name[0] for name in names if name))
