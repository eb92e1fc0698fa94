"""How far each channel of a layer reaches: its weights, and beneath them the activations that meet them."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import add_legend, axis, empty_figure, frame, hover, number
from quant_core.plots.palette import Palette, blend
from quant_core.plots.weights import Bars, add_bars, count_axis
from quant_core.schema import Channels, LayerInputs

OUTLIER = 5.0
"""A channel that reaches this many times as far as the median one is called an outlier."""


_TOP = 0.93
"""Where the axis of weights ends; the mark of the furthest channel stands above it."""


class ChannelStrip(NamedTuple):
    """Ranges of neighbouring channels, ready to draw; ``what`` is one of them (``output``)."""

    what: str
    centres: tuple[float, ...]
    widths: tuple[int, ...]
    labels: tuple[str, ...]
    """Which channels a bin holds."""
    ends: tuple[tuple[float, float], ...]
    """Least and largest weight."""
    middles: tuple[tuple[float, float], ...]
    """What 98 % of the weights lie between."""
    furthest: int


class InputStrip(NamedTuple):
    """Sizes of the activations of neighbouring inputs, ready to draw."""

    centres: tuple[float, ...]
    widths: tuple[int, ...]
    labels: tuple[str, ...]
    largest: tuple[float, ...]
    mean: tuple[float, ...]
    furthest: int


def channel_strip(channels: Channels, what: str) -> ChannelStrip:
    """The bins of a layer's outputs or inputs."""
    return ChannelStrip(
        what, *_places(channels.edges, what), tuple(zip(channels.minimum, channels.maximum, strict=True)),
        tuple(zip(channels.low, channels.high, strict=True)), channels.furthest,
    )  # fmt: skip


def input_strip(inputs: LayerInputs) -> InputStrip:
    """The bins of what enters a layer."""
    return InputStrip(*_places(inputs.edges, "input"), inputs.largest, inputs.mean, inputs.furthest)


def _places(edges: tuple[int, ...], what: str) -> tuple[tuple[float, ...], tuple[int, ...], tuple[str, ...]]:
    pairs = list(pairwise(edges))
    return (
        tuple((first + end - 1) / 2 for first, end in pairs),
        tuple(end - first for first, end in pairs),
        tuple(
            f"{what} {first:,}" if end - first == 1 else f"{what}s {first:,} to {end - 1:,}"
            for first, end in pairs
        ),
    )


def reach_text(what: str, furthest: int, reach: float, median: float, count: int) -> str:
    """Which channel reaches furthest, and how far beside the others, a sentence."""
    text = f"{what.capitalize()} {furthest:,} of {count:,} reaches furthest: {number(reach)}"
    if not median:
        return f"{text}."
    times = reach / median
    verdict = ", an outlier" if times >= OUTLIER else ""
    return f"{text}, {times:.1f} times as far as the median {what}{verdict}."


def draw_channel_strip(data: ChannelStrip, palette: Palette, inputs: InputStrip | None = None) -> go.Figure:
    """A light bar from the least to the largest weight of each bin, a dark one where 98 % of them lie.

    With ``inputs``, whose channels are the same, the sizes of the activations stand beneath, channel under channel.
    """
    title = f"Range of each {data.what}'s weights"
    if not data.centres:
        return empty_figure(palette, title, "This layer's channels have not been looked at yet.")
    figure = frame(palette, title, 320 if inputs is None else 520, bargap=0, barmode="overlay")
    add_legend(figure)
    blue = palette.categorical[0]
    for name, ranges, colour in (
        ("least to largest", data.ends, blend(palette.background, blue, 0.4)),
        ("98 % of the weights", data.middles, blue),
    ):
        _add_ranges(figure, data, ranges, name, colour)
    _mark(figure, data.furthest, f"{data.what} {data.furthest:,}", palette, "y domain")
    count = sum(data.widths)
    across = axis(palette, f"{data.what.capitalize()}", lines=False, range=[-0.5, count - 0.5])
    figure.update_layout(xaxis=across, yaxis=axis(palette, "Weight value", nticks=6, domain=[0, _TOP]))
    if inputs is not None:
        _add_inputs(figure, inputs, palette)
    return figure


def _add_ranges(
    figure: go.Figure, data: ChannelStrip, ranges: tuple[tuple[float, float], ...], name: str, colour: str
) -> None:
    figure.add_trace(
        go.Bar(
            x=data.centres,
            base=[low for low, _ in ranges],
            y=[high - low for low, high in ranges],
            width=data.widths,
            name=name,
            marker={"color": colour, "line": {"width": 0}},
            text=[
                hover(label, f"{name}: {number(low)} to {number(high)}")
                for label, (low, high) in zip(data.labels, ranges, strict=True)
            ],
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
        )
    )


def _mark(figure: go.Figure, channel: int, text: str, palette: Palette, yref: str) -> None:
    """An arrow's head at the channel that reaches furthest."""
    figure.add_annotation(
        x=channel, y=1, yref=yref, yanchor="bottom", text=f"{text} ▾", showarrow=False,
        font={"size": 12, "color": palette.text},
    )  # fmt: skip


def _add_inputs(figure: go.Figure, inputs: InputStrip, palette: Palette) -> None:
    rust = palette.categorical[6]
    for name, values, colour in (
        ("largest |activation|", inputs.largest, blend(palette.background, rust, 0.45)),
        ("mean |activation|", inputs.mean, rust),
    ):
        figure.add_trace(
            go.Bar(
                x=inputs.centres,
                y=values,
                width=inputs.widths,
                yaxis="y2",
                name=name,
                marker={"color": colour, "line": {"width": 0}},
                text=[
                    hover(label, f"{name}: {number(value)}")
                    for label, value in zip(inputs.labels, values, strict=True)
                ],
                textposition="none",
                hovertemplate="%{text}<extra></extra>",
            )
        )
    _mark(figure, inputs.furthest, f"input {inputs.furthest:,}", palette, "y2 domain")
    figure.update_layout(
        yaxis_domain=[0.52, _TOP], xaxis_anchor="y2",
        yaxis2=axis(palette, "Activation", nticks=5, domain=[0, 0.38], rangemode="tozero"),
    )  # fmt: skip


def draw_input_histogram(data: Bars, palette: Palette, log: bool = True) -> go.Figure:
    """Bars of the values that enter a layer."""
    title = "Values that enter the layer"
    if not any(data.counts):
        return empty_figure(palette, title, "No text has been read yet.")
    figure = frame(palette, title, 320, bargap=0)
    add_bars(figure, data, "inputs", palette.categorical[6])
    figure.update_xaxes(**axis(palette, "Activation value", lines=False))
    figure.update_yaxes(**count_axis(palette, "Values (count)", max(data.counts), log))
    return figure
