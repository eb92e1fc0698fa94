"""Which layers moved one prediction: each one's share of the KL divergence of layers rounded alone."""

from __future__ import annotations

from typing import NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import axis, empty_figure, frame, hover, quantity
from quant_core.plots.grid import short_name
from quant_core.plots.palette import Palette
from quant_core.schema import Attribution, ModelInfo


class LayerShares(NamedTuple):
    """The units with the largest shares first; ``rest`` is that of the ``others`` together.

    A share (0..1) is of the sum of the KL of units rounded alone; ``kl`` is in nats.
    """

    units: tuple[str, ...]
    labels: tuple[str, ...]
    shares: tuple[float, ...]
    kl: tuple[float, ...]
    others: int
    rest: float


def layer_shares(model: ModelInfo, found: Attribution, top: int = 12) -> LayerShares:
    """The ``top`` units by KL; equal ones keep the model's order. Nothing moved leaves nothing to share."""
    total = sum(found.kl)
    if total <= 0:
        return LayerShares((), (), (), (), len(found.units), 0.0)
    known = {unit.name: unit for unit in model.units}
    pairs = sorted(zip(found.units, found.kl, strict=True), key=lambda pair: -pair[1])
    shown = pairs[:top]
    return LayerShares(
        units=tuple(name for name, _ in shown),
        labels=tuple(short_name(known[name]) if name in known else name for name, _ in shown),
        shares=tuple(kl / total for _, kl in shown),
        kl=tuple(kl for _, kl in shown),
        others=len(pairs) - len(shown),
        rest=sum(kl for _, kl in pairs[top:]) / total,
    )


def draw_layer_shares(data: LayerShares, palette: Palette) -> go.Figure:
    """A bar a unit with its share written at its end; what the others have together is the last, in grey."""
    title = "Share of the KL at this token"
    if not data.units:
        return empty_figure(palette, title, "The rounding of no layer moves this prediction.")
    names, shares, texts = list(data.labels), list(data.shares), []
    for unit, share, kl in zip(data.units, data.shares, data.kl, strict=True):
        texts.append(hover(unit, f"{100 * share:.1f} % of the sum", f"alone: KL {quantity(kl, 'nats')}"))
    colours = [palette.categorical[0]] * len(names)
    if data.others:
        names.append(f"{data.others:,} others")
        shares.append(data.rest)
        texts.append(hover(f"{data.others:,} other layers", f"{100 * data.rest:.1f} % of the sum"))
        colours.append(palette.categorical[9])
    figure = frame(palette, title, 110 + 26 * len(names))
    percent = [100 * share for share in shares]
    figure.add_trace(
        go.Bar(
            x=percent,
            y=list(range(len(names))),
            orientation="h",
            marker={"color": colours},
            text=[f"{value:.1f} %" for value in percent],
            textposition="outside",
            cliponaxis=False,
            textfont={"color": palette.text},
            hovertext=texts,
            hovertemplate="%{hovertext}<extra></extra>",
        )
    )
    figure.update_xaxes(
        **axis(
            palette,
            "Share of the sum over layers (%)",
            fixedrange=True,
            range=[0, 1.18 * max(percent)],
            nticks=6,
        )
    )
    figure.update_yaxes(
        **axis(
            palette, "", lines=False, fixedrange=True, range=[len(names) - 0.5, -0.5],
            tickvals=list(range(len(names))), ticktext=names,
        )
    )  # fmt: skip
    return figure
