"""How far the layers of a quantized checkpoint are from the original's, block by block."""

from __future__ import annotations

import re
from typing import NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import add_legend, axis, empty_figure, frame, hover, number
from quant_core.plots.palette import Palette
from quant_core.schema import HeldWeight, QuantizedCheckpoint

_BLOCK = re.compile(r"\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.\d+|\[\d+\]")
_ODD = re.compile(r"[^\w-]")
"""What no role has: names come from files of strangers, and a chart reads tags in them."""
_MOST_ROLES = 10


class CheckpointErrors(NamedTuple):
    """Relative errors, |W' - W| / |W|, of quantized weights by role and block; experts of a block are taken together.

    ``values[r][b]`` is of role r in block ``blocks[b]``; None where there is none. What lies outside the blocks is in
    ``outside``, by name.
    """

    roles: tuple[str, ...]
    blocks: tuple[int, ...]
    values: tuple[tuple[float | None, ...], ...]
    outside: tuple[tuple[str, float], ...]
    worst: str
    """Name of the weight with the largest error."""
    error: float
    """Of that weight."""
    best: float
    """The least error of a weight."""


def checkpoint_errors(found: QuantizedCheckpoint) -> CheckpointErrors:
    """The errors of what was compared; all empty where nothing was."""
    compared = [one for one in found.quantized if one.error is not None]
    sums: dict[tuple[str, int], list[float]] = {}
    outside: list[tuple[str, float]] = []
    for one in compared:
        role, block = _place(one)
        if block < 0:
            outside.append((role, one.error or 0.0))
            continue
        total = sums.setdefault((role, block), [0.0, 0.0])
        total[0] += (one.error or 0.0) ** 2
        total[1] += 1
    roles = tuple(dict.fromkeys(role for role, _ in sums))
    blocks = tuple(sorted({block for _, block in sums}))
    means = {place: (square / count) ** 0.5 for place, (square, count) in sums.items()}
    ordered = sorted(compared, key=lambda one: one.error or 0.0)
    return CheckpointErrors(
        roles,
        blocks,
        tuple(tuple(means.get((role, block)) for block in blocks) for role in roles),
        tuple(outside),
        ordered[-1].name if ordered else "",
        (ordered[-1].error or 0.0) if ordered else 0.0,
        (ordered[0].error or 0.0) if ordered else 0.0,
    )


def _place(one: HeldWeight) -> tuple[str, int]:
    """Role and block of a weight; the block is -1 outside the blocks."""
    name = _EXPERT.sub("", one.name).removesuffix(".weight")
    found = _BLOCK.search(name)
    return _ODD.sub("", name.rpartition(".")[2])[:40], int(found[1]) if found else -1


def checkpoint_text(data: CheckpointErrors) -> str:
    """The worst weight in words."""
    if not data.worst:
        return "No quantized weight was compared."
    return (
        f"Farthest from the original is {data.worst}, off by {100 * data.error:.3g} % of its size; the nearest is off "
        f"by {100 * data.best:.3g} %."
    )


def draw_checkpoint_errors(data: CheckpointErrors, palette: Palette) -> go.Figure:
    """A group of bars a block, a colour a role; what lies outside the blocks stands behind the last."""
    title = "Error of each layer"
    if not data.worst:
        return empty_figure(palette, title, "No quantized weight was compared with an original.")
    figure = frame(palette, title, 340, barmode="group", bargap=0.25)
    labels = [str(block) for block in data.blocks]
    series = [(role, labels, values) for role, values in zip(data.roles, data.values, strict=True)]
    series += [(name, [name], (error,)) for name, error in data.outside]
    if len(series) > 1:
        add_legend(figure)
    for place, (role, places, values) in enumerate(series):
        percent = [None if value is None else 100 * value for value in values]
        figure.add_trace(
            go.Bar(
                x=places,
                y=percent,
                name=role,
                marker={"color": palette.categorical[place % _MOST_ROLES], "line": {"width": 0}},
                hovertext=[
                    hover(f"{role}, block {where}", f"off by {number(value or 0.0)} % of its size")
                    for where, value in zip(places, percent, strict=True)
                ],
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    figure.update_xaxes(**axis(palette, "Block", type="category", fixedrange=True, nticks=12, lines=False))
    figure.update_yaxes(**axis(palette, "|W' − W| / |W| (%)", rangemode="tozero", fixedrange=True))
    return figure
