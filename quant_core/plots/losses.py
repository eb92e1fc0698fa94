"""How a training goes: its loss over the steps, and what was held out before and after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import add_legend, axis, empty_figure, frame, hover, log_axis, quantity
from quant_core.plots.palette import Palette

SHARE = 10
"""The running mean is over the last tenth of the points so far."""
HEIGHT = 340
MOST = 300
"""Points that are drawn; of more, neighbours are averaged."""
_UNIT = "nats/token"


class LossCurve(NamedTuple):
    """Losses in nats a token by step, and their running mean; what a log axis cannot show is left out.

    ``before`` and ``after`` are the KL of the held-out text; None as long as it is not known.
    """

    steps: tuple[int, ...]
    losses: tuple[float, ...]
    means: tuple[float, ...]
    before: float | None = None
    after: float | None = None


def joined_losses(parts: Iterable[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """One curve of the runs of a training that was stopped and went on, oldest first.

    A run that went on from further back than the one before it had come replaces what it did again.
    """
    curve: list[tuple[int, float]] = []
    for part in parts:
        if part:
            curve = [point for point in curve if point[0] < part[0][0]]
            curve += part
    return curve


def loss_curve(
    points: Sequence[tuple[int, float]], before: float | None = None, after: float | None = None
) -> LossCurve:
    """The curve through ``points`` (steps done, mean loss), in the order of the steps."""
    width = max(1, -(-len(points) // MOST))
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    drawn = [(group[-1][0], sum(loss for _, loss in group) / len(group)) for group in groups]
    drawn = [(step, loss) for step, loss in drawn if loss > 0]
    losses = [loss for _, loss in drawn]
    means = []
    for end in range(1, len(losses) + 1):
        recent = losses[end - -(-end // SHARE) : end]
        means.append(sum(recent) / len(recent))
    return LossCurve(tuple(step for step, _ in drawn), tuple(losses), tuple(means), before, after)


def draw_loss_curve(data: LossCurve, palette: Palette) -> go.Figure:
    """Losses as dots, their running mean as a line, on a log axis; the held-out text as level lines."""
    title = "Loss by step"
    if not data.steps:
        return empty_figure(palette, title, "No step has been taken yet.", HEIGHT)
    figure = frame(palette, title, HEIGHT)
    add_legend(figure)
    figure.add_trace(
        go.Scatter(
            x=data.steps,
            y=data.losses,
            name="loss",
            mode="markers",
            marker={"size": 5, "color": palette.categorical[0], "opacity": 0.45},
            text=[
                hover(f"Step {step:,}", f"loss {quantity(loss, _UNIT)}")
                for step, loss in zip(data.steps, data.losses, strict=True)
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=data.steps,
            y=data.means,
            name="mean of the last tenth",
            mode="lines",
            line={"width": 2.5, "color": palette.categorical[0]},
            hoverinfo="skip",
        )
    )
    levels = [("held out, before", data.before, "dot", 1), ("held out, after", data.after, "dash", 2)]
    shown = [level for level in levels if level[1] is not None and level[1] > 0]
    for name, value, dash, colour in shown:
        figure.add_trace(
            go.Scatter(
                x=[0, data.steps[-1]],
                y=[value, value],
                name=name,
                mode="lines",
                line={"width": 2, "dash": dash, "color": palette.categorical[colour]},
                hovertemplate=f"{hover(name, quantity(value or 0.0, _UNIT))}<extra></extra>",
            )
        )
    values = [*data.losses, *(value for _, value, _, _ in shown if value is not None)]
    figure.update_xaxes(**axis(palette, "Steps", fixedrange=True, rangemode="tozero"))
    figure.update_yaxes(**log_axis(palette, f"KL ({_UNIT})", min(values), max(values), fixedrange=True))
    return figure
