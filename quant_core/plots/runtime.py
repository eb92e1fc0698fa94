"""A recipe's files beside the original's in one runtime: speed, memory and size as multiples of the original's."""

from __future__ import annotations

from typing import NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import add_legend, axis, empty_figure, frame, hover, number
from quant_core.plots.palette import Palette
from quant_core.plots.saving import exactly
from quant_core.plots.sizes import MEGABYTE
from quant_core.schema import RuntimeSpeed, RuntimeSpeeds


class RuntimeBars(NamedTuple):
    """One entry a measure; ``ratios`` are the recipe's value over the original's.

    Empty where the original was not run.
    """

    runtime: str
    measures: tuple[str, ...]
    units: tuple[str, ...]
    original: tuple[float, ...]
    recipe: tuple[float, ...]
    ratios: tuple[float, ...]


def runtime_bars(found: RuntimeSpeeds) -> RuntimeBars:
    """Medians of tokens a second; memory and files in MB (10^6 bytes)."""
    if found.original is None:
        return RuntimeBars(found.runtime, (), (), (), (), ())
    original, recipe = _values(found.original), _values(found.recipe)
    return RuntimeBars(
        found.runtime,
        ("Reading the prompt", "Writing", "Resident memory", "Weights on disk"),
        ("tokens/s", "tokens/s", "MB", "MB"),
        original,
        recipe,
        tuple(ours / theirs for ours, theirs in zip(recipe, original, strict=True)),
    )


def _values(one: RuntimeSpeed) -> tuple[float, ...]:
    return one.prompt[0], one.decode[0], one.resident / MEGABYTE, one.size / MEGABYTE


def draw_runtime_bars(data: RuntimeBars, palette: Palette) -> go.Figure:
    """Two bars a measure, the original's of length 1; beside each its value."""
    title = f"In {data.runtime}, beside the original"
    if not data.measures:
        return empty_figure(palette, title, "The original was not run beside it.")
    figure = frame(palette, title, 360, barmode="group", bargap=0.3)
    add_legend(figure)
    series = (
        ("original", data.original, (1.0,) * len(data.measures), palette.categorical[0]),
        ("recipe", data.recipe, data.ratios, palette.categorical[1]),
    )
    for name, values, lengths, colour in series:
        texts = [f"{number(value)} {unit}" for value, unit in zip(values, data.units, strict=True)]
        figure.add_trace(
            go.Bar(
                y=data.measures,
                x=lengths,
                name=name,
                orientation="h",
                marker={"color": colour, "line": {"width": 0}},
                text=texts,
                textposition="outside",
                cliponaxis=False,
                customdata=[
                    [hover(measure, f"{name}: {text}", f"{number(length)} times the original's")]
                    for measure, text, length in zip(data.measures, texts, lengths, strict=True)
                ],
                hovertemplate="%{customdata[0]}<extra></extra>",
                meta=exactly({"Measure": data.measures, "Median or size": values, "Unit": data.units}),
            )
        )
    longest = max(1.0, *data.ratios)
    figure.update_xaxes(**axis(palette, "Times the original's", fixedrange=True, range=[0, 1.75 * longest]))
    figure.update_yaxes(**axis(palette, "", lines=False, autorange="reversed", fixedrange=True))
    return figure
