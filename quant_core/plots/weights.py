"""What formats do to weights: histogram, grids and clipping, and the errors' histogram."""

from __future__ import annotations

import math
from collections.abc import Mapping
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


class FormatBars(NamedTuple):
    """What a format makes of the weights, and what its median block can hold."""

    format: str
    dequantized: Bars
    errors: Bars
    grid: tuple[float, ...]
    """Grid values within the range of the weights."""
    clip_low: float
    clip_high: float
    clips: bool
    """Whether weights lie outside what the median block can hold."""
    kept_from: float
    """Size from which weights are kept in 16 bits; 0 if none are."""


class WeightHistogram(NamedTuple):
    """Weights, and up to three formats over them."""

    weights: Bars
    formats: tuple[FormatBars, ...]


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
    """The bins of the weights and of their errors in each format, with its grid over the range that they cover."""
    weights = bars(view.weights)
    low, high = (weights.edges[0], weights.edges[-1]) if weights.edges else (0.0, 0.0)
    return WeightHistogram(
        weights=weights,
        formats=tuple(
            FormatBars(
                format=each.format,
                dequantized=bars(each.dequantized),
                errors=bars(each.errors),
                grid=tuple(value for value in each.grid if low <= value <= high),
                clip_low=each.clip_low,
                clip_high=each.clip_high,
                clips=bool(each.grid) and (low < each.clip_low or high > each.clip_high),
                kept_from=each.kept_from,
            )
            for each in view.formats
        ),
    )


def format_colour(place: int, palette: Palette) -> str:
    """The colour of the format in a place, everywhere on a page: its bars, its grid and its errors."""
    return palette.categorical[1 + place % 9]


def draw_weight_histogram(
    data: WeightHistogram,
    palette: Palette,
    dequantized: bool = True,
    log: bool = False,
    zoom: bool = False,
    titles: Mapping[str, str] | None = None,
) -> go.Figure:
    """Bars of the original weights; over them each format's grid of the median block, and where it ends.

    One format's grid crosses the plot, and what lies beyond it is shaded; several have rows of ticks at the top, and
    lines where they end. Dashes stand where weights begin that a format keeps in 16 bits. ``dequantized`` adds the
    weights after quantization; ``log`` puts the counts on a log axis; ``zoom`` shows the range of the grids and a
    little around it instead of all weights. On a linear axis the spikes of quantized weights are cut at ``CUT`` times
    the tallest bar, and the subtitle says how tall they are. ``titles`` says what a format is called.
    """
    title = "Weights and the format's grid" if len(data.formats) < 2 else "Weights and the formats' grids"
    if not any(data.weights.counts):
        return empty_figure(palette, title, "This layer's weights have not been counted yet.")
    spikes = [max(each.dequantized.counts, default=0) for each in data.formats] if dequantized else []
    tallest, spike = max(data.weights.counts), max(spikes, default=0)
    cut = spike > CUT * tallest and not log
    note = f"up to {spike:,} quantized weights a bin, cut off here" if cut else ""
    figure = frame(palette, title, 400, note, bargap=0)
    add_legend(figure)
    add_bars(figure, data.weights, "original", blend(palette.background, palette.categorical[0], 0.6))
    figure.update_layout(
        yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True, "side": "right"}
    )
    alone = len(data.formats) == 1
    for place, each in enumerate(data.formats):
        name, colour = (titles or {}).get(each.format, each.format), format_colour(place, palette)
        if dequantized and any(each.dequantized.counts):
            _add_steps(figure, each.dequantized, name, colour)
        if each.grid:
            called = f"grid ({len(each.grid):,} values)" if alone else f"grid of {name}"
            _add_grid(figure, each.grid, called, *_lane(place, each.grid, palette, alone))
        if each.clips:
            _mark_clipping(figure, data.weights, each, colour, palette if alone else None)
        if each.kept_from:
            _mark_kept(figure, each.kept_from, f"kept by {name}", colour)
    low, high = data.weights.edges[0], data.weights.edges[-1]
    gridded = [each for each in data.formats if each.grid]
    if zoom and gridded:
        low, high = min(each.clip_low for each in gridded), max(each.clip_high for each in gridded)
    room = (high - low) * (0.25 if zoom else 0.02)
    figure.update_xaxes(**axis(palette, "Weight value", lines=False, range=[low - room, high + room]))
    figure.update_layout(yaxis=count_axis(palette, "Weights (count)", max(tallest, spike), log))
    if cut:
        figure.update_layout(yaxis_range=[0, CUT * tallest])
    return figure


def draw_error_histogram(
    data: WeightHistogram, palette: Palette, log: bool = False, titles: Mapping[str, str] | None = None
) -> go.Figure:
    """Dequantized minus original: bars of one format, outlines of several, in their colours."""
    title = "Error (after − before)"
    there = [(place, each) for place, each in enumerate(data.formats) if any(each.errors.counts)]
    if not there:
        return empty_figure(palette, title, "Nothing was changed, so there is no error to draw.")
    figure = frame(palette, title, 400, bargap=0)
    if len(there) > 1:
        add_legend(figure)
    for place, each in there:
        name = (titles or {}).get(each.format, each.format)
        add = add_bars if len(there) == 1 else _add_steps
        add(figure, each.errors, name, format_colour(place, palette))
    figure.add_vline(x=0, line={"color": palette.text, "width": 1, "dash": "dot"})
    figure.update_xaxes(**axis(palette, "Error of a weight, in the weight's own unit", lines=False))
    tallest = max(max(each.errors.counts) for _, each in there)
    figure.update_yaxes(**count_axis(palette, "Weights (count)", tallest, log))
    return figure


def add_bars(figure: go.Figure, data: Bars, name: str, colour: str) -> None:
    """A histogram as bars."""
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


def _lane(
    place: int, grid: tuple[float, ...], palette: Palette, alone: bool
) -> tuple[float, float, dict[str, object]]:
    """Where the ticks of a grid begin and end (0 bottom, 1 top), and how they are drawn."""
    if not alone:
        top = 1 - 0.06 * place
        return top - 0.05, top, {"color": format_colour(place, palette), "width": 1.5}
    if len(grid) <= GRID_LINES:
        return 0.0, 1.0, {"color": palette.text, "width": 1, "dash": "dot"}
    return 0.0, 0.06, {"color": palette.text, "width": 1, "dash": "solid"}


def _add_grid(
    figure: go.Figure, grid: tuple[float, ...], name: str, low: float, high: float, line: dict[str, object]
) -> None:
    """The values a median block can hold, as one trace on an axis of its own."""
    figure.add_trace(
        go.Scatter(
            x=[place for value in grid for place in (value, value, None)],
            y=[low, high, None] * len(grid),
            yaxis="y2",
            name=name,
            mode="lines",
            line=line,
            hoverinfo="skip",
            meta=exactly({"Weight value": grid}),
        )
    )


def _mark_clipping(
    figure: go.Figure, weights: Bars, data: FormatBars, colour: str, shaded: Palette | None
) -> None:
    """Lines where the median block ends; ``shaded``, the values that it cannot hold, too."""
    low, high = weights.edges[0], weights.edges[-1]
    for edge in (data.clip_low, data.clip_high):
        if low < edge < high:
            figure.add_vline(x=edge, line={"color": shaded.accent if shaded else colour, "width": 2})
    if shaded is None:
        return
    for start, end in ((low, min(data.clip_low, high)), (max(data.clip_high, low), high)):
        if end > start:
            figure.add_vrect(
                x0=start, x1=end, fillcolor=shaded.accent, opacity=0.25, line_width=0, layer="below"
            )
    figure.add_trace(
        go.Scatter(
            x=[None],
            y=[None],
            mode="markers",
            name="beyond the grid",
            marker={"symbol": "square", "size": 12, "color": blend(shaded.background, shaded.accent, 0.25)},
        )
    )


def _mark_kept(figure: go.Figure, size: float, name: str, colour: str) -> None:
    """Dashed lines from where on weights are kept as they are."""
    figure.add_trace(
        go.Scatter(
            x=[-size, -size, None, size, size],
            y=[0, 0.8, None, 0, 0.8],
            yaxis="y2",
            name=name,
            mode="lines",
            line={"color": colour, "width": 2, "dash": "dash"},
            hoverinfo="skip",
        )
    )


def count_axis(palette: Palette, title: str, largest: int, log: bool) -> dict[str, object]:
    """An axis of counts up to ``largest``, linear or log."""
    if not log:
        return axis(palette, title, tickformat=",d" if largest >= 5 else ",", rangemode="tozero", nticks=6)
    decades = range(math.ceil(math.log10(max(largest, 2))) + 1)
    return axis(
        palette, title, type="log", range=[math.log10(0.7), math.log10(max(largest, 2)) + 0.1],
        tickvals=[10**decade for decade in decades], ticktext=[f"{10**decade:,}" for decade in decades],
    )  # fmt: skip
