"""Did the prediction hold? Predicted and measured KL of recipes, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import (
    KL_AXIS,
    add_legend,
    axis,
    empty_figure,
    error_bars,
    frame,
    hover,
    interval,
    interval_range,
    log_axis,
    number,
    positive_range,
)
from quant_core.plots.palette import Palette
from quant_core.plots.saving import intervals_exactly
from quant_core.schema import Evaluation, Solution


class KlComparison(NamedTuple):
    """Predicted and measured KL in nats a token with 95 % intervals, one entry a recipe.

    ``ratio`` is predicted over measured; None where the measured one is zero or less.
    """

    labels: tuple[str, ...]
    predicted: tuple[float, ...]
    predicted_ends: tuple[tuple[float, float], ...]
    measured: tuple[float, ...]
    measured_ends: tuple[tuple[float, float], ...]
    ratio: tuple[float | None, ...]


def kl_comparison(recipes: Sequence[tuple[str, Solution, Evaluation]]) -> KlComparison:
    """Compare what recipes were predicted to do with what was measured."""
    return KlComparison(
        labels=tuple(label for label, _, _ in recipes),
        predicted=tuple(solution.predicted_kl for _, solution, _ in recipes),
        predicted_ends=tuple(interval(s.predicted_kl, s.predicted_stderr) for _, s, _ in recipes),
        measured=tuple(evaluation.kl_mean for _, _, evaluation in recipes),
        measured_ends=tuple(interval(e.kl_mean, e.kl_stderr) for _, _, e in recipes),
        ratio=tuple(s.predicted_kl / e.kl_mean if e.kl_mean > 0 else None for _, s, e in recipes),
    )


def draw_kl_comparison(data: KlComparison, palette: Palette) -> go.Figure:
    """Two dots a recipe with 95 % intervals on a log axis."""
    title = "Predicted and measured KL"
    both = (*data.predicted, *data.measured)
    if not any(value > 0 for value in both):
        return empty_figure(palette, title, "No recipe has been measured yet.", 160)
    low, _ = positive_range(both)
    figure = frame(palette, title, 150 + 46 * len(data.labels))
    add_legend(figure)
    series = (
        ("predicted", data.predicted, data.predicted_ends, palette.categorical[0], "circle", -0.14),
        ("measured", data.measured, data.measured_ends, palette.categorical[1], "diamond", 0.14),
    )
    for name, values, ends, colour, symbol, shift in series:
        figure.add_trace(
            go.Scatter(
                x=[max(value, low) for value in values],
                y=[place + shift for place in range(len(values))],
                name=name,
                mode="markers",
                marker={"size": 11, "color": colour, "symbol": symbol},
                error_x=error_bars(values, [e[0] for e in ends], [e[1] for e in ends], low / 2, colour),
                text=[
                    hover(label, f"{name} KL {number(value)} nats/token", f"95 %: {number(a)} to {number(b)}")
                    for label, value, (a, b) in zip(data.labels, values, ends, strict=True)
                ],
                hovertemplate="%{text}<extra></extra>",
                meta=intervals_exactly(("Recipe", data.labels), (KL_AXIS, values), ends),
            )
        )
    ends = (*data.predicted_ends, *data.measured_ends)
    span = interval_range(both, [end[0] for end in ends], [end[1] for end in ends])
    figure.update_xaxes(**log_axis(palette, KL_AXIS, *span, fixedrange=True))
    figure.update_yaxes(
        **axis(
            palette, "", lines=False, fixedrange=True, range=[len(data.labels) - 0.5, -0.5],
            tickvals=list(range(len(data.labels))), ticktext=list(data.labels),
        )
    )  # fmt: skip
    return figure
