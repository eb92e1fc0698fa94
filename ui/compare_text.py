"""Continuations of one prompt, token by token, with the place where each parts from the original marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import streamlit as st

from quant_core.plots.palette import Palette, blend
from quant_core.schema import Generation, Side, TokenEvent, TokenReading
from ui import compare_tokens, theme

SAME_DRAWS = "All sides draw with the same random numbers, so until then they agree word for word."


class Sides(NamedTuple):
    """Tokens so far of the original, the recipe, and another recipe."""

    original: tuple[str, ...] = ()
    recipe: tuple[str, ...] = ()
    other: tuple[str, ...] = ()

    def tokens(self, side: Side) -> tuple[str, ...]:
        """What a side has written."""
        return {"original": self.original, "recipe": self.recipe, "other": self.other}[side]

    def divergence(self, side: Side) -> int:
        """Index of the first token in which a side differs from the original, -1 while none does.

        Of the original it is the first in which any side differs from it.
        """
        if side == "original":
            both = self.divergence("recipe"), self.divergence("other")
            return min((index for index in both if index >= 0), default=-1)
        pairs = zip(self.original, self.tokens(side), strict=False)
        return next((index for index, (left, right) in enumerate(pairs) if left != right), -1)


def from_events(events: Sequence[TokenEvent]) -> Sides:
    """The tokens that a running generation has streamed."""
    ordered = sorted(events, key=lambda event: event.index)
    return Sides(
        tuple(event.text for event in ordered if event.side == "original"),
        tuple(event.text for event in ordered if event.side == "recipe"),
        tuple(event.text for event in ordered if event.side == "other"),
    )


def from_result(result: Generation) -> Sides:
    """The tokens of a finished generation."""
    return Sides(result.original, result.recipe, result.other)


def show(
    prompt: str,
    sides: Sides,
    titles: Mapping[Side, str],
    writing: bool,
    readings: Mapping[Side, TokenReading] | None = None,
    draws: str = SAME_DRAWS,
) -> None:
    """The texts side by side (below one another when narrow), and what the colours say.

    Args:
        prompt: What all of them go on from.
        sides: What they have written.
        titles: What to call each side that writes, from left to right.
        writing: Whether they still write.
        readings: What was measured of the tokens of those that have ended.
        draws: How the sides choose their tokens, a sentence.
    """
    palette = theme.palette()
    colour = compare_tokens.COLOUR.get() if readings or writing else "difference"
    for column, (side, title) in zip(st.columns(len(titles)), titles.items(), strict=True):
        with column.container(border=True):
            st.markdown(f"**{title}**")
            tokens, place = sides.tokens(side), sides.divergence(side)
            if readings and side in readings and colour != "difference":
                spans = compare_tokens.spans(tokens, readings[side], colour, place, palette)
                st.html(_continuation(prompt, spans, palette))
            else:
                st.html(text_html(prompt, tokens, place, palette, writing and side not in (readings or {})))
    if colour != "difference":
        st.html(compare_tokens.legend(colour, palette))
    elif len(titles) > 1:
        _legend(sides, titles, palette, writing, draws)


def text_html(
    prompt: str, tokens: Sequence[str], divergence: int, palette: Palette, writing: bool = False
) -> str:
    """A continuation as HTML: prompt muted, first differing token boxed, what follows it tinted; all escaped."""
    same = tokens if divergence < 0 else tokens[:divergence]
    parts = [escape("".join(same))]
    if 0 <= divergence < len(tokens):
        token, rest = tokens[divergence], "".join(tokens[divergence + 1 :])
        first = token.lstrip() or token
        parts.append(escape(token.removesuffix(first)))
        parts.append(f'<mark class="first" style="{_first(palette)}">{escape(first)}</mark>')
        parts.append(f'<mark class="after" style="{_after(palette)}">{escape(rest)}</mark>')
    cursor = f'<span style="color:{palette.accent}">▌</span>' if writing else ""
    return _continuation(prompt, "".join(parts) + cursor, palette)


def _continuation(prompt: str, html: str, palette: Palette) -> str:
    return (
        '<div class="continuation" style="white-space:pre-wrap;line-height:1.65;min-height:9rem;'
        f'overflow-wrap:anywhere"><span style="color:{palette.muted}">{escape(prompt)}</span>{html}</div>'
    )


def _first(palette: Palette) -> str:
    tint = blend(palette.background, palette.categorical[1], 0.45)
    return (
        f"background:{tint};color:{palette.text};border-radius:3px;outline:2px solid {palette.categorical[1]}"
    )


def _after(palette: Palette) -> str:
    tint = blend(palette.background, palette.categorical[1], 0.18)
    return f"background:{tint};color:{palette.text}"


def _legend(sides: Sides, titles: Mapping[Side, str], palette: Palette, writing: bool, draws: str) -> None:
    parted = {side: sides.divergence(side) for side in titles if side != "original"}
    if max(parted.values()) >= 0:
        places = "; ".join(
            f"{escape(titles[side])}: token {place + 1}" if place >= 0 else f"{escape(titles[side])}: none"
            for side, place in parted.items()
        )
        st.html(
            f'<small style="color:{palette.muted}">The '
            f'<mark style="{_first(palette)}">&nbsp;first token that differs&nbsp;</mark> from the original '
            f"({places}); from there each text follows its "
            f'<mark style="{_after(palette)}">&nbsp;own words&nbsp;</mark>. '
            f"{escape(draws)}</small>"
        )
    elif sides.original and not writing:
        st.caption("All texts are the same, token for token.")
