"""A figure as files: its numbers as a table, and a page that shows it without a network.

The table holds what is drawn, a row a point, a bar or a cell, in columns named as the axes are. Where a trace draws
something else than its numbers (logarithms as colours, places in a list), it carries them in its ``meta``: see
:func:`exactly` and :func:`cells_exactly`. Left out is what repeats or only decorates: text in cells, invisible points
that take clicks, keys of a legend, the strip that explains colours.
"""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from quant_core.plots.palette import Palette

_EXACT = "numbers"
Row = dict[str, Any]


class FigureTable(NamedTuple):
    """The numbers of a figure; a row lacks the columns that its series does not have (None)."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def exactly(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """A trace's ``meta`` with the numbers it stands for: columns of one length, named with their unit."""
    return {_EXACT: {"columns": {name: list(values) for name, values in columns.items()}}}


def intervals_exactly(
    labels: tuple[str, Sequence[str]],
    values: tuple[str, Sequence[float]],
    ends: Sequence[tuple[float, float]] = (),
) -> dict[str, Any]:
    """A trace's ``meta`` with what each value is of, the value, and the ends of its 95 % interval where it has one."""
    columns: dict[str, Sequence[Any]] = dict([labels, values])
    if any(high > low for low, high in ends):
        columns |= {"95 % from": [low for low, _ in ends], "95 % to": [high for _, high in ends]}
    return exactly(columns)


def cells_exactly(
    rows: tuple[str, Sequence[str]],
    columns: tuple[str, Sequence[str]],
    values: tuple[str, Sequence[Sequence[Any]]],
) -> dict[str, Any]:
    """A heatmap's ``meta`` with the values of its cells: names and labels of rows and columns, name and matrix."""
    named = {"rows": rows, "columns": columns, "values": values}
    return {_EXACT: {"cells": {part: [name, list(each)] for part, (name, each) in named.items()}}}


def figure_table(figure: go.Figure) -> FigureTable:
    """The numbers that a figure shows; heatmaps a row a cell, cells without a value left out.

    Columns are named after the axes' titles, which tell the units; ends of error bars follow the value they belong to.
    A column ``Series`` tells traces apart where they have names.
    """
    traces = [trace for trace in figure.data if _shows_numbers(figure, trace)]
    named = any(trace.name for trace in traces)
    rows: list[Row] = []
    for trace in traces:
        first = {"Series": trace.name or ""} if named else {}
        rows += [{**first, **row} for row in _rows(figure, trace)]
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    return FigureTable(columns, tuple(tuple(row.get(name) for name in columns) for row in rows))


def figure_csv(figure: go.Figure) -> str:
    """``figure_table`` as CSV (RFC 4180) with a header; numbers in full precision, text that a spreadsheet would
    compute as a formula behind an apostrophe.
    """
    table = figure_table(figure)
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(table.columns)
    writer.writerows([_cell(value) for value in row] for row in table.rows)
    return file.getvalue()


def figure_page(figure: go.Figure, palette: Palette, alt: str) -> str:
    """A web page that holds the figure, its sentence ``alt`` and all it needs to be drawn (4.9 MB); asks no network."""
    title = html.escape(_plain(figure.layout.title.text) or "QuantLens")
    drawn = figure.to_html(
        full_html=False,
        include_plotlyjs=True,
        include_mathjax=False,
        default_width="100%",
        config={
            "displaylogo": False,
            "displayModeBar": True,
            "modeBarButtons": [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]],
            "responsive": True,
            "toImageButtonOptions": {"format": "svg", "filename": "quantlens"},
        },
    )
    style = (
        f"margin:1.5rem;background:{palette.background};color:{palette.text};font-family:system-ui,sans-serif"
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title></head>\n'
        f'<body style="{style}">\n{drawn}\n<p>{html.escape(alt)}</p>\n</body>\n</html>\n'
    )


def _shows_numbers(figure: go.Figure, trace: Any) -> bool:
    """Whether a trace is more than text, a legend's key, invisible points, or a strip without an axis of values."""
    if _exact(trace):
        return True
    if trace.type == "heatmap":
        return bool(_axis(figure, trace, "y").visible is not False)
    if trace.x is None or trace.y is None or list(trace.x) == [None]:
        return False
    mode = trace.mode if trace.type.startswith("scatter") else ""
    if mode and trace.hoverinfo == "skip" and "lines" not in mode:
        return False
    return not (mode and "markers" in mode and trace.marker.opacity == 0)


def _exact(trace: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = trace.meta.get(_EXACT, {}) if isinstance(trace.meta, Mapping) else {}
    return found


def _rows(figure: go.Figure, trace: Any) -> list[Row]:
    exact = _exact(trace)
    if "columns" in exact:
        columns = exact["columns"]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if "cells" in exact:
        cells = exact["cells"]
        return _cell_rows(cells["rows"], cells["columns"], cells["values"])
    if trace.type == "heatmap":
        return _heatmap_rows(figure, trace)
    return _point_rows(figure, trace)


def _cell_rows(rows: Sequence[Any], columns: Sequence[Any], values: Sequence[Any]) -> list[Row]:
    return [
        {rows[0]: row, columns[0]: column, values[0]: value}
        for row, line in zip(rows[1], values[1], strict=True)
        for column, value in zip(columns[1], line, strict=True)
        if not _missing(value) and value != ""
    ]


def _heatmap_rows(figure: go.Figure, trace: Any) -> list[Row]:
    matrix = [list(line) for line in trace.z]
    labels = []
    for letter, count, name in (("y", len(matrix), "Row"), ("x", max(map(len, matrix), default=0), "Column")):
        given = getattr(trace, letter)
        start, step = getattr(trace, f"{letter}0") or 0, getattr(trace, f"d{letter}") or 1
        places = [start + step * place for place in range(count)] if given is None else list(given)[:count]
        labels.append([_title(figure, trace, letter, name), _labelled(figure, trace, letter, places)])
    bar = trace.colorbar.title.text
    return _cell_rows(labels[0], labels[1], [_plain(bar) or trace.name or "Value", matrix])


def _point_rows(figure: go.Figure, trace: Any) -> list[Row]:
    columns: dict[str, list[Any]] = {}
    for letter in ("x", "y"):
        values = list(getattr(trace, letter))
        shown = _labelled(figure, trace, letter, values)
        words = any(isinstance(value, str) for value in shown)
        title = _title(figure, trace, letter, "Label" if words else letter)
        columns[title if title not in columns else f"{title} ({letter})"] = shown
        columns |= _ends(getattr(trace, f"error_{letter}"), title, values)
    if trace.type == "bar" and trace.base is not None:
        columns["Begins at"] = list(trace.base) if not isinstance(trace.base, int | float) else []
    filled = {name: values for name, values in columns.items() if values}
    rows = [dict(zip(filled, values, strict=True)) for values in zip(*filled.values(), strict=True)]
    return [row for row in rows if not all(_missing(value) for value in row.values())]


def _ends(error: Any, title: str, values: Sequence[Any]) -> dict[str, list[Any]]:
    """Both ends of a trace's error bars."""
    if error.array is None:
        return {}
    minus = error.array if error.arrayminus is None else error.arrayminus
    return {
        f"{title}, lower end": [value - less for value, less in zip(values, minus, strict=True)],
        f"{title}, upper end": [value + more for value, more in zip(values, error.array, strict=True)],
    }


def _axis(figure: go.Figure, trace: Any, letter: str) -> Any:
    name = getattr(trace, f"{letter}axis") or letter
    return getattr(figure.layout, f"{letter}axis{name[1:]}")


def _title(figure: go.Figure, trace: Any, letter: str, otherwise: str) -> str:
    return _plain(_axis(figure, trace, letter).title.text) or otherwise


def _labelled(figure: go.Figure, trace: Any, letter: str, places: Sequence[Any]) -> list[Any]:
    """Places on an axis by the words written at them, if each has one that is no number; else as they are."""
    along = _axis(figure, trace, letter)
    if along.tickvals is None or along.ticktext is None or along.type == "log":
        return list(places)
    texts = dict(zip(along.tickvals, along.ticktext, strict=False))
    known = all(_missing(place) or place in texts for place in places)
    return [texts.get(place) for place in places] if known else list(places)


def _plain(text: str | None) -> str:
    """A title without its markup."""
    return html.unescape(re.sub(r"<[^>]+>", " ", text or "")).strip()


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        return f"'{value}"
    return "" if _missing(value) else value
