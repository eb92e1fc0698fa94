"""Do two scores agree on which layers matter? One against the other, with Spearman's rank correlation."""

from __future__ import annotations

from typing import NamedTuple

import plotly.graph_objects as go

from quant_core.plots._common import (
    SCORES,
    add_legend,
    empty_figure,
    frame,
    hover,
    log_axis,
    number,
    positive_range,
    quantity,
)
from quant_core.plots.palette import Palette
from quant_core.plots.saving import exactly
from quant_core.plots.sensitivity import score_column
from quant_core.schema import ModelInfo, ScoreName, ScoreTable


class ScoreAgreement(NamedTuple):
    """Two scores of the same units in the same format; ``rank`` is Spearman's, None below three units.

    Points at or below zero cannot lie on a log axis: they count in ``rank`` and in ``left_out``, and are not
    drawn.
    """

    format: str
    across: ScoreName
    up: ScoreName
    units: tuple[str, ...]
    roles: tuple[str, ...]
    x: tuple[float, ...]
    y: tuple[float, ...]
    rank: float | None
    left_out: int


def score_agreement(
    model: ModelInfo,
    across_table: ScoreTable,
    up_table: ScoreTable,
    format_name: str,
    across: ScoreName,
    up: ScoreName,
) -> ScoreAgreement:
    """``across`` against ``up`` over the units both tables hold (the two may be one table)."""
    first, second = score_column(across_table, format_name, across), score_column(up_table, format_name, up)
    shared = [unit for unit in model.units if unit.name in first and unit.name in second]
    drawn = [unit for unit in shared if first[unit.name] > 0 and second[unit.name] > 0]
    return ScoreAgreement(
        format=format_name,
        across=across,
        up=up,
        units=tuple(unit.name for unit in drawn),
        roles=tuple(unit.role for unit in drawn),
        x=tuple(first[unit.name] for unit in drawn),
        y=tuple(second[unit.name] for unit in drawn),
        rank=rank_correlation([first[unit.name] for unit in shared], [second[unit.name] for unit in shared]),
        left_out=len(shared) - len(drawn),
    )


def rank_correlation(first: list[float], second: list[float]) -> float | None:
    """Spearman's rank correlation, -1 to 1; None for fewer than three pairs or where one side is constant."""
    if len(first) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def draw_score_agreement(data: ScoreAgreement, palette: Palette, selected: str = "") -> go.Figure:
    """A point a unit, coloured by role, on two log axes; clicks return the unit's name."""
    across, up = SCORES[data.across], SCORES[data.up]
    title = f"{up.title} against {across.title[0].lower()}{across.title[1:]}"
    if not data.units:
        return empty_figure(palette, title, "No layer has both scores in this format yet.")
    rank = (
        ""
        if data.rank is None
        else f"Spearman rank correlation {data.rank:.3f} over {len(data.units) + data.left_out} layers"
    )
    roles = list(dict.fromkeys(data.roles))
    figure = frame(palette, title, 440, rank)
    add_legend(figure)
    for index, role in enumerate(roles):
        places = [place for place, value in enumerate(data.roles) if value == role]
        figure.add_trace(
            go.Scatter(
                x=[data.x[place] for place in places],
                y=[data.y[place] for place in places],
                name=role,
                mode="markers",
                marker={
                    "size": 9,
                    "color": palette.categorical[index % 10],
                    "symbol": ("circle", "diamond", "square", "cross")[index // 10 % 4],
                    "line": {
                        "width": [3 if data.units[place] == selected else 0 for place in places],
                        "color": palette.text,
                    },
                },
                selected={"marker": {"opacity": 1}},
                unselected={"marker": {"opacity": 1}},
                customdata=[[data.units[place]] for place in places],
                text=[
                    hover(
                        data.units[place],
                        f"{across.title}: {quantity(data.x[place], across.unit)}",
                        f"{up.title}: {quantity(data.y[place], up.unit)}",
                    )
                    for place in places
                ],
                hovertemplate="%{text}<extra></extra>",
                meta=exactly(
                    {
                        "Layer": [data.units[place] for place in places],
                        across.axis: [data.x[place] for place in places],
                        up.axis: [data.y[place] for place in places],
                    }
                ),
            )
        )
    if across.unit and across.unit == up.unit:
        _add_diagonal(figure, data, palette)
    figure.update_xaxes(**log_axis(palette, across.axis, *positive_range(data.x)))
    figure.update_yaxes(**log_axis(palette, up.axis, *positive_range(data.y)))
    figure.update_layout(clickmode="event+select", hovermode="closest")
    return figure


def _add_diagonal(figure: go.Figure, data: ScoreAgreement, palette: Palette) -> None:
    """The line on which both scores are equal, where they share a unit."""
    low, high = positive_range((*data.x, *data.y))
    figure.add_shape(
        type="line", x0=low, x1=high, y0=low, y1=high, layer="below",
        line={"color": palette.muted, "width": 1, "dash": "dot"},
    )  # fmt: skip


def rank_text(data: ScoreAgreement) -> str:
    """The correlation in words for a caption, with what was left out of the drawing."""
    if data.rank is None:
        return "A rank correlation needs three layers or more."
    left = f" {data.left_out} of them at or below zero are not drawn." if data.left_out else ""
    return (
        f"Spearman rank correlation {number(data.rank)} over {len(data.units) + data.left_out} layers.{left}"
    )
