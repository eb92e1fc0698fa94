"""How one layer's score moves with a single choice: its group size, its rounding, the text it was scored on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import (
    SCORES,
    axis,
    empty_figure,
    error_bars,
    frame,
    hover,
    interval,
    interval_range,
    log_axis,
    positive_range,
    quantity,
)
from quant_core.plots.palette import Palette
from quant_core.plots.saving import intervals_exactly
from quant_core.plots.sensitivity import score_column, stderr_column
from quant_core.schema import ScoreName, ScoreTable


class Point(NamedTuple):
    """One alternative."""

    label: str
    value: float
    stderr: float
    bits: float
    """Stored bits a weight."""
    origin: str
    """What it was measured on and how."""


class WhatIf(NamedTuple):
    """Alternatives in their own order, and the place of the one in use (-1 if it is not among them)."""

    title: str
    score: ScoreName
    points: tuple[Point, ...]
    current: int


def origin_of(table: ScoreTable, form: str) -> str:
    """What a table's score in a format was measured on and how, in a few words."""
    how = "from the score state" if form in table.rescored else "by the pass itself"
    return f"{how}, {table.tokens:,} tokens of {table.text_label}, seed {table.seed}"


def alternatives(
    title: str,
    tables: Sequence[ScoreTable],
    unit: str,
    parameters: int,
    labels: Mapping[str, str],
    current: str,
    score: ScoreName = "fisher",
) -> WhatIf:
    """One layer in several formats; of tables that hold the same format the first counts.

    Args:
        title: What is varied.
        tables: Where scores may come from; formats that none holds are left out.
        unit: The layer.
        parameters: Its number of weights.
        labels: Full format name to what tells it apart, in the order to be drawn.
        current: The format in use.
        score: Which score.
    """
    points: dict[str, Point] = {}
    for name, label in labels.items():
        table = next((each for each in tables if unit in score_column(each, name, score)), None)
        if table is not None:
            points[name] = _point(table, unit, parameters, name, label, score)
    place = list(points).index(current) if current in points else -1
    return WhatIf(title, score, tuple(points.values()), place)


def texts(
    tables: Sequence[ScoreTable], unit: str, parameters: int, form: str, shown: ScoreTable, score: ScoreName
) -> WhatIf:
    """One layer in one format as each stored sweep scored it, by text and rising tokens.

    The sweep that is ``shown`` is the alternative in use.
    """
    holding = [table for table in tables if unit in score_column(table, form, score)]
    holding.sort(key=lambda table: (table.text_label, table.tokens, table.seed))
    points = [
        _point(
            table,
            unit,
            parameters,
            form,
            f"{table.text_label}<br>{table.tokens:,} tokens, seed {table.seed}",
            score,
        )
        for table in holding
    ]
    same = [place for place, table in enumerate(holding) if _text(table) == _text(shown)]
    return WhatIf("calibration text", score, tuple(points), same[0] if same else -1)


def _text(table: ScoreTable) -> tuple[str, int, int]:
    return table.text_hash, table.tokens, table.seed


def _point(table: ScoreTable, unit: str, parameters: int, form: str, label: str, score: ScoreName) -> Point:
    bits = table.storage_bits[table.units.index(unit)][table.formats.index(form)] / parameters
    value = score_column(table, form, score)[unit]
    error = stderr_column(table, form, score).get(unit, 0.0)
    return Point(label, value, error, bits, origin_of(table, form))


def draw_what_if(data: WhatIf, palette: Palette) -> go.Figure:
    """A dot an alternative on a log axis with its 95 % interval, the one in use filled; bits are told if they vary."""
    text = SCORES[data.score]
    title = f"{text.title} by {data.title}"
    if not data.points:
        return empty_figure(palette, title, "No score is stored for this.", 150)
    ends = [interval(point.value, point.stderr) for point in data.points]
    values = [point.value for point in data.points]
    low, _ = positive_range(values)
    two_lines = any("<br>" in point.label for point in data.points)
    figure = frame(palette, title, 104 + (42 if two_lines else 30) * len(data.points))
    fills = [palette.background] * len(values)
    if data.current >= 0:
        fills[data.current] = palette.categorical[0]
    figure.add_trace(
        go.Scatter(
            x=[max(value, low) for value in values],
            y=list(range(len(values))),
            mode="markers",
            marker={"size": 10, "color": fills, "line": {"width": 2, "color": palette.categorical[0]}},
            error_x=error_bars(values, [e[0] for e in ends], [e[1] for e in ends], low / 2, palette.muted),
            text=[
                hover(
                    point.label.replace("<br>", ", "),
                    f"{text.title}: {quantity(point.value, text.unit)}",
                    f"95 %: {quantity(low_end, '')} to {quantity(high_end, text.unit)}"
                    if point.stderr
                    else "",
                    f"{point.bits:,.2f} bits a weight",
                    point.origin,
                )
                for point, (low_end, high_end) in zip(data.points, ends, strict=True)
            ],
            hovertemplate="%{text}<extra></extra>",
            meta=intervals_exactly(
                ("Choice", [point.label.replace("<br>", ", ") for point in data.points]),
                (text.axis, values),
                ends,
            ),
        )
    )
    vary = len({round(point.bits, 2) for point in data.points}) > 1
    labels = [f"{point.label} · {point.bits:,.2f} bits" if vary else point.label for point in data.points]
    span = interval_range(values, [end[0] for end in ends], [end[1] for end in ends])
    figure.update_xaxes(**log_axis(palette, text.axis, *span, most=4, fixedrange=True))
    figure.update_yaxes(
        **axis(
            palette, "", fixedrange=True, range=[len(values) - 0.5, -0.5], tickvals=list(range(len(labels))),
            ticktext=labels,
        )
    )  # fmt: skip
    return figure
