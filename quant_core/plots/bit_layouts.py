"""The bits of numbers as cells, coloured by what they are for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import TICK_SIZE, add_legend, axis, empty_figure, frame, hover
from quant_core.plots.palette import Palette, readable_on
from quant_core.plots.saving import exactly

PARTS = ("sign", "exponent", "mantissa", "integer")


class BitRow(NamedTuple):
    """The bits of one number, first bit first."""

    name: str
    """Of its type."""
    bits: str
    """Zeros and ones."""
    parts: tuple[tuple[str, int], ...]
    """What the bits are for (of ``PARTS``) and how many, in their order."""
    value: str
    """What the bits stand for."""


def draw_bits(rows: Sequence[BitRow], palette: Palette, title: str) -> go.Figure:
    """A row a number and a cell a bit; parts have their own colours, the same in every row."""
    if not rows:
        return empty_figure(palette, title, "There is no number to draw.")
    figure = frame(palette, title, 110 + 34 * len(rows), barmode="overlay", bargap=0.25)
    add_legend(figure)
    for place, part in enumerate(PARTS):
        cells = [(row, bit) for row in rows for bit, kind in enumerate(_kinds(row)) if kind == part]
        if not cells:
            continue
        colour = palette.categorical[place]
        figure.add_trace(
            go.Bar(
                y=[row.name for row, _ in cells],
                x=[0.9] * len(cells),
                base=[bit + 0.05 for _, bit in cells],
                orientation="h",
                name=part,
                marker={"color": colour, "line": {"width": 0}},
                text=[row.bits[bit] for row, bit in cells],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                insidetextfont={"size": TICK_SIZE, "color": readable_on(colour)},
                customdata=[
                    hover(row.name, f"bit {bit + 1} of {len(row.bits)}: {part}", f"stands for {row.value}")
                    for row, bit in cells
                ],
                hovertemplate="%{customdata}<extra></extra>",
                meta=exactly(
                    {
                        "Type": [row.name for row, _ in cells],
                        "Place": [bit + 1 for _, bit in cells],
                        "Bit": [int(row.bits[bit]) for row, bit in cells],
                    }
                ),
            )
        )
    figure.update_layout(uniformtext={"mode": "show", "minsize": 8})
    figure.update_xaxes(**axis(palette, "Bits", lines=False, fixedrange=True, rangemode="tozero"))
    names = [row.name for row in rows]
    figure.update_yaxes(
        **axis(palette, "", lines=False, fixedrange=True, autorange="reversed", categoryorder="array",
               categoryarray=names)
    )  # fmt: skip
    return figure


def _kinds(row: BitRow) -> list[str]:
    return [part for part, count in row.parts for _ in range(count)]
