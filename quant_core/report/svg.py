"""Charts as static SVG: coordinates in, text out; colours come from classes that the page defines for light and dark.

The four kinds are what a report needs; numbers are worked out before they come here.
"""

from __future__ import annotations

from html import escape
from itertools import pairwise
from math import ceil, floor, log10

from quant_core.plots import number
from quant_core.report.document import Bars, CellMap, Chart, Curve, Spans, clean

WIDTH = 720
"""Of every chart, in its own units."""
LEVELS = 6
"""Steps of the scale of colours, few to many bits: classes ``level-0`` to ``level-5``."""
_LABEL = 250
"""Room for labels at the left."""
_ROW = 26
_LETTER = 6.6
"""Mean width of a letter at the font size of the page's charts."""


def drawing(chart: Chart) -> str:
    """The chart as one ``svg`` element, described by its title."""
    match chart:
        case CellMap():
            return _cells(chart)
        case Curve():
            return _curve(chart)
        case Spans():
            return _spans(chart)
        case Bars():
            return _bars(chart)


def level(place: int, count: int) -> int:
    """The step of the scale for the ``place``-th of ``count`` formats, both ends used."""
    return round(place * (LEVELS - 1) / (count - 1)) if count > 1 else LEVELS // 2


def nice(top: float) -> tuple[float, ...]:
    """Ticks from 0 to at least ``top``: 2 to 5 steps of 1, 2, 2.5 or 5 times a power of ten."""
    if top <= 0:
        return 0.0, 1.0
    power = 10.0 ** floor(log10(top))
    step = next(size * power for size in (0.2, 0.25, 0.5, 1, 2, 2.5) if top <= 5 * size * power)
    count = next(count for count in range(2, 6) if top <= count * step * (1 + 1e-9))
    return tuple(step * place for place in range(count + 1))


def _svg(title: str, height: float, parts: list[str], least: int = 0) -> str:
    words = escape(clean(title))
    width = max(WIDTH, least)
    return (
        f'<svg viewBox="0 0 {width} {height:g}" style="min-width:{width * 0.72:.0f}px" role="img" '
        f'aria-label="{words}"><title>{words}</title>{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    chosen = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{chosen}>{escape(clean(text))}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _short(text: str, room: float) -> str:
    """``text`` cut in front, where names of layers are alike."""
    letters = int(room / _LETTER)
    return text if len(text) <= letters else f"…{text[-(letters - 1) :]}"


def _cells(chart: CellMap) -> str:
    left, count = 110, max(len(chart.columns), 1)
    cell = max((WIDTH - left) / count, 12.0)
    steps = {name: level(place, len(chart.names)) for place, name in enumerate(chart.names)}
    parts = []
    for line, (role, row) in enumerate(zip(chart.rows, chart.cells, strict=True)):
        top = line * _ROW
        parts.append(_text(left - 8, top + 17, _short(role, left - 8), "end"))
        for column, name in enumerate(row):
            if not name:
                continue
            step, place = steps[name], left + column * cell
            hint = escape(clean(f"{role}, block {chart.columns[column]}: {name}"))
            parts.append(
                f'<g><title>{hint}</title><rect x="{place:.1f}" y="{top}" width="{cell - 1.5:.1f}" '
                f'height="{_ROW - 1.5}" class="level-{step}"/>'
            )
            if len(name) * _LETTER < cell - 4:
                parts.append(_text(place + cell / 2, top + 17, name, "middle", f"on-{step}"))
            parts.append("</g>")
    bottom = len(chart.rows) * _ROW
    every = max(1, -(-len(chart.columns) * 24 // (WIDTH - left)))
    parts += [
        _text(left + (column + 0.5) * cell, bottom + 14, name, "middle", "quiet")
        for column, name in enumerate(chart.columns)
        if column % every == 0
    ]
    parts.append(_text(left - 8, bottom + 14, "block", "end", "quiet"))
    x, y = float(left), bottom + 30.0
    for name in chart.names:
        wide = 26 + len(name) * _LETTER + 12
        if x + wide > WIDTH:
            x, y = float(left), y + 20
        parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="14" height="14" class="level-{steps[name]}"/>')
        parts.append(_text(x + 20, y + 12, name))
        x += wide
    return _svg(chart.title, y + 22, parts, round(left + count * cell))


def _axis(ticks: tuple[float, ...], left: float, right: float, bottom: float, unit: str) -> list[str]:
    parts = []
    for tick in ticks:
        x = left + (right - left) * tick / ticks[-1]
        parts += [
            _line(x, 0, x, bottom, "grid"),
            _text(x, bottom + 15, number(tick), "middle", "quiet"),
        ]
    return [*parts, _text((left + right) / 2, bottom + 33, unit, "middle", "quiet")]


def _spans(chart: Spans) -> str:
    ticks = nice(max(row.high for row in chart.rows))
    left, right, bottom = _LABEL, WIDTH - 70, len(chart.rows) * _ROW
    parts = _axis(ticks, left, right, bottom, chart.unit)
    for place, row in enumerate(chart.rows):
        y = place * _ROW + _ROW / 2
        low, middle, high = (
            left + (right - left) * value / ticks[-1] for value in (row.low, row.value, row.high)
        )
        parts += [
            _text(left - 10, y + 4, _short(row.label, left - 10), "end"),
            _line(low, y, high, y, "span"),
            f'<circle cx="{middle:.1f}" cy="{y:.1f}" r="4.5" class="mark"/>',
            _text(high + 9, y + 4, number(row.value)),
        ]
    return _svg(chart.title, bottom + 40, parts)


def _bars(chart: Bars) -> str:
    top = max((value for _, value, _ in chart.rows), default=0.0) or 1.0
    left, right = _LABEL, WIDTH - 90
    parts = []
    for place, (label, value, text) in enumerate(chart.rows):
        y, long = place * _ROW, (right - left) * value / top
        parts += [
            _text(left - 10, y + 17, _short(label, left - 10), "end"),
            f'<rect x="{left}" y="{y + 4}" width="{long:.1f}" height="{_ROW - 8}" class="bar"/>',
            _text(left + long + 8, y + 17, text),
        ]
    return _svg(chart.title, len(chart.rows) * _ROW + 6, parts)


def _curve(chart: Curve) -> str:
    """KL on a logarithmic axis; points without any KL cannot lie on it and are left out."""
    points = [(size, kl) for size, kl in chart.points if kl > 0]
    seen = [*points, chart.mark]
    sizes, logs = [size for size, _ in seen], [log10(kl) for _, kl in seen]
    left, right, bottom = 70.0, WIDTH - 20.0, 250.0
    low, high = min(logs) - 0.1, max(logs) + 0.1
    first, span = min(sizes), max(sizes) - min(sizes) or 1.0

    def at(size: float, kl: float) -> tuple[float, float]:
        return (
            left + 10 + (right - left - 20) * (size - first) / span,
            bottom * (high - log10(kl)) / (high - low),
        )

    parts = []
    for power in range(floor(low), floor(high) + 1):
        if low <= power <= high:
            y = bottom * (high - power) / (high - low)
            parts += [
                _line(left, y, right, y, "grid"),
                _text(left - 8, y + 4, number(10.0**power), "end", "quiet"),
            ]
    step = nice(span)[1]
    for place in range(ceil(first / step), floor((first + span) / step) + 1):
        size = place * step
        parts.append(_text(at(size, 10.0**low)[0], bottom + 16, f"{size:.3g}", "middle", "quiet"))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in _thinned(points)))
    x, y = at(*chart.mark)
    anchor = "end" if x > (left + right) / 2 else "start"
    parts += [
        _line(left, bottom, right, bottom, "grid"),
        f'<polyline points="{path}" class="curve"/>',
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" class="mark"/>',
        _text(x + (-10 if anchor == "end" else 10), y - 9, chart.label, anchor),
        _text((left + right) / 2, bottom + 34, "All weights (MB) · KL in nats/token", "middle", "quiet"),
    ]
    return _svg(chart.title, bottom + 42, parts)


def _thinned(points: list[tuple[float, float]], count: int = 300) -> list[tuple[float, float]]:
    """At most about ``count`` of the points, both ends kept."""
    if len(points) <= count:
        return points
    places = [round(place * (len(points) - 1) / (count - 1)) for place in range(count)]
    return [points[0], *(points[after] for before, after in pairwise(places) if after != before)]
