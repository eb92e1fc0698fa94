"""One unit in every format: what each costs in bits and in score."""

from __future__ import annotations

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
from quant_core.plots.sensitivity import short_formats, stderr_of
from quant_core.schema import ModelInfo, ScoreName, ScoreTable

MANY = 10
"""From how many formats on a label takes one line."""


class FormatProfile(NamedTuple):
    """One unit in every format: score against stored bits a weight, in order of bits."""

    unit: str
    score: ScoreName
    formats: tuple[str, ...]
    bits: tuple[float, ...]
    values: tuple[float, ...]
    stderr: tuple[float, ...]


def format_profile(
    model: ModelInfo, table: ScoreTable, unit: str, score: ScoreName = "fisher"
) -> FormatProfile:
    """The scores of one unit in all formats of the table; empty if the unit or the score is not in it."""
    parameters = {item.name: item.parameters for item in model.units}
    matrix, errors = table.scores(score), stderr_of(table, score)
    if unit not in table.units or unit not in parameters or not matrix:
        return FormatProfile(unit, score, (), (), (), ())
    row = table.units.index(unit)
    bits = [stored / parameters[unit] for stored in table.storage_bits[row]]
    order = sorted(range(len(table.formats)), key=lambda index: (bits[index], table.formats[index]))
    return FormatProfile(
        unit=unit,
        score=score,
        formats=tuple(table.formats[index] for index in order),
        bits=tuple(bits[index] for index in order),
        values=tuple(matrix[row][index] for index in order),
        stderr=tuple(errors[row][index] for index in order) if errors else (0.0,) * len(order),
    )


def draw_format_profile(data: FormatProfile, palette: Palette) -> go.Figure:
    """Horizontal bars of the score, one a format, on a log axis with 95 % intervals."""
    title = f"{SCORES[data.score].title} by format"
    if not data.formats:
        return empty_figure(palette, title, "This layer has no score yet.")
    text = SCORES[data.score]
    low, _ = positive_range(data.values)
    ends = [interval(value, error) for value, error in zip(data.values, data.stderr, strict=True)]
    many = len(data.formats) > MANY
    figure = frame(palette, title, 120 + (24 if many else 38) * len(data.formats))
    figure.add_trace(
        go.Scatter(
            x=[max(value, low) for value in data.values],
            y=list(range(len(data.formats))),
            mode="markers",
            marker={"size": 10, "color": palette.categorical[0]},
            error_x=error_bars(
                data.values, [e[0] for e in ends], [e[1] for e in ends], low / 2, palette.muted
            ),
            text=[
                hover(name, f"{text.title}: {quantity(value, text.unit)}", f"{bits:,.2f} bits a weight")
                for name, value, bits in zip(data.formats, data.values, data.bits, strict=True)
            ],
            hovertemplate="%{text}<extra></extra>",
            meta=intervals_exactly(("Format", data.formats), (text.axis, data.values), ends),
        )
    )
    span = interval_range(data.values, [end[0] for end in ends], [end[1] for end in ends])
    figure.update_xaxes(**log_axis(palette, text.unit or "share", *span, most=4, fixedrange=True))
    labels = [
        f"{name} · {bits:,.2f}" if many else f"{name}<br>{bits:,.2f} bits"
        for name, bits in zip(short_formats(data.formats), data.bits, strict=True)
    ]
    figure.update_yaxes(
        **axis(
            palette, "", fixedrange=True, range=[len(data.formats) - 0.5, -0.5],
            tickvals=list(range(len(labels))), ticktext=labels,
        )
    )  # fmt: skip
    return figure
