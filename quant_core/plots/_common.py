"""What every drawing shares: frame, axes, numbers as text, and the empty figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from quant_core.plots.palette import Palette
from quant_core.schema import ScoreName

FONT = (
    "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', 'DejaVu Sans', sans-serif"
)
TICK_SIZE = 12
TEXT_SIZE = 13
TITLE_SIZE = 16

INTERVAL = 1.96
"""Standard errors on each side of a 95 % interval."""

KL_AXIS = "KL to the original (nats/token)"

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class ScoreText(NamedTuple):
    """How a score is called and counted."""

    title: str
    detail: str
    """How it comes about, and its unit."""
    axis: str
    unit: str
    """Written behind a value; empty where the score has no unit."""


SCORES: dict[ScoreName, ScoreText] = {
    "fisher": ScoreText(
        "Predicted KL", "Fisher score, nats/token", "Predicted KL (nats/token)", "nats/token"
    ),
    "measured": ScoreText(
        "Measured KL", "one layer quantized at a time, nats/token", "Measured KL (nats/token)", "nats/token"
    ),
    "output": ScoreText("Output error", "share of |Wx|²", "Output error (share of |Wx|²)", ""),
    "weight": ScoreText("Weight error", "share of |W|²", "Weight error (share of |W|²)", ""),
}


def number(value: float, digits: int = 3) -> str:
    """A number for people, to ``digits`` significant digits.

    Thousands are separated; what is below 0.0001 or from a billion on is written as a power of ten.
    """
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "–"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4 or exponent >= 9:
        mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        factor = "" if mantissa == "1" else f"{mantissa}×"
        return f"{factor}10{str(int(power)).translate(_SUPERSCRIPT)}".replace("-", "−")
    text = f"{value:,.{max(digits - 1 - exponent, 0)}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "−")


def compact(value: float) -> str:
    """A number to two significant digits where space is short, with ``e`` for powers of ten."""
    if value == 0 or abs(value) >= 1e-4:
        return number(value, 2)
    mantissa, _, power = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(power)}".replace("-", "−")


def quantity(value: float, unit: str, digits: int = 3) -> str:
    """A number with its unit, if it has one."""
    return f"{number(value, digits)} {unit}".rstrip()


def log_ticks(low: float, high: float, most: int = 6) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Two to ``most`` round values from ``low`` to ``high`` (both positive) for a log axis, and their texts.

    The finest of these that fits: 1, 2 and 5 of each decade; 1 and 3; decades; every second decade and so on.
    A span that holds fewer than two of them gets evenly spaced round values.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = range(first, last + 1)
    choices = [[m * 10.0**e for e in decades for m in steps] for steps in ((1, 2, 5), (1, 3))]
    choices += [[10.0**e for e in decades if e % every == 0] for every in range(1, len(decades) + 1)]
    for values in choices:
        inside = [value for value in values if low * 0.999 <= value <= high * 1.001]
        if 2 <= len(inside) <= most:
            break
    else:
        inside = _even_steps(low, high)
    return tuple(inside), tuple(number(value, 3) for value in inside)


def _even_steps(low: float, high: float) -> list[float]:
    """Three or so round values from ``low`` to ``high``; one if they are the same."""
    if high <= low:
        return [low]
    exponent = math.floor(math.log10((high - low) / 2))
    sizes = [m * 10.0**e for e in (exponent + 1, exponent) for m in (5, 2, 1)]
    step = next(size for size in sizes if math.floor(high / size) - math.ceil(low / size) >= 1)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def positive_range(values: Iterable[float]) -> tuple[float, float]:
    """Smallest and largest of the positive values, ``(1, 1)`` if there are none."""
    above = [value for value in values if value > 0 and math.isfinite(value)]
    return (min(above), max(above)) if above else (1.0, 1.0)


def interval_range(
    values: Sequence[float], lows: Sequence[float], highs: Sequence[float]
) -> tuple[float, float]:
    """Positive ends of a log axis that shows values with intervals; a low end far below all values is cut."""
    least, _ = positive_range(values)
    low, high = positive_range([*values, *highs, *(max(end, least / 2) for end in lows)])
    return low, high


def interval(value: float, stderr: float) -> tuple[float, float]:
    """The 95 % interval of a non-negative quantity."""
    return max(value - INTERVAL * stderr, 0.0), value + INTERVAL * stderr


def thinned(count: int, most: int) -> range:
    """Indices of at most about ``most`` of ``count`` labels, in steps of 1, 2, 5, 10, 20, ..."""
    step = 1
    for factor in (2, 5, 10, 20, 50, 100, 200, 500, 1000):
        if count <= most * step:
            break
        step = factor
    return range(0, count, step)


def frame(palette: Palette, title: str, height: int, subtitle: str = "", **layout: Any) -> go.Figure:
    """An empty figure in house style: transparent, readable, with room for its title and subtitle."""
    heading: dict[str, Any] = {
        "text": title,
        "font": {"size": TITLE_SIZE, "color": palette.text, "weight": 600},
        "x": 0,
        "xref": "container",
        "xanchor": "left",
        "pad": {"l": 4, "t": 10},
        "y": 1,
        "yanchor": "top",
    }
    if subtitle:
        font = {"size": TEXT_SIZE, "color": palette.muted, "weight": 400}
        heading["subtitle"] = {"text": subtitle, "font": font}
    return go.Figure(  # all at once: an update costs Plotly five times as much
        layout={
            "template": "none",
            "height": height,
            "title": heading,
            "font": {"family": FONT, "size": TEXT_SIZE, "color": palette.text},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 8, "r": 12, "t": 64 if subtitle else 42, "b": 8, "pad": 2},
            "colorway": palette.categorical,
            "separators": ".,",
            "hoverlabel": {
                "bgcolor": palette.background,
                "bordercolor": palette.grid,
                "font": {"family": FONT, "size": TEXT_SIZE, "color": palette.text},
                "align": "left",
            },
            "showlegend": False,
            "dragmode": False,
            "modebar": {
                "bgcolor": "rgba(0,0,0,0)",
                "color": palette.muted,
                "activecolor": palette.accent,
            },
            **layout,
        }
    )


def axis(palette: Palette, title: str = "", *, lines: bool = True, **more: Any) -> dict[str, Any]:
    """An axis in house style; ``lines`` draws its grid."""
    return {
        "title": {"text": title, "font": {"size": TEXT_SIZE, "color": palette.text}, "standoff": 8},
        "tickfont": {"size": TICK_SIZE, "color": palette.muted},
        "showgrid": lines,
        "gridcolor": palette.grid,
        "gridwidth": 1,
        "zeroline": False,
        "showline": False,
        "ticks": "",
        "automargin": True,
        **more,
    }


def log_axis(
    palette: Palette, title: str, low: float, high: float, most: int = 6, **more: Any
) -> dict[str, Any]:
    """A log axis a little wider than ``low`` to ``high``, with at most ``most`` ticks written out."""
    room = max(math.log10(high / low) * 0.06, 0.04)
    values, texts = log_ticks(low / 10**room, high * 10**room, most)
    limits = [math.log10(low) - room, math.log10(high) + room]
    return axis(palette, title, type="log", range=limits, tickvals=values, ticktext=texts, **more)


def add_legend(figure: go.Figure) -> None:
    """A legend between the title and the data; Plotly makes room below it, on a narrow screen too."""
    top = figure.layout.margin.t - 2
    figure.update_layout(
        showlegend=True,
        legend={
            "orientation": "h",
            "traceorder": "normal",
            "xref": "container",
            "x": 0,
            "xanchor": "left",
            "yref": "container",
            "y": 1 - top / figure.layout.height,
            "yanchor": "top",
            "font": {"size": TICK_SIZE},
            "bgcolor": "rgba(0,0,0,0)",
            "itemsizing": "constant",
        },
    )


def empty_figure(palette: Palette, title: str, sentence: str, height: int = 220) -> go.Figure:
    """A titled figure with a sentence where the data would be."""
    figure = frame(palette, title, height)
    figure.update_xaxes(visible=False, fixedrange=True)
    figure.update_yaxes(visible=False, fixedrange=True)
    figure.add_annotation(
        text="<br>".join(wrapped(sentence)),
        x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False,
        font={"size": TEXT_SIZE + 1, "color": palette.muted},
    )  # fmt: skip
    return figure


def wrapped(sentence: str, width: int = 44) -> list[str]:
    """Lines of at most ``width`` letters; Plotly does not break lines itself."""
    lines = [""]
    for word in sentence.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def hover(*lines: str) -> str:
    """A hover text of several lines, the first in bold."""
    first, *rest = lines
    return "<br>".join([f"<b>{first}</b>", *(line for line in rest if line)])


def error_bars(
    values: Sequence[float], lows: Sequence[float], highs: Sequence[float], floor: float, colour: str
) -> dict[str, Any]:
    """Plotly's asymmetric error bars from interval ends; ``floor`` keeps them drawable on a log axis."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, high in zip(values, highs, strict=True)],
        "arrayminus": [value - max(low, floor) for value, low in zip(values, lows, strict=True)],
        "color": colour,
        "thickness": 1.5,
        "width": 3,
    }
