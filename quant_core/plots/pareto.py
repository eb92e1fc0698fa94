"""The Pareto front: the smallest predicted KL at every size, and where recipes stand against it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import log10
from typing import Literal, NamedTuple

import numpy as np
import plotly.graph_objects as go

from quant_core.plots._common import (
    KL_AXIS,
    add_legend,
    axis,
    empty_figure,
    error_bars,
    frame,
    hover,
    interval,
    log_axis,
    number,
    positive_range,
)
from quant_core.plots.labels import label_places
from quant_core.plots.palette import Palette
from quant_core.plots.saving import exactly
from quant_core.plots.sensitivity import short_formats
from quant_core.schema import Evaluation, ParetoPoint, Solution

SizeAxis = Literal["bits", "bytes"]
MarkKind = Literal["current", "edited", "uniform", "rule", "measured"]

AXES: dict[SizeAxis, str] = {"bits": "Average bits a decided weight", "bytes": "All weights (MB)"}
MEGABYTE = 1_000_000
MANY_MARKS = 9
"""Up to so many uniform formats are all labelled; of more, only the best."""
MANY_POINTS = 600
"""So many points of the line are drawn at most."""
_MARGIN = 0.12
"""Share of the sizes' span that is left free at either end, for labels."""
_SPACING = 0.08
"""Share of the sizes' span between two labels where there are many."""


class Mark(NamedTuple):
    """A recipe to show beside the front; ``stderr`` is of ``kl``, in nats a token."""

    kind: MarkKind
    label: str
    average_bits: float
    total_bytes: float
    kl: float
    stderr: float = 0.0


class Front(NamedTuple):
    """The front's line (by rising size) and the marks, with sizes in the axis' unit.

    A KL of zero cannot lie on a log axis: such points (the original weights) are left out.
    """

    size_axis: SizeAxis
    sizes: tuple[float, ...]
    kl: tuple[float, ...]
    marks: tuple[Mark, ...]
    mark_sizes: tuple[float, ...]


def mark(kind: MarkKind, label: str, solution: Solution, measured: Evaluation | None = None) -> Mark:
    """A mark for a recipe: its predicted KL, or, if given, its measured one."""
    kl, stderr = solution.predicted_kl, solution.predicted_stderr
    if measured is not None:
        kl, stderr = measured.kl_mean, measured.kl_stderr
    return Mark(kind, label, solution.average_bits, solution.total_bytes, kl, stderr)


def pareto_front(
    points: Sequence[ParetoPoint], marks: Sequence[Mark] = (), size_axis: SizeAxis = "bits"
) -> Front:
    """The points in order of size, of very many some, and the marks that a log axis can show."""
    line = sorted(
        (_size(p.average_bits, p.total_bytes, size_axis), p.predicted_kl)
        for p in some_points(points)
        if p.predicted_kl > 0
    )
    shown = tuple(item for item in marks if item.kl > 0)
    return Front(
        size_axis=size_axis,
        sizes=tuple(size for size, _ in line),
        kl=tuple(kl for _, kl in line),
        marks=shown,
        mark_sizes=tuple(_size(item.average_bits, item.total_bytes, size_axis) for item in shown),
    )


def some_points(points: Sequence[ParetoPoint]) -> Sequence[ParetoPoint]:
    """Points by rising size that draw the same line: of more than ``MANY_POINTS`` the last at each of as many sizes."""
    if len(points) <= MANY_POINTS:
        return points
    sizes = np.array([point.average_bits for point in points])
    wanted = np.linspace(sizes[0], sizes[-1], MANY_POINTS)
    return [points[place] for place in np.unique(np.searchsorted(sizes, wanted, side="right") - 1)]


def _size(average_bits: float, total_bytes: float, size_axis: SizeAxis) -> float:
    return average_bits if size_axis == "bits" else total_bytes / MEGABYTE


class _Style(NamedTuple):
    name: str
    symbol: str
    size: int
    colour: int
    """Index into the categorical colours; -1 is the accent."""


_STYLES: dict[MarkKind, _Style] = {
    "uniform": _Style("one format for all", "square", 9, 1),
    "rule": _Style("by rule", "cross", 11, 4),
    "measured": _Style("measured", "diamond", 11, 2),
    "edited": _Style("this recipe", "triangle-up", 13, 3),
    "current": _Style("this recipe", "circle", 14, -1),
}


def draw_pareto_front(data: Front, palette: Palette, pinned: bool = False) -> go.Figure:
    """Size across, predicted KL up on a log axis; marks with standard errors carry 95 % intervals.

    ``pinned`` says that pins, a target, rules or limits bind the front: a recipe that heeds none may lie below it.
    """
    title = "Predicted KL at each size"
    if not data.sizes and not data.marks:
        return empty_figure(
            palette, title, "Score the layers first; the front is computed from their scores."
        )
    kinds = [kind for kind in _STYLES if any(item.kind == kind for item in data.marks)]
    figure = frame(palette, title, 440)
    add_legend(figure)
    unit = "bits" if data.size_axis == "bits" else "MB"
    if data.sizes:
        figure.add_trace(
            go.Scatter(
                x=data.sizes,
                y=data.kl,
                name="best under these terms" if pinned else "best mixed recipes",
                mode="lines",
                line={"color": palette.categorical[0], "width": 2.5, "shape": "hv"},
                hovertemplate="<b>%{x:,.3f} "
                + unit
                + "</b><br>predicted KL %{y:.3g} nats/token<extra>best</extra>",
            )
        )
    low, _ = positive_range((*data.kl, *(item.kl for item in data.marks)))
    texts = _texts(data.marks)
    places = _label_places(data, texts)
    for kind in kinds:
        _add_marks(figure, data, kind, low / 2, palette, texts, places)
    figure.update_xaxes(**axis(palette, AXES[data.size_axis], tickformat=",~g"))
    low_size, high_size = min((*data.sizes, *data.mark_sizes)), max((*data.sizes, *data.mark_sizes))
    room = _MARGIN * (high_size - low_size or 1.0)
    figure.update_xaxes(range=[low_size - room, high_size + room])
    span = positive_range((*data.kl, *(interval(item.kl, item.stderr)[1] for item in data.marks), low))
    figure.update_yaxes(**log_axis(palette, KL_AXIS, *span))
    figure.update_layout(hovermode="closest")
    return figure


def _add_marks(
    figure: go.Figure,
    data: Front,
    kind: MarkKind,
    floor: float,
    palette: Palette,
    texts: Mapping[Mark, str],
    places: Mapping[Mark, str],
) -> None:
    style = _STYLES[kind]
    colour = palette.accent if style.colour < 0 else palette.categorical[style.colour]
    chosen = [
        (item, size) for item, size in zip(data.marks, data.mark_sizes, strict=True) if item.kind == kind
    ]
    ends = [interval(item.kl, item.stderr) for item, _ in chosen]
    labelled = kind in ("uniform", "rule")
    figure.add_trace(
        go.Scatter(
            x=[size for _, size in chosen],
            y=[item.kl for item, _ in chosen],
            name=style.name,
            mode="markers+text" if labelled else "markers",
            text=[texts.get(item, "") for item, _ in chosen],
            textposition=[places.get(item, "top right") for item, _ in chosen],
            textfont={"size": 12, "color": palette.muted},
            cliponaxis=False,
            marker={
                "symbol": style.symbol, "size": style.size, "color": colour,
                "line": {"width": 2, "color": palette.background},
            },
            error_y=error_bars(
                [item.kl for item, _ in chosen], [e[0] for e in ends], [e[1] for e in ends], floor, colour
            ),
            customdata=[[_mark_text(item, end)] for (item, _), end in zip(chosen, ends, strict=True)],
            hovertemplate="%{customdata[0]}<extra></extra>",
            meta=exactly(
                {
                    AXES[data.size_axis]: [size for _, size in chosen],
                    KL_AXIS: [item.kl for item, _ in chosen],
                    "95 % from": [low for low, _ in ends],
                    "95 % to": [high for _, high in ends],
                    "Recipe": [item.label for item, _ in chosen],
                }
            ),
        )
    )  # fmt: skip


def _texts(marks: Sequence[Mark]) -> dict[Mark, str]:
    """The label of each mark that has one: recipes by rule, and uniform formats."""
    uniform = [item for item in marks if item.kind == "uniform"]
    found = dict(zip(uniform, _labels(uniform), strict=True))
    return found | {item: item.label for item in marks if item.kind == "rule"}


def _labels(items: Sequence[Mark]) -> list[str]:
    """What tells the marks apart; where there are many, the families of those that no other beats in size and KL."""
    texts = short_formats(tuple(item.label for item in items))
    if len(items) <= MANY_MARKS:
        return list(texts)
    order = sorted(range(len(items)), key=lambda place: (items[place].average_bits, items[place].kl))
    room = _SPACING * (items[order[-1]].average_bits - items[order[0]].average_bits)
    found, least, last = [""] * len(items), float("inf"), float("-inf")
    for place in order:
        mark_ = items[place]
        if mark_.kl < least:
            least = mark_.kl
            if mark_.average_bits >= last + room:
                found[place], last = re.sub("[/@].*", "", mark_.label), mark_.average_bits
    return found


def _label_places(data: Front, texts: Mapping[Mark, str]) -> dict[Mark, str]:
    """Where each mark's label stands: what lies in its way are all marks and the front's line."""
    sizes, logs = (
        [*data.sizes, *data.mark_sizes],
        [log10(kl) for kl in (*data.kl, *(m.kl for m in data.marks))],
    )
    left, low = min(sizes), min(logs)
    across, up = (max(sizes) - left) or 1.0, (max(logs) - low) or 1.0
    shares = [
        ((_MARGIN + (x - left) / across) / (1 + 2 * _MARGIN), (_MARGIN + (y - low) / up) / (1 + 2 * _MARGIN))
        for x, y in zip(sizes, logs, strict=True)
    ]
    line, marks = shares[: len(data.sizes)], dict(zip(data.marks, shares[len(data.sizes) :], strict=True))
    labelled = [item for item in data.marks if texts.get(item)]
    others = [share for item, share in marks.items() if item not in labelled]
    found = label_places([marks[m] for m in labelled], [texts[m] for m in labelled], others, line)
    return dict(zip(labelled, found, strict=True))


def _mark_text(item: Mark, ends: tuple[float, float]) -> str:
    return hover(
        item.label,
        f"{item.average_bits:,.3f} bits a weight, {item.total_bytes / MEGABYTE:,.2f} MB",
        f"{'measured' if item.kind == 'measured' else 'predicted'} KL {number(item.kl)} nats/token",
        f"95 %: {number(ends[0])} to {number(ends[1])}" if ends[1] > ends[0] else "",
    )
