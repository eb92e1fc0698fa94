"""Two continuations of one prompt, token by token, with the place where they part marked."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import streamlit as st

from quant_core.plots.palette import Palette, blend
from quant_core.schema import Generation, TokenEvent
from ui import theme


class Sides(NamedTuple):
    """Tokens so far of the original and the recipe."""

    original: tuple[str, ...] = ()
    recipe: tuple[str, ...] = ()

    @property
    def divergence(self) -> int:
        """Index of the first token that differs, -1 while none does."""
        pairs = zip(self.original, self.recipe, strict=False)
        return next((index for index, (left, right) in enumerate(pairs) if left != right), -1)


def from_events(events: Sequence[TokenEvent]) -> Sides:
    """The tokens that a running generation has streamed."""
    ordered = sorted(events, key=lambda event: event.index)
    return Sides(
        tuple(event.text for event in ordered if event.side == "original"),
        tuple(event.text for event in ordered if event.side == "recipe"),
    )


def from_result(result: Generation) -> Sides:
    """The tokens of a finished generation."""
    return Sides(result.original, result.recipe)


def show(prompt: str, sides: Sides, recipe_title: str, writing: bool) -> None:
    """Both texts side by side (below each other when narrow), and what the colours say."""
    palette = theme.palette()
    if not recipe_title:
        _panel("Original", prompt, sides.original, -1, palette, writing)
        return
    left, right = st.columns(2)
    with left:
        _panel("Original", prompt, sides.original, sides.divergence, palette, writing)
    with right:
        _panel(recipe_title, prompt, sides.recipe, sides.divergence, palette, writing)
    _legend(sides, palette, writing)


def _panel(
    title: str, prompt: str, tokens: Sequence[str], divergence: int, palette: Palette, writing: bool
) -> None:
    with st.container(border=True):
        st.markdown(f"**{title}**")
        st.html(text_html(prompt, tokens, divergence, palette, writing))


def text_html(
    prompt: str, tokens: Sequence[str], divergence: int, palette: Palette, writing: bool = False
) -> str:
    """A continuation as HTML: prompt muted, first differing token boxed, what follows it tinted; all escaped."""
    same = tokens if divergence < 0 else tokens[:divergence]
    parts = [f'<span style="color:{palette.muted}">{escape(prompt)}</span>', escape("".join(same))]
    if 0 <= divergence < len(tokens):
        token, rest = tokens[divergence], "".join(tokens[divergence + 1 :])
        first = token.lstrip() or token
        parts.append(escape(token.removesuffix(first)))
        parts.append(f'<mark class="first" style="{_first(palette)}">{escape(first)}</mark>')
        parts.append(f'<mark class="after" style="{_after(palette)}">{escape(rest)}</mark>')
    cursor = f'<span style="color:{palette.accent}">▌</span>' if writing else ""
    return (
        '<div class="continuation" style="white-space:pre-wrap;line-height:1.65;min-height:9rem;'
        f'overflow-wrap:anywhere">{"".join(parts)}{cursor}</div>'
    )


def _first(palette: Palette) -> str:
    tint = blend(palette.background, palette.categorical[1], 0.45)
    return (
        f"background:{tint};color:{palette.text};border-radius:3px;outline:2px solid {palette.categorical[1]}"
    )


def _after(palette: Palette) -> str:
    tint = blend(palette.background, palette.categorical[1], 0.18)
    return f"background:{tint};color:{palette.text}"


def _legend(sides: Sides, palette: Palette, writing: bool) -> None:
    if sides.divergence >= 0:
        st.html(
            f'<small style="color:{palette.muted}">Token {sides.divergence + 1} is the '
            f'<mark style="{_first(palette)}">&nbsp;first that differs&nbsp;</mark>; from there each text follows its '
            f'<mark style="{_after(palette)}">&nbsp;own words&nbsp;</mark>. '
            "Both sides draw with the same random numbers, so until then they agree word for word.</small>"
        )
    elif sides.original and not writing:
        st.caption("Both texts are the same, token for token.")
