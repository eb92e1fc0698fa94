"""Heatmaps of a score: block by role in one format, and layer by format."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import (
    INTERVAL,
    SCORES,
    compact,
    empty_figure,
    frame,
    hover,
    log_ticks,
    positive_range,
    quantity,
)
from quant_core.plots.grid import (
    CellGrid,
    add_cell_texts,
    add_overlay,
    add_scale,
    block_grid,
    exact_cells,
    grid_height,
    short_name,
)
from quant_core.plots.palette import Palette, at
from quant_core.schema import Matrix, ModelInfo, ScoreName, ScoreTable

Cells = tuple[tuple[float | None, ...], ...]


class ScoreMap(NamedTuple):
    """A score in cells; ``low`` and ``high`` are the positive ends of the colour scale."""

    title: str
    grid: CellGrid
    formats: tuple[tuple[str, ...], ...]
    """The format of each cell."""
    score: ScoreName
    values: Cells
    stderr: Cells
    low: float
    high: float

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return all(value is None for row in self.values for value in row)


def stderr_of(table: ScoreTable, score: ScoreName) -> Matrix:
    """The standard errors of a score (units x formats); empty where there are none."""
    return {"fisher": table.fisher_stderr, "measured": table.measured_stderr}.get(score, ())


def score_column(table: ScoreTable, format_name: str, score: ScoreName) -> dict[str, float]:
    """A score of every unit in one format; empty if the table holds no such score or format."""
    return _column(table, format_name, table.scores(score))


def stderr_column(table: ScoreTable, format_name: str, score: ScoreName) -> dict[str, float]:
    """The standard errors of ``score_column``; empty where the score has none."""
    return _column(table, format_name, stderr_of(table, score))


def _column(table: ScoreTable, format_name: str, matrix: Matrix) -> dict[str, float]:
    if not matrix or format_name not in table.formats:
        return {}
    index = table.formats.index(format_name)
    return {unit: row[index] for unit, row in zip(table.units, matrix, strict=True)}


def score_map(
    model: ModelInfo,
    table: ScoreTable,
    format_name: str,
    score: ScoreName = "fisher",
    common_scale: bool = False,
) -> ScoreMap:
    """Block by role in one format; ``common_scale`` spans the colours over all formats of the table."""
    known = set(table.units)
    grid = block_grid([unit for unit in model.units if unit.name in known])
    values = score_column(table, format_name, score)
    scale = [v for row in table.scores(score) for v in row] if common_scale else list(values.values())
    low, high = positive_range(scale)
    return ScoreMap(
        title=f"{SCORES[score].title} in {format_name}",
        grid=grid,
        formats=tuple((format_name,) * len(grid.columns) for _ in grid.rows),
        score=score,
        values=grid.spread(values),
        stderr=grid.spread(stderr_column(table, format_name, score)),
        low=low,
        high=high,
    )


def short_formats(names: tuple[str, ...]) -> tuple[str, ...]:
    """Each name cut to what tells it apart from the others: its family, family and method, or all of it."""
    levels = [
        tuple(name.partition("@")[0].partition("/")[0] for name in names),
        tuple(re.sub("/[^@]*", "", name) for name in names),
    ]
    counts = [Counter(level) for level in levels]
    return tuple(
        next(
            (level[place] for level, count in zip(levels, counts, strict=True) if count[level[place]] == 1),
            name,
        )
        for place, name in enumerate(names)
    )


def format_map(model: ModelInfo, table: ScoreTable, score: ScoreName = "fisher") -> ScoreMap:
    """Layer by format: a row a unit in the model's order, a column a format, by rising stored bits."""
    known = set(table.units)
    sizes = [sum(row[column] for row in table.storage_bits) for column in range(len(table.formats))]
    formats = tuple(name for _, name in sorted(zip(sizes, table.formats, strict=True)))
    units = [unit for unit in model.units if unit.name in known]
    grid = CellGrid(
        rows=tuple(short_name(unit) for unit in units),
        columns=short_formats(formats),
        units=tuple((unit.name,) * len(formats) for unit in units),
        row_title="Layer",
        column_title="Format",
    )
    columns = [score_column(table, name, score) for name in formats]
    errors = [stderr_column(table, name, score) for name in formats]
    low, high = positive_range(value for column in columns for value in column.values())
    return ScoreMap(
        title=f"{SCORES[score].title} by layer and format",
        grid=grid,
        formats=tuple(formats for _ in units),
        score=score,
        values=tuple(tuple(column.get(unit.name) for column in columns) for unit in units),
        stderr=tuple(tuple(column.get(unit.name) for column in errors) for unit in units),
        low=low,
        high=high,
    )


def draw_score_map(data: ScoreMap, palette: Palette, selected: Collection[str] = ()) -> go.Figure:
    """The cells coloured by the score's logarithm; clicks and boxes return ``[unit, format]``.

    Values at or below zero (measured noise) take the lowest colour and keep their number in the hover text.
    """
    if data.empty:
        return empty_figure(palette, data.title, "This score has not been computed for this format.")
    height = grid_height(len(data.grid.rows)) + 40
    figure = frame(palette, data.title, height, f"{SCORES[data.score].detail}, log colours")
    named = data.grid._replace(columns=data.formats[0]) if data.grid.column_title == "Format" else data.grid
    low, high = math.log10(data.low), max(math.log10(data.high), math.log10(data.low) + 1e-6)
    logs = [
        [None if value is None else math.log10(max(value, data.low)) for value in row] for row in data.values
    ]
    figure.add_trace(
        go.Heatmap(
            z=logs,
            zmin=low,
            zmax=high,
            colorscale=[[step / 16, at(palette.sequential, step / 16)] for step in range(17)],
            showscale=False,
            hoverongaps=False,
            hoverinfo="skip",
            xgap=1,
            ygap=1,
            meta=exact_cells(named, SCORES[data.score].axis, data.values),
        )
    )
    texts = [["" if value is None else compact(value) for value in row] for row in data.values]
    fills = [
        ["" if log is None else at(palette.sequential, (log - low) / (high - low)) for log in row]
        for row in logs
    ]
    add_cell_texts(figure, data.grid, texts, fills)
    add_overlay(figure, data.grid, _hovers(data), palette, selected, _cell_formats(data))
    _add_scale(figure, data, palette)
    return figure


def _cell_formats(data: ScoreMap) -> dict[tuple[int, int], tuple[str]]:
    return {
        (row, column): (name,) for row, names in enumerate(data.formats) for column, name in enumerate(names)
    }


def _hovers(data: ScoreMap) -> dict[tuple[int, int], str]:
    text = SCORES[data.score]
    hovers = {}
    for row, values in enumerate(data.values):
        for column, value in enumerate(values):
            if value is None:
                continue
            error = data.stderr[row][column] if data.stderr else None
            hovers[row, column] = hover(
                data.grid.units[row][column],
                data.formats[row][column],
                f"{text.title}: {quantity(value, text.unit)}",
                f"± {quantity(INTERVAL * error, text.unit, 2)} (95 %)" if error else "",
            )
    return hovers


def _add_scale(figure: go.Figure, data: ScoreMap, palette: Palette) -> None:
    low, high = math.log10(data.low), max(math.log10(data.high), math.log10(data.low) + 1e-6)
    values, texts = log_ticks(data.low, data.high, 5)
    add_scale(figure, palette, low, high, [math.log10(value) for value in values], texts)
