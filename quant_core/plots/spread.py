"""How a recipe's KL is spread over tokens: a histogram over a log axis, with its median and its tail marked."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import axis, empty_figure, frame, hover, number
from quant_core.plots.palette import Palette
from quant_core.schema import KlTails


class KlSpread(NamedTuple):
    """Shares of tokens by their KL in nats: a bar from ``edges[i]`` to ``edges[i + 1]``; marks are (name, KL)."""

    edges: tuple[float, ...]
    shares: tuple[float, ...]
    counts: tuple[int, ...]
    marks: tuple[tuple[str, float], ...]
    tokens: int


def kl_spread(found: KlTails) -> KlSpread:
    """The bins that hold tokens and those between them; empty where nothing was moved."""
    filled = [place for place, count in enumerate(found.counts) if count]
    if not filled or found.maximum <= 0:
        return KlSpread((), (), (), (), found.tokens)
    first, last = filled[0], filled[-1]
    counts = found.counts[first : last + 1]
    marks = (("median", found.median), ("99 %", found.p99), ("99.9 %", found.p999))
    return KlSpread(
        found.edges[first : last + 2],
        tuple(count / found.tokens for count in counts),
        counts,
        tuple((name, min(max(kl, found.edges[first]), found.edges[last + 1])) for name, kl in marks),
        found.tokens,
    )


def draw_kl_spread(data: KlSpread, palette: Palette) -> go.Figure:
    """Bars over a log axis; lines at the median and in the tail."""
    title = "How far each token's prediction moved"
    if not data.edges:
        return empty_figure(palette, title, "No token's prediction was moved.")
    figure = frame(palette, title, 320)
    ends = [math.log10(edge) for edge in data.edges]
    texts = [
        hover(
            f"{number(low, 2)} to {number(high, 2)} nats",
            f"{count:,} tokens",
            f"{100 * share:.2g} % of {data.tokens:,}",
        )
        for (low, high), count, share in zip(pairwise(data.edges), data.counts, data.shares, strict=True)
    ]
    figure.add_trace(
        go.Bar(
            x=[(low + high) / 2 for low, high in pairwise(ends)],
            y=[100 * share for share in data.shares],
            width=[high - low for low, high in pairwise(ends)],
            marker={"color": palette.categorical[0], "line": {"color": palette.background, "width": 1}},
            hovertext=texts,
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )
    for row, (name, kl) in enumerate(data.marks):
        figure.add_vline(
            x=math.log10(kl), line={"color": palette.text, "width": 1.5, "dash": "dot"},
            annotation={"text": name, "font": {"color": palette.text, "size": 12}, "yref": "paper",
                        "y": 1 - 0.08 * row, "yanchor": "top", "xanchor": "left", "showarrow": False},
        )  # fmt: skip
    decades = range(math.floor(ends[0]), math.ceil(ends[-1]) + 1)
    figure.update_xaxes(
        **axis(
            palette, "KL to the original (nats, log axis)", fixedrange=True, range=[ends[0] - 0.1, ends[-1] + 0.3],
            tickvals=list(decades), ticktext=[number(10.0**power) for power in decades],
        )
    )  # fmt: skip
    figure.update_yaxes(
        **axis(palette, "Share of tokens (%)", fixedrange=True, range=[0, 118 * max(data.shares)])
    )
    return figure
