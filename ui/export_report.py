"""The report of the recipe, and the card for a hub, to take along."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from quant_core.report import card, compose, to_html, to_markdown
from quant_core.schema import ModelInfo, Recipe
from ui.jobs import workspace


def panel(info: ModelInfo, recipe: Recipe, name: str) -> None:
    """Buttons for files that are made when they are asked for, from what is stored then."""
    st.subheader("Report", anchor=False)
    st.caption(
        "A page to decide by and an appendix to check it: figures with their intervals, every layer, texts, seeds, "
        "hashes, versions and commands. It holds what is stored of this recipe and says what was not measured."
    )
    opened = workspace().result(workspace().inspect_request(info.ref)) or info

    def html() -> str:
        return to_html(compose(workspace().report(opened, recipe)))

    def markdown() -> str:
        return to_markdown(compose(workspace().report(opened, recipe)))

    def readme() -> str:
        return card(workspace().report(opened, recipe))

    kinds: tuple[tuple[str, Callable[[], str], str, str, str], ...] = (
        ("Report (HTML)", html, f"{name}-report.html", "text/html", "One file to read or print, without a network."),
        ("Report (Markdown)", markdown, f"{name}-report.md", "text/markdown", "The same without charts."),
        ("Model card", readme, "README.md", "text/markdown", "For a model hub: front matter and the first page."),
    )  # fmt: skip
    with st.container(horizontal=True):
        for label, make, file, kind, told in kinds:
            st.download_button(
                label, make, file, kind, key=f"download:{label}", icon=":material/download:", on_click="ignore",
                help=told,
            )  # fmt: skip
