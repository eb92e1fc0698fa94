"""What a format does to one layer's weights: histogram, grid and clipping, and the error's histogram."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import add_legend, axis, empty_figure, frame, hover, number
from quant_core.plots.palette import Palette, blend
from quant_core.plots.saving import exactly
from quant_core.schema import Histogram, LayerView

CUT = 2.5
"""How many times the original's tallest bin a linear axis reaches; quantized weights pile up higher on the grid."""

GRID_LINES = 40
"""Up to this many grid values are drawn as lines across the plot, more as a rug of short ticks."""


class Bars(NamedTuple):
    """A histogram ready to draw."""

    centres: tuple[float, ...]
    widths: tuple[float, ...]
    counts: tuple[int, ...]
    edges: tuple[float, ...]


class WeightHistogram(NamedTuple):
    """A layer's weights, the same after quantization, and what the median block can hold."""

    format: str
    weights: Bars
    dequantized: Bars
    grid: tuple[float, ...]
    """Grid values within the range of the weights."""
    clip_low: float
    clip_high: float
    clips: bool
    """Whether weights lie outside what the median block can hold."""


def bars(histogram: Histogram) -> Bars:
    """Centres and widths of a histogram's bins; empty if it has none."""
    edges = histogram.edges
    pairs = list(pairwise(edges))
    if len(pairs) != len(histogram.counts):
        raise ValueError(f"{len(edges)} edges do not bound {len(histogram.counts)} counts")
    return Bars(
        centres=tuple((low + high) / 2 for low, high in pairs),
        widths=tuple(high - low for low, high in pairs),
        counts=histogram.counts,
        edges=edges,
    )


def weight_histogram(view: LayerView) -> WeightHistogram:
    """The bins of a layer's weights before and after, with the format's grid over the range they cover."""
    weights = bars(view.weights)
    low, high = (weights.edges[0], weights.edges[-1]) if weights.edges else (0.0, 0.0)
    return WeightHistogram(
        format=view.format,
        weights=weights,
        dequantized=bars(view.dequantized),
        grid=tuple(value for value in view.grid if low <= value <= high),
        clip_low=view.clip_low,
        clip_high=view.clip_high,
        clips=bool(view.grid) and (low < view.clip_low or high > view.clip_high),
    )


def draw_weight_histogram(
    data: WeightHistogram, palette: Palette, dequantized: bool = True, log: bool = False, zoom: bool = False
) -> go.Figure:
    """Bars of the original weights; over them the grid of the median block and what lies outside it, shaded.

    ``dequantized`` adds the weights after quantization; ``log`` puts the counts on a log axis;
    ``zoom`` shows the range of the grid and a little around it instead of all weights. On a linear axis the
    spikes of quantized weights are cut at ``CUT`` times the tallest bar, and the subtitle says how tall they are.
    """
    title = "Weights and the format's grid"
    if not any(data.weights.counts):
        return empty_figure(palette, title, "This layer's weights have not been counted yet.")
    tallest, spike = max(data.weights.counts), max(data.dequantized.counts) if dequantized else 0
    cut = spike > CUT * tallest and not log
    note = f"up to {spike:,} quantized weights a bin, cut off here" if cut else ""
    figure = frame(palette, title, 400, note, bargap=0)
    add_legend(figure)
    _add_bars(figure, data.weights, "original", blend(palette.background, palette.categorical[0], 0.6))
    if dequantized and any(data.dequantized.counts):
        _add_steps(figure, data.dequantized, data.format, palette.categorical[1])
    if data.grid:
        _add_grid(figure, data, palette)
    if data.clips:
        _shade_clipping(figure, data, palette)
    low, high = data.weights.edges[0], data.weights.edges[-1]
    if zoom and data.grid:
        low, high = data.clip_low, data.clip_high
    room = (high - low) * (0.25 if zoom else 0.02)
    figure.update_xaxes(**axis(palette, "Weight value", lines=False, range=[low - room, high + room]))
    figure.update_layout(yaxis=_count_axis(palette, "Weights (count)", max(tallest, spike), log))
    if cut:
        figure.update_layout(yaxis_range=[0, CUT * tallest])
    return figure


def draw_error_histogram(histogram: Histogram, palette: Palette, log: bool = False) -> go.Figure:
    """Bars of dequantized minus original."""
    data = bars(histogram)
    title = "Error (after − before)"
    if not any(data.counts):
        return empty_figure(palette, title, "Nothing was changed, so there is no error to draw.")
    figure = frame(palette, title, 400, bargap=0)
    _add_bars(figure, data, "error", palette.categorical[2])
    figure.add_vline(x=0, line={"color": palette.text, "width": 1, "dash": "dot"})
    figure.update_xaxes(**axis(palette, "Error of a weight, in the weight's own unit", lines=False))
    figure.update_yaxes(**_count_axis(palette, "Weights (count)", max(data.counts), log))
    return figure


def _add_bars(figure: go.Figure, data: Bars, name: str, colour: str) -> None:
    figure.add_trace(
        go.Bar(
            x=data.centres,
            y=data.counts,
            width=data.widths,
            name=name,
            marker={"color": colour, "line": {"width": 0}},
            text=[
                hover(f"{number(low)} to {number(high)}", f"{count:,} weights")
                for low, high, count in zip(data.edges, data.edges[1:], data.counts, strict=False)
            ],
            textposition="none",
            hovertemplate="%{text}<extra>" + name + "</extra>",
        )
    )


def _add_steps(figure: go.Figure, data: Bars, name: str, colour: str) -> None:
    """A histogram as an outline, so that the bars under it stay in sight.

    Empty bins count 0.5, which a log axis can draw and which lies below its lower end.
    """
    heights = [max(count, 0.5) for count in data.counts]
    texts = [
        hover(f"{number(low)} to {number(high)}", f"{count:,} weights")
        for low, high, count in zip(data.edges, data.edges[1:], data.counts, strict=False)
    ]
    figure.add_trace(
        go.Scatter(
            x=data.edges,
            y=[*heights, heights[-1]],
            name=name,
            mode="lines",
            line={"color": colour, "width": 2, "shape": "hv"},
            text=[*texts, texts[-1]],
            meta=exactly({"Weight value": data.centres, "Weights (count)": data.counts}),
            hovertemplate="%{text}<extra>" + name + "</extra>",
        )
    )


def _add_grid(figure: go.Figure, data: WeightHistogram, palette: Palette) -> None:
    """The values the median block can hold, as one trace on an axis of its own (0 bottom, 1 top)."""
    top = 1.0 if len(data.grid) <= GRID_LINES else 0.06
    figure.add_trace(
        go.Scatter(
            x=[place for value in data.grid for place in (value, value, None)],
            y=[0.0, top, None] * len(data.grid),
            yaxis="y2",
            name=f"grid ({len(data.grid):,} values)",
            mode="lines",
            line={"color": palette.text, "width": 1, "dash": "dot" if top == 1.0 else "solid"},
            hoverinfo="skip",
            meta=exactly({"Weight value": data.grid}),
        )
    )
    figure.update_layout(
        yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True, "side": "right"}
    )


def _shade_clipping(figure: go.Figure, data: WeightHistogram, palette: Palette) -> None:
    """Shade the values that the median block cannot hold."""
    low, high = data.weights.edges[0], data.weights.edges[-1]
    for start, end in ((low, min(data.clip_low, high)), (max(data.clip_high, low), high)):
        if end > start:
            figure.add_vrect(
                x0=start, x1=end, fillcolor=palette.accent, opacity=0.25, line_width=0, layer="below"
            )
    figure.add_trace(
        go.Scatter(
            x=[None],
            y=[None],
            mode="markers",
            name="beyond the grid",
            marker={"symbol": "square", "size": 12, "color": blend(palette.background, palette.accent, 0.25)},
        )
    )
    for edge in (data.clip_low, data.clip_high):
        if low < edge < high:
            figure.add_vline(x=edge, line={"color": palette.accent, "width": 2})


def _count_axis(palette: Palette, title: str, largest: int, log: bool) -> dict[str, object]:
    if not log:
        return axis(palette, title, tickformat=",d" if largest >= 5 else ",", rangemode="tozero", nticks=6)
    decades = range(math.ceil(math.log10(max(largest, 2))) + 1)
    return axis(
        palette, title, type="log", range=[math.log10(0.7), math.log10(max(largest, 2)) + 0.1],
        tickvals=[10**decade for decade in decades], ticktext=[f"{10**decade:,}" for decade in decades],
    )  # fmt: skip
