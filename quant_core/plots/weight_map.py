"""A rectangle of a layer's weights, or of their errors, as a heatmap in which boxes and clicks choose a smaller one."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from quant_core.plots._common import axis, empty_figure, frame, number
from quant_core.plots.palette import Palette
from quant_core.schema import Matrix, Window

CLEAR = 0.99
"""Share of the cells that the colours tell apart; the rest takes the colours of the ends."""
_SPARSE = 24
"""Points in each direction that a box is drawn over: Plotly selects no box where there is nothing to select."""


class Rectangle(NamedTuple):
    """Weights from ``top`` to before ``bottom`` (outputs) and from ``left`` to before ``right`` (inputs)."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def single(self) -> bool:
        """Whether it is one weight."""
        return self.bottom - self.top == self.right - self.left == 1

    def within(self, rows: int, columns: int) -> bool:
        """Whether it lies in a layer of that shape, and holds something."""
        return 0 <= self.top < self.bottom <= rows and 0 <= self.left < self.right <= columns

    def wider(self, rows: int, columns: int) -> Rectangle:
        """Twice as long and wide about the same centre, as far as the layer goes."""
        top, bottom = _wider(self.top, self.bottom, rows)
        left, right = _wider(self.left, self.right, columns)
        return Rectangle(top, bottom, left, right)


def _wider(first: int, end: int, length: int) -> tuple[int, int]:
    size = min(2 * (end - first), length)
    begin = min(max((first + end - size) // 2, 0), length - size)
    return begin, begin + size


class WeightMap(NamedTuple):
    """Cells of a rectangle; ``limit`` is the end of the colour scale to both sides of 0."""

    title: str
    unit: str
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    """First output (input) of each cell, and one past the last cell's last."""
    values: Matrix
    limit: float


def weight_map(window: Window, errors: bool = False) -> WeightMap:
    """The cells of a rectangle's weights, or of their errors."""
    values = window.errors if errors else window.weights
    sizes = sorted(abs(value) for row in values for value in row)
    place = math.ceil(CLEAR * len(sizes)) - 1
    limit = (sizes[place] or sizes[-1]) if sizes else 0.0
    title = "Error of each weight" if errors else "Weights"
    return WeightMap(
        title, "error" if errors else "weight", window.row_edges, window.column_edges, values, limit
    )


def draw_weight_map(data: WeightMap, palette: Palette, boxes: bool = True) -> go.Figure:
    """The map; invisible points over it take boxes, or clicks where ``boxes`` is false."""
    if not data.values:
        return empty_figure(palette, data.title, "There is nothing to show here.")
    binned = (
        len(data.rows) - 1 < data.rows[-1] - data.rows[0]
        or len(data.columns) - 1 < data.columns[-1] - data.columns[0]
    )
    note = f"of each cell the largest {data.unit}" if binned else "a cell is one weight"
    figure = frame(palette, data.title, 470, note)
    limit = data.limit or 1.0
    steps = len(palette.diverging) - 1
    figure.add_trace(
        go.Heatmap(
            z=np.array(data.values, np.float32), x=_borders(data.columns), y=_borders(data.rows),
            zmin=-limit, zmax=limit, hoverinfo="skip",
            colorscale=[[place / steps, colour] for place, colour in enumerate(palette.diverging)],
            colorbar={
                "orientation": "h", "thickness": 10, "len": 0.88, "y": -0.16, "yanchor": "top", "x": 0.5,
                "tickvals": [-limit, -limit / 2, 0, limit / 2, limit], "tickfont": {"size": 12, "color": palette.muted},
                "ticktext": [
                    f"≤ {number(-limit, 2)}", number(-limit / 2, 2), "0", number(limit / 2, 2), f"≥ {number(limit, 2)}",
                ],
                "outlinewidth": 0,
                "title": {
                    "text": "Error" if data.unit == "error" else "Weight value", "side": "bottom",
                    "font": {"size": 12, "color": palette.muted},
                },
            },
        )
    )  # fmt: skip
    _add_points(figure, data, boxes)
    figure.update_layout(
        dragmode="select" if boxes else "pan",
        selectdirection="d", clickmode="event+select", hovermode="closest", hoverdistance=-1,
        xaxis=axis(palette, "Input", lines=False, fixedrange=True, range=list(_ends(data.columns)), tickformat=",d"),
        yaxis=axis(
            palette, "Output", lines=False, fixedrange=True, range=list(_ends(data.rows))[::-1], tickformat=",d"
        ),
        selections=[],
        newselection={"line": {"color": palette.text, "width": 2, "dash": "solid"}},
    )  # fmt: skip
    return figure


def _add_points(figure: go.Figure, data: WeightMap, boxes: bool) -> None:
    """A point a cell, or fewer where they are only there for boxes."""
    rows, columns = (list(range(len(edges) - 1)) for edges in (data.rows, data.columns))
    if boxes:
        rows, columns = (places[:: max(1, len(places) // _SPARSE)] for places in (rows, columns))
    y, x = np.array(_centres(data.rows))[rows], np.array(_centres(data.columns))[columns]
    z = np.array(data.values, np.float32)[np.ix_(rows, columns)]
    scatter: Any = go.Scattergl if z.size >= 1000 else go.Scatter
    invisible = {"marker": {"opacity": 0}}
    hover = f"output %{{y:,.0f}}, input %{{x:,.0f}}<br>{data.unit} %{{customdata:.3g}}<extra></extra>"
    figure.add_trace(
        scatter(
            x=np.tile(x, len(y)), y=np.repeat(y, len(x)), mode="markers", customdata=z.ravel(),
            marker={"size": 6, "symbol": "square", "opacity": 0}, selected=invisible, unselected=invisible,
            showlegend=False, **({"hoverinfo": "none"} if boxes else {"hovertemplate": hover}),
        )
    )  # fmt: skip


def _borders(edges: Sequence[int]) -> list[float]:
    return [edge - 0.5 for edge in edges]


def _ends(edges: Sequence[int]) -> tuple[float, float]:
    return edges[0] - 0.5, edges[-1] - 0.5


def _centres(edges: Sequence[int]) -> list[float]:
    return [(first + end - 1) / 2 for first, end in pairwise(edges)]


def boxed(selection: Mapping[str, Any] | None, rows: int, columns: int) -> Rectangle | None:
    """The weights that a box drawn over the map touches; None if there is no box, or none within the layer.

    ``selection`` is the value of the chart's key; it comes from the browser and is not trusted.
    """
    boxes = ((selection or {}).get("selection") or {}).get("box") or []
    try:
        across, down = (sorted(float(end) for end in boxes[0][name]) for name in ("x", "y"))
        left, right = (math.floor(end + 0.5) for end in (across[0], across[-1]))
        top, bottom = (math.floor(end + 0.5) for end in (down[0], down[-1]))
    except (IndexError, KeyError, TypeError, ValueError, OverflowError):
        return None
    found = Rectangle(max(top, 0), min(bottom, rows - 1) + 1, max(left, 0), min(right, columns - 1) + 1)
    return found if found.within(rows, columns) else None


def clicked_cell(selection: Mapping[str, Any] | None, window: Window) -> Rectangle | None:
    """The weights of the cell that was clicked; None if there was no click, or it was not on this map."""
    points = ((selection or {}).get("selection") or {}).get("points") or []
    try:
        column, row = float(points[0]["x"]), float(points[0]["y"])
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    down, across = (
        bisect_right(window.row_edges, row + 0.5) - 1,
        bisect_right(window.column_edges, column + 0.5) - 1,
    )
    if not (0 <= down < len(window.row_edges) - 1 and 0 <= across < len(window.column_edges) - 1):
        return None
    return Rectangle(*window.row_edges[down : down + 2], *window.column_edges[across : across + 2])
