"""Tokens coloured by what was measured at each: steps of a scale, their legend, and the same numbers as a table."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from quant_core.plots.palette import Palette, readable_on
from quant_core.schema import Side, TokenReading
from ui import state, words

COLOUR = state.choice_param("colour", "the colouring", ("difference", "kl", "probability"))
_TITLES = {"difference": "First difference", "kl": "KL to the original", "probability": "Probability"}


class Scale(NamedTuple):
    """Steps of a scale from pale to strong."""

    edges: tuple[float, ...]
    """Where one step ends and the next begins, rising."""
    labels: tuple[str, ...]
    """What to call each step, one more than there are edges."""
    sentence: str
    falling: bool = False
    """Whether small values are the strong ones."""

    def step(self, value: float) -> int:
        """The step of a value, 0 for the palest."""
        place = bisect_right(self.edges, value)
        return len(self.edges) - place if self.falling else place


SCALES = {
    "kl": Scale(
        (0.001, 0.01, 0.1, 1.0),
        ("under 0.001", "0.001 to 0.01", "0.01 to 0.1", "0.1 to 1", "1 nat and more"),
        "KL divergence in nats of what a side predicted for the place from what the original predicts there after "
        "the same words, the side's own; the original's is 0. Measured on the texts above.",
    ),
    "probability": Scale(
        (0.01, 0.05, 0.2, 0.5),
        ("50 % and more", "20 to 50 %", "5 to 20 %", "1 to 5 %", "under 1 %"),
        "The probability that a side gave the token it wrote, at temperature 1 and over the whole vocabulary. "
        "Measured on the texts above.",
        falling=True,
    ),
}  # fmt: skip


def picker() -> None:
    """The choice of what the colours say."""
    st.segmented_control(
        "Colour the tokens by", **COLOUR.choice(list(_TITLES)), required=True, format_func=_TITLES.__getitem__
    )


def values(reading: TokenReading, colour: str) -> tuple[float, ...]:
    """The numbers of a side's tokens that a colouring shows."""
    return reading.kl if colour == "kl" else reading.probability


def spans(
    tokens: Sequence[str], reading: TokenReading, colour: str, divergence: int, palette: Palette
) -> str:
    """Tokens as HTML, each on the colour of its step, with its numbers on hover; the first that differs is boxed."""
    scale, shown = SCALES[colour], values(reading, colour)
    parts = []
    for index, (token, value) in enumerate(zip(tokens, shown, strict=True)):
        kl, chance = words.significant(reading.kl[index]), words.share(reading.probability[index])
        box = f";outline:2px solid {palette.categorical[1]}" if index == divergence else ""
        style = _fill(scale.step(value), palette) + box
        title = f"KL {kl} nats · probability {chance}"
        parts.append(f'<span class="token" title="{title}" style="{style}">{escape(token)}</span>')
    return "".join(parts)


def legend(colour: str, palette: Palette) -> str:
    """The steps of a scale as HTML, and a sentence on what is measured."""
    scale = SCALES[colour]
    steps = " ".join(
        f'<span style="{_fill(step, palette)};padding:0 .4em;border:1px solid {palette.grid};white-space:nowrap">'
        f"{label}</span>"
        for step, label in enumerate(scale.labels)
    )
    box = f'<span style="outline:2px solid {palette.categorical[1]}">&nbsp;framed&nbsp;</span>'
    return (
        f'<small style="color:{palette.muted};line-height:2">{steps}<br>{scale.sentence} '
        f"The first token that differs is {box}.</small>"
    )


def colours(palette: Palette) -> tuple[str, ...]:
    """A colour a step; the palest is the background, so that what stands out is what matters.

    Neighbours differ in lightness, which every reader sees.
    """
    return (palette.background, *palette.ramp(8)[1::2])


def _fill(step: int, palette: Palette) -> str:
    if step == 0:
        return f"color:{palette.text}"
    colour = colours(palette)[step]
    return f"background:{colour};color:{readable_on(colour)}"


def table(
    tokens: Mapping[Side, Sequence[str]], readings: Mapping[Side, TokenReading], titles: Mapping[Side, str]
) -> pd.DataFrame:
    """Every token of every side with its probability (%) and its KL divergence (nats); a row a place."""
    columns: dict[str, pd.Series[Any]] = {}
    for side, title in titles.items():
        columns[title] = pd.Series(tokens[side], dtype=object)
        columns[f"{title}: probability (%)"] = pd.Series(
            [100 * chance for chance in readings[side].probability]
        )
        if side != "original":
            columns[f"{title}: KL (nats)"] = pd.Series(readings[side].kl)
    frame = pd.DataFrame(columns)
    return frame.set_index(pd.RangeIndex(1, len(frame) + 1, name="Token"))


def column_config(frame: pd.DataFrame) -> dict[str, Any]:
    """How ``table``'s numbers are written: shares with two decimals, divergences with five."""
    written = {"(%)": "%.2f", "(nats)": "%.5f"}
    return {
        name: st.column_config.NumberColumn(format=form)
        for name in frame.columns
        for end, form in written.items()
        if name.endswith(end)
    }
