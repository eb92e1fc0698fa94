"""Which layers are most sensitive, and which of them cannot be told apart."""

from __future__ import annotations

from typing import NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import (
    SCORES,
    add_legend,
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
from quant_core.plots.grid import short_name
from quant_core.plots.palette import Palette
from quant_core.plots.saving import intervals_exactly
from quant_core.plots.sensitivity import score_column, stderr_column
from quant_core.plots.ties import tied_neighbours, tied_runs
from quant_core.schema import ModelInfo, ScoreName, ScoreTable


class Ranking(NamedTuple):
    """The highest scores first, with 95 % intervals.

    ``tied[i]`` is true if unit i is tied with the one ranked directly above or below: their order may be chance.
    ``runs`` are stretches (first, last) of places that cannot be told from their first (``ties.tied_runs``).
    ``total`` is how many units there are in all.
    """

    format: str
    score: ScoreName
    units: tuple[str, ...]
    labels: tuple[str, ...]
    values: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    tied: tuple[bool, ...]
    total: int
    runs: tuple[tuple[int, int], ...] = ()


def ranking(
    model: ModelInfo, table: ScoreTable, format_name: str, score: ScoreName = "fisher", top: int = 20
) -> Ranking:
    """The ``top`` units by score in one format; equal scores keep the model's order."""
    values = score_column(table, format_name, score)
    errors = stderr_column(table, format_name, score)
    units = [unit for unit in model.units if unit.name in values]
    units.sort(key=lambda unit: -values[unit.name])
    ends = [interval(values[unit.name], errors.get(unit.name, 0.0)) for unit in units]
    ordered, spreads = ([column.get(unit.name, 0.0) for unit in units] for column in (values, errors))
    overlaps = tied_neighbours(ordered, spreads) if errors else ()
    shown = units[:top]
    return Ranking(
        format=format_name,
        score=score,
        units=tuple(unit.name for unit in shown),
        labels=tuple(short_name(unit) for unit in shown),
        values=tuple(values[unit.name] for unit in shown),
        lows=tuple(end[0] for end in ends[:top]),
        highs=tuple(end[1] for end in ends[:top]),
        tied=tuple(any(overlaps[max(index - 1, 0) : index + 1]) for index in range(len(shown))),
        total=len(units),
        runs=tied_runs(ordered[:top], spreads[:top]) if errors else (),
    )


def draw_ranking(data: Ranking, palette: Palette, selected: str = "") -> go.Figure:
    """A dot a unit on a log axis with its 95 % interval; hollow dots are tied with a neighbour, lines join ties.

    Clicks return the unit's name as ``customdata``.
    """
    title = f"Most sensitive in {data.format}"
    if not data.units:
        return empty_figure(palette, title, "This score has not been computed for this format.")
    text = SCORES[data.score]
    low, _ = positive_range(data.values)
    figure = frame(palette, title, 150 + 24 * len(data.units))
    add_legend(figure)
    groups = (
        (False, "rank is certain", palette.categorical[0]),
        (True, "tied with a neighbour", ""),
    )
    for tied, name, fill in groups:
        places = [index for index, value in enumerate(data.tied) if value is tied]
        if not places:
            continue
        values = [data.values[index] for index in places]
        figure.add_trace(
            go.Scatter(
                x=[max(value, low) for value in values],
                y=places,
                name=name,
                mode="markers",
                marker={
                    "size": 10,
                    "color": fill or palette.background,
                    "line": {"width": 2, "color": palette.categorical[0]},
                },
                error_x=error_bars(
                    values,
                    [data.lows[index] for index in places],
                    [data.highs[index] for index in places],
                    low / 2,
                    palette.muted,
                ),
                selected={"marker": {"opacity": 1}},
                unselected={"marker": {"opacity": 1}},
                customdata=[[data.units[index]] for index in places],
                meta=intervals_exactly(
                    ("Layer", [data.units[index] for index in places]),
                    (text.axis, values),
                    [(data.lows[index], data.highs[index]) for index in places],
                ),
                text=[
                    hover(
                        data.units[index],
                        f"rank {index + 1} of {data.total}",
                        f"{text.title}: {quantity(data.values[index], text.unit)}",
                        f"95 %: {quantity(data.lows[index], '')} to {quantity(data.highs[index], text.unit)}"
                        if data.highs[index] > data.lows[index]
                        else "",
                    )
                    for index in places
                ],
                hovertemplate="%{text}<extra></extra>",
            )
        )
    for level, (first, last) in enumerate(data.runs):
        across = 1 - 0.012 * (level % 3)
        figure.add_shape(
            type="line", xref="paper", x0=across, x1=across, y0=first - 0.3, y1=last + 0.3,
            line={"width": 2, "color": palette.muted},
        )  # fmt: skip
    if selected in data.units:
        place = data.units.index(selected)
        figure.add_hrect(
            y0=place - 0.5,
            y1=place + 0.5,
            fillcolor=palette.accent,
            opacity=0.16,
            line_width=0,
            layer="below",
        )
    span = interval_range(data.values, data.lows, data.highs)
    figure.update_xaxes(**log_axis(palette, text.axis, *span, fixedrange=True))
    figure.update_yaxes(
        **axis(
            palette, "", lines=False, fixedrange=True, range=[len(data.units) - 0.5, -0.5],
            tickvals=list(range(len(data.labels))), ticktext=list(data.labels),
        )
    )  # fmt: skip
    figure.update_layout(clickmode="event+select", hovermode="closest", dragmode="pan")
    return figure
