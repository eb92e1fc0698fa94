"""Colours and charts in the theme that the reader's browser shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import plotly.graph_objects as go
import streamlit as st

from quant_core.plots import figure_csv, figure_page
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
    """Show a figure in full width, with a way to save it; ``alt`` says in words what it shows; ``options`` go to
    ``st.plotly_chart``.
    """
    name = "quantlens-" + re.sub(r"\W+", "-", key).strip("-")
    config = {**CONFIG, "toImageButtonOptions": {"format": "svg", "filename": name}}
    figure.layout.paper_bgcolor = palette().background  # a saved drawing is readable on any page
    with st.container(key=f"chart-{key}", gap=None):
        shown = st.plotly_chart(
            figure,
            width="stretch",
            theme=None,
            key=key,
            alt=alt,
            config={**config, **options.pop("config", {})},
            **options,
        )
        if figure.data:
            _save_menu(figure, key, name, alt)
    return shown


def _save_menu(figure: go.Figure, key: str, name: str, alt: str) -> None:
    """The figure as files; they are made when they are asked for, since a page of its own takes 5 MB."""
    colours = palette()
    kinds: tuple[tuple[str, str, str, Callable[[], str], str], ...] = (
        ("Numbers (CSV)", "csv", "text/csv", lambda: figure_csv(figure), "All numbers of the chart as a table."),
        ("Page (HTML)", "html", "text/html", lambda: figure_page(figure, colours, alt),
         "The chart as it is here, to zoom and point at, in one file of 5 MB that needs no network."),
    )  # fmt: skip
    with (
        st.container(horizontal=True, horizontal_alignment="right"),
        st.popover("Save", icon=":material/download:", type="tertiary", key=f"save-{key}"),
    ):
        for label, ending, kind, make, help_text in kinds:
            st.download_button(
                label, make, f"{name}.{ending}", kind, key=f"save-{ending}-{key}", on_click="ignore", help=help_text,
                width="stretch",
            )  # fmt: skip
        st.caption("Drawing (SVG): the camera in the chart's upper right corner, or in the saved page.")
