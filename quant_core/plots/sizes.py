"""Where the bytes are: by role or kind, by format, and in memory at each precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import add_legend, axis, empty_figure, frame, hover
from quant_core.plots.palette import Palette
from quant_core.schema import ORIGINAL, ModelInfo, ScoreTable, Unit

MEGABYTE = 1_000_000
OTHER = "norms and other"


class SizeBars(NamedTuple):
    """Megabytes (10^6 bytes) in one or more named series of equal length."""

    title: str
    labels: tuple[str, ...]
    series: Mapping[str, tuple[float, ...]]
    notes: tuple[str, ...]
    """A line for each label's hover text."""


def stored_bits(model: ModelInfo, table: ScoreTable, assignment: Mapping[str, str]) -> dict[str, int]:
    """All stored bits of every unit under an assignment; without a known format, the checkpoint's."""
    rows = {unit: row for row, unit in enumerate(table.units)}
    columns = {name: column for column, name in enumerate(table.formats)}
    found = {}
    for unit in model.units:
        row, column = rows.get(unit.name), columns.get(assignment.get(unit.name, ORIGINAL))
        if row is None or column is None:
            found[unit.name] = unit.parameters * unit.bits
        else:
            found[unit.name] = table.storage_bits[row][column]
    return found


def size_by(
    model: ModelInfo, by: Literal["role", "kind"] = "role", recipe_bits: Mapping[str, int] | None = None
) -> SizeBars:
    """Megabytes by role or kind, the largest first, as they are and (if given) under a recipe's stored bits.

    Experts of one block count under one role.
    """
    original: dict[str, int] = {}
    recipe: dict[str, int] = {}
    parameters: dict[str, int] = {}
    for unit in model.units:
        label = unit.kind if by == "kind" else unit.role.partition("[")[0]
        bits = unit.parameters * unit.bits
        original[label] = original.get(label, 0) + bits
        recipe[label] = recipe.get(label, 0) + (recipe_bits or {}).get(unit.name, bits)
        parameters[label] = parameters.get(label, 0) + unit.parameters
    order = sorted(original, key=lambda label: -original[label])
    labels = [*order, OTHER] if model.other_bits else order
    notes = [f"{parameters[label]:,} weights" for label in order] + ["never quantized"] * (
        len(labels) - len(order)
    )
    series = {"original": tuple(_megabytes(original.get(label, model.other_bits)) for label in labels)}
    if recipe_bits is not None:
        series["recipe"] = tuple(_megabytes(recipe.get(label, model.other_bits)) for label in labels)
    return SizeBars(f"Size by {by}", tuple(labels), series, tuple(notes))


def size_by_format(model: ModelInfo, assignment: Mapping[str, str], bits: Mapping[str, int]) -> SizeBars:
    """Megabytes held in each format, the largest first; ``bits`` as ``stored_bits`` gives them."""
    totals: dict[str, int] = {}
    units: dict[str, list[Unit]] = {}
    for unit in model.units:
        name = assignment.get(unit.name, ORIGINAL)
        totals[name] = totals.get(name, 0) + bits[unit.name]
        units.setdefault(name, []).append(unit)
    order = sorted(totals, key=lambda name: -totals[name])
    labels = [*order, OTHER] if model.other_bits else order
    notes = [
        f"{len(units[name])} layers, {sum(u.parameters for u in units[name]):,} weights" for name in order
    ]
    return SizeBars(
        "Size by format",
        tuple(labels),
        {"recipe": tuple(_megabytes(totals.get(name, model.other_bits)) for name in labels)},
        (*notes, *["never quantized"] * (len(labels) - len(order))),
    )


def memory(model: ModelInfo, weights: Mapping[str, float], context: int, cache_bits: int = 16) -> SizeBars:
    """Megabytes that a writing model holds: weights at each precision, and the KV cache of one sequence.

    Args:
        model: How much its KV cache holds a token.
        weights: Bytes of all the model's weights, by the precision's name.
        context: Tokens in the cache.
        cache_bits: Bits a cached value.
    """
    megabytes = tuple(size / MEGABYTE for size in weights.values())
    cache = _megabytes(model.kv_values * context * cache_bits)
    return SizeBars(
        f"Memory at {context:,} tokens of context",
        tuple(weights),
        {"weights": megabytes, f"KV cache ({cache_bits}-bit)": (cache,) * len(megabytes)},
        tuple(f"{size + cache:,.1f} MB in all" for size in megabytes),
    )


def _megabytes(bits: float) -> float:
    return bits / 8 / MEGABYTE


def draw_size_bars(data: SizeBars, palette: Palette, stacked: bool = False) -> go.Figure:
    """Horizontal bars; ``stacked`` puts the series behind each other (memory), else below."""
    if not data.labels:
        return empty_figure(palette, data.title, "There is nothing to add up yet.")
    rows = len(data.labels) * (1 if stacked else len(data.series))
    height = 130 + 28 * max(rows, 2)
    figure = frame(palette, data.title, height, barmode="stack" if stacked else "group", bargap=0.3)
    if len(data.series) > 1:
        add_legend(figure)
    for place, (name, values) in enumerate(data.series.items()):
        figure.add_trace(
            go.Bar(
                y=data.labels,
                x=values,
                name=name,
                orientation="h",
                marker={"color": palette.categorical[place % 10], "line": {"width": 0}},
                text=[f"{value:,.1f}" if value >= 0.05 else f"{value:,.3f}" for value in values],
                textposition="none" if stacked else "outside",
                cliponaxis=False,
                customdata=[
                    [hover(label, f"{name}: {value:,.2f} MB", note)]
                    for label, value, note in zip(data.labels, values, data.notes, strict=True)
                ],
                hovertemplate="%{customdata[0]}<extra></extra>",
            )
        )
    if stacked:
        _add_totals(figure, data, palette)
    figure.update_xaxes(**axis(palette, "Size (MB)", tickformat=",~g", rangemode="tozero", fixedrange=True))
    longest = max(
        sum(column) if stacked else max(column) for column in zip(*data.series.values(), strict=True)
    )
    figure.update_layout(xaxis_range=[0, longest * (1.24 if stacked else 1.12) or 1])
    figure.update_yaxes(**axis(palette, "", lines=False, autorange="reversed", fixedrange=True))
    return figure


def _add_totals(figure: go.Figure, data: SizeBars, palette: Palette) -> None:
    """The sum at the end of each stacked bar, with room for it."""
    totals = [sum(values) for values in zip(*data.series.values(), strict=True)]
    figure.add_trace(
        go.Scatter(
            x=totals,
            y=data.labels,
            mode="text",
            text=[f" {total:,.1f} MB" for total in totals],
            textposition="middle right",
            textfont={"size": 12, "color": palette.text},
            showlegend=False,
            hoverinfo="skip",
            cliponaxis=False,
        )
    )
