"""A recipe at a glance: block by role, coloured by format from few bits to many, marked by rounding method."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import add_legend, empty_figure, frame, hover, number, quantity
from quant_core.plots.grid import (
    CellGrid,
    add_cell_texts,
    add_overlay,
    block_grid,
    exact_cells,
    grid_height,
)
from quant_core.plots.palette import Palette, readable_on
from quant_core.schema import ModelInfo

Names = tuple[tuple[str, ...], ...]

MARKS = ("triangle-up", "diamond", "star", "cross", "x", "hexagon", "bowtie", "hourglass")
"""Symbols of rounding methods, in the order in which a recipe's formats name them; then they begin anew."""


class RecipeBands(NamedTuple):
    """The format of every decided unit; ``formats`` are those in use, from few bits to many."""

    grid: CellGrid
    assigned: Names
    """Format of each cell, empty where there is no unit."""
    formats: tuple[str, ...]
    bits: tuple[float, ...]
    """Average stored bits a weight of each format in use."""
    pinned: frozenset[str]
    score: Mapping[str, float]
    """Predicted KL of each unit in its format, where known."""
    mixed: Mapping[str, str] = {}
    """What is said of units that stand for several with different formats."""

    @property
    def forms(self) -> dict[str, float]:
        """The formats without their rounding methods, each with its bits: what colours stand for."""
        found: dict[str, float] = {}
        for name, bits in zip(self.formats, self.bits, strict=True):
            found.setdefault(name.partition("@")[0], bits)
        return found

    @property
    def methods(self) -> tuple[str, ...]:
        """The rounding methods of the formats: what marks stand for."""
        return tuple(dict.fromkeys(name.partition("@")[2] for name in self.formats if "@" in name))


def recipe_bands(
    model: ModelInfo,
    assignment: Mapping[str, str],
    stored_bits: Mapping[str, int],
    pins: Collection[str] = (),
    score: Mapping[str, float] | None = None,
    mixed: Mapping[str, str] | None = None,
) -> RecipeBands:
    """Lay out an assignment (unit to format).

    ``stored_bits`` holds each unit's bits in its format; a unit it lacks counts with the checkpoint's.
    """
    units = [unit for unit in model.units if unit.name in assignment]
    totals: dict[str, list[int]] = {}
    for unit in units:
        total = totals.setdefault(assignment[unit.name], [0, 0])
        total[0] += stored_bits.get(unit.name, unit.parameters * unit.bits)
        total[1] += unit.parameters
    averages = {name: bits / parameters for name, (bits, parameters) in totals.items()}
    order = sorted(averages, key=lambda name: (averages[name], name))
    grid = block_grid(units)
    return RecipeBands(
        grid=grid,
        assigned=tuple(tuple(assignment.get(name, "") for name in names) for names in grid.units),
        formats=tuple(order),
        bits=tuple(averages[name] for name in order),
        pinned=frozenset(pins),
        score=dict(score or {}),
        mixed=dict(mixed or {}),
    )


def draw_recipe_bands(
    data: RecipeBands,
    palette: Palette,
    selected: Collection[str] = (),
    titles: Mapping[str, str] | None = None,
    title: str = "Format of every layer",
) -> go.Figure:
    """One colour a format, one mark a rounding method; a rimmed dot marks a pin.

    Clicks and boxes return units as ``customdata``. ``titles`` says what a format or a method is called in the legend.
    """
    if not data.formats:
        return empty_figure(palette, title, "No layer has a format yet: choose a budget first.")
    forms, called = data.forms, titles or {}
    colours = palette.ramp(len(forms))
    index = {name: place for place, name in enumerate(forms)}
    places = [[index[name.partition("@")[0]] if name else None for name in row] for row in data.assigned]
    figure = frame(palette, title, grid_height(len(data.grid.rows)) + 20)
    add_legend(figure)
    last = max(len(colours) - 1, 1)
    scale = [[place / last, colour] for place, colour in enumerate(colours)]
    figure.add_trace(
        go.Heatmap(
            z=places,
            zmin=0,
            zmax=last,
            colorscale=scale if len(scale) > 1 else [[0, colours[0]], [1, colours[0]]],
            showscale=False,
            hoverongaps=False,
            hoverinfo="skip",
            xgap=1,
            ygap=1,
            meta=exact_cells(data.grid, "Format", data.assigned),
        )
    )
    for (name, bits), colour in zip(forms.items(), colours, strict=True):
        _add_key(figure, f"{called.get(name, name)} ({bits:,.2f} bits)", "square", 12, colour)
    fills = tuple(tuple("" if place is None else colours[place] for place in row) for row in places)
    _add_methods(figure, data, palette, fills, called)
    _add_pins(figure, data, palette)
    texts = tuple(
        tuple(
            short_format(name) + ("…" if unit in data.mixed else "") for name, unit in zip(*row, strict=True)
        )
        for row in zip(data.assigned, data.grid.units, strict=True)
    )
    add_cell_texts(figure, data.grid, texts, fills)
    add_overlay(figure, data.grid, _hovers(data), palette, selected)
    return figure


def _add_key(figure: go.Figure, name: str, symbol: str, size: int, colour: str) -> None:
    """An entry of the legend."""
    marker = {"size": size, "symbol": symbol, "color": colour}
    figure.add_trace(go.Scatter(x=[None], y=[None], name=name, mode="markers", marker=marker))


def _add_methods(
    figure: go.Figure, data: RecipeBands, palette: Palette, fills: Names, called: Mapping[str, str]
) -> None:
    """A small mark in the lower left corner of each cell that a method rounds."""
    for number_, method in enumerate(data.methods):
        symbol = MARKS[number_ % len(MARKS)]
        cells = [
            (row, column)
            for row, names in enumerate(data.assigned)
            for column, name in enumerate(names)
            if name.partition("@")[2] == method
        ]
        _add_key(figure, called.get(method, method), symbol, 8, palette.text)
        figure.add_trace(
            go.Scatter(
                x=[column - 0.36 for _, column in cells],
                y=[row + 0.28 for row, _ in cells],
                mode="markers",
                showlegend=False,
                marker={
                    "size": 7,
                    "symbol": symbol,
                    "color": [readable_on(fills[row][column]) for row, column in cells],
                },
                hoverinfo="skip",
            )
        )


def short_format(name: str) -> str:
    """What fits into a cell, four letters at most: ``4`` for an integer format, ``q4_k``, ``fp8``, ``km3``."""
    family = name.partition("@")[0].partition("/")[0].removeprefix("int")
    if len(family) > 4:
        family = family.partition("_")[0]
    if len(family) > 4:
        digits = re.sub(r"\D", "", family)[-2:]
        family = family[:2] + digits if digits else family[:4]
    return family


def _add_pins(figure: go.Figure, data: RecipeBands, palette: Palette) -> None:
    places = [place for name, place in data.grid.places().items() if name in data.pinned]
    if not places:
        return
    figure.add_trace(
        go.Scatter(
            x=[column + 0.36 for _, column in places],
            y=[row - 0.3 for row, _ in places],
            mode="markers",
            name="pinned",
            marker={
                "size": 8, "symbol": "circle", "color": palette.accent,
                "line": {"width": 1.5, "color": readable_on(palette.accent)},
            },
            hoverinfo="skip",
        )
    )  # fmt: skip


def _hovers(data: RecipeBands) -> dict[tuple[int, int], str]:
    averages = dict(zip(data.formats, data.bits, strict=True))
    hovers = {}
    for name, (row, column) in data.grid.places().items():
        chosen = data.assigned[row][column]
        hovers[row, column] = hover(
            name,
            data.mixed.get(name) or f"{chosen}: {number(averages[chosen])} bits a weight",
            "pinned" if name in data.pinned else "",
            f"predicted KL {quantity(data.score[name], 'nats/token')}" if name in data.score else "",
        )
    return hovers
