"""Colours and charts in the theme that the reader's browser shows."""

from __future__ import annotations

from typing import Any, Literal

import plotly.graph_objects as go
import streamlit as st

from quant_core.plots.palette import Palette

Mode = Literal["light", "dark"]

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
    "toImageButtonOptions": {"format": "svg", "filename": "quantlens"},
}
"""Plotly's settings for every chart: the camera saves a vector drawing."""

_SELECTED = (
    "[data-testid=stButtonGroup] button[data-selected=true]",
    "[data-testid=stTab][aria-selected=true]",
    "[data-testid=stSliderThumbValue]",
)


def mode() -> Mode:
    """Light or dark, as the browser shows the page now."""
    return "dark" if st.context.theme.type == "dark" else "light"


def palette() -> Palette:
    """The plots' colours in the reader's theme, from ``.streamlit/config.toml``."""
    return _palette(mode())


@st.cache_resource
def _palette(mode: Mode) -> Palette:
    def option(name: str) -> Any:
        return st.get_option(f"theme.{mode}.{name}")

    return Palette(
        categorical=tuple(option("chartCategoricalColors")),
        sequential=tuple(option("chartSequentialColors")),
        diverging=tuple(option("chartDivergingColors")),
        text=option("textColor"),
        grid=option("borderColor"),
        background=option("backgroundColor"),
        accent=option("primaryColor"),
    )


def mend() -> None:
    """Raise the contrast of what Streamlit writes too quietly to be read by everybody (WCAG 2.2, 1.4.3: 4.5 to 1).

    Captions are see-through as a whole, on white down to 4.2, their code and links to 3.0: here only plain words are.
    What is selected is written in the primary colour, which must also carry white text: it gets the colour of links,
    brighter in the dark.
    """
    light, dark = (st.get_option(f"theme.{mode}.linkColor") for mode in ("light", "dark"))
    st.html(
        "<style>[data-testid=stCaptionContainer] {opacity: 1 !important} "
        "[data-testid=stCaptionContainer] :is(p, li) {color: color-mix(in srgb, currentColor 75%, transparent)} "
        f"{', '.join(_SELECTED)} {{color: light-dark({light}, {dark}) !important}}</style>"
    )


def chart(figure: go.Figure, key: str, alt: str, **options: Any) -> Any:
    """Show a figure in full width; ``alt`` says in words what it shows; ``options`` go to
    ``st.plotly_chart``.
    """
    config = {**CONFIG, "toImageButtonOptions": {"format": "svg", "filename": f"quantlens-{key}"}}
    return st.plotly_chart(
        figure,
        width="stretch",
        theme=None,
        key=key,
        alt=alt,
        config={**config, **options.pop("config", {})},
        **options,
    )
