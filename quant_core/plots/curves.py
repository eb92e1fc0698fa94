"""Plain lines for the lessons: something over something else, a line a name, and a place that is marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import (
    add_legend,
    axis,
    empty_figure,
    frame,
    hover,
    log_axis,
    positive_range,
    quantity,
)
from quant_core.plots.palette import Palette


class Curve(NamedTuple):
    """A named line through points; ``labels`` are written beside them, none or one each."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    labels: tuple[str, ...] = ()


class Axis(NamedTuple):
    """What an axis counts, its unit, and whether it is logarithmic."""

    title: str
    unit: str = ""
    log: bool = False


def draw_curves(
    curves: Sequence[Curve],
    palette: Palette,
    title: str,
    x: Axis,
    y: Axis,
    *,
    mark: float | None = None,
    height: int = 380,
) -> go.Figure:
    """Lines with their points, each in its own colour, on linear or log axes; ``mark`` draws a dashed line at an x.

    On a log axis what is not positive is left out.
    """
    if not any(curve.x for curve in curves):
        return empty_figure(palette, title, "There is nothing to draw yet.")
    figure = frame(palette, title, height)
    for place, curve in enumerate(curves):
        few = len(curve.x) <= 16
        figure.add_trace(
            go.Scatter(
                x=curve.x,
                y=curve.y,
                name=curve.name,
                mode=f"lines{'+markers' if few else ''}{'+text' if curve.labels else ''}",
                marker={"size": 9},
                line={"color": palette.categorical[place % 10], "width": 2},
                textposition="top center",
                text=curve.labels or None,
                customdata=[
                    hover(
                        curve.name, f"{x.title}: {quantity(a, x.unit)}", f"{y.title}: {quantity(b, y.unit)}"
                    )
                    for a, b in zip(curve.x, curve.y, strict=True)
                ],
                hovertemplate="%{customdata}<extra></extra>",
                cliponaxis=False,
            )
        )
    if mark is not None:
        figure.add_vline(x=mark, line={"color": palette.accent, "width": 2, "dash": "dash"})
    figure.update_xaxes(**_axis(palette, x, [value for curve in curves for value in curve.x]))
    figure.update_yaxes(**_axis(palette, y, [value for curve in curves for value in curve.y]))
    if len(curves) > 1:
        add_legend(figure)
    return figure


def _axis(palette: Palette, each: Axis, values: Sequence[float]) -> dict[str, Any]:
    title = f"{each.title} ({each.unit})" if each.unit else each.title
    if each.log:
        return log_axis(palette, title, *positive_range(values), fixedrange=True)
    return axis(palette, title, fixedrange=True)
