"""What is served over time: the top-k KL of every check with its interval, and the limit that was set."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import (
    add_legend,
    axis,
    empty_figure,
    error_bars,
    frame,
    hover,
    log_axis,
    number,
    positive_range,
)
from quant_core.plots.palette import Palette
from quant_core.plots.saving import exactly, intervals_exactly
from quant_core.schema import Check

HEIGHT = 320
_AXIS = "Top-k KL (nats/token)"


class CheckHistory(NamedTuple):
    """Checks in the order of their times (seconds since the epoch); KL to the approved in nats a token."""

    times: tuple[float, ...]
    means: tuple[float, ...]
    ends: tuple[tuple[float, float], ...]
    """95 % intervals."""
    limits: tuple[float, ...]
    """That each was held against."""


def check_history(checks: Sequence[tuple[float, Check, float]]) -> CheckHistory:
    """From (time, what was found, limit) of each check."""
    ordered = sorted(checks, key=lambda one: one[0])
    return CheckHistory(
        tuple(time for time, _, _ in ordered),
        tuple(found.approved.mean for _, found, _ in ordered),
        tuple((found.approved.low, found.approved.high) for _, found, _ in ordered),
        tuple(limit for _, _, limit in ordered),
    )


def draw_check_history(data: CheckHistory, palette: Palette) -> go.Figure:
    """Within the limit as dots, above it as crosses, both with intervals; the limit as steps; a log axis."""
    title = "Checks of what is served"
    if not data.times:
        return empty_figure(palette, title, "Nothing has been checked yet.", HEIGHT)
    figure = frame(palette, title, HEIGHT)
    add_legend(figure)
    low, high = positive_range([*data.means, *data.limits, *(end for ends in data.ends for end in ends)])
    moments = [datetime.fromtimestamp(time) for time in data.times]
    room = timedelta(seconds=max(60.0, 0.05 * (data.times[-1] - data.times[0])))
    start, end = moments[0] - room, moments[-1] + room
    kinds = (("within the limit", False, 0, "circle"), ("above the limit", True, 1, "x"))
    for name, above, colour, symbol in kinds:
        places = [
            place
            for place, (mean, limit) in enumerate(zip(data.means, data.limits, strict=True))
            if (mean > limit) == above
        ]
        if not places:
            continue
        values = [max(data.means[place], low) for place in places]
        ends = [data.ends[place] for place in places]
        figure.add_trace(
            go.Scatter(
                x=[moments[place] for place in places],
                y=values,
                name=name,
                mode="markers",
                marker={"size": 10, "symbol": symbol, "color": palette.categorical[colour]},
                error_y=error_bars(
                    values,
                    [end for end, _ in ends],
                    [end for _, end in ends],
                    low / 2,
                    palette.categorical[colour],
                ),
                text=[
                    hover(
                        f"{moments[place]:%Y-%m-%d %H:%M:%S}",
                        f"KL {number(data.means[place])} nats/token, {name} of {number(data.limits[place])}",
                        f"95 %: {number(data.ends[place][0])} to {number(data.ends[place][1])}",
                    )
                    for place in places
                ],
                hovertemplate="%{text}<extra></extra>",
                meta=intervals_exactly(
                    ("Time", [f"{moments[place]:%Y-%m-%dT%H:%M:%S}" for place in places]),
                    (_AXIS, [data.means[place] for place in places]),
                    ends,
                ),
            )
        )
    figure.add_trace(
        go.Scatter(
            x=[start, *moments, end],
            y=[data.limits[0], *data.limits, data.limits[-1]],
            name="limit",
            mode="lines",
            line={"width": 2, "dash": "dash", "color": palette.text, "shape": "hv"},
            hoverinfo="skip",
            meta=exactly({"Time": [f"{moment:%Y-%m-%dT%H:%M:%S}" for moment in moments], _AXIS: data.limits}),
        )
    )
    shape: dict[str, Any] = {"type": "date", "nticks": 4, "tickangle": 0, "range": [start, end]}
    figure.update_xaxes(**axis(palette, "Time", fixedrange=True, **shape))
    figure.update_yaxes(**log_axis(palette, _AXIS, low, high, fixedrange=True))
    return figure
