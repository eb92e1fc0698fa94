"""The recipe in the words of tools that quantize by themselves: which can be told it, and their files."""

from __future__ import annotations

import streamlit as st

from quant_core.recipes.foreign import DIALECTS
from quant_core.schema import ModelInfo, Recipe
from ui import state
from ui.export_files import in_the_way

TOOL = state.choice_param("tool", "the tool", tuple(DIALECTS))


def panel(info: ModelInfo, recipe: Recipe) -> None:
    """A tool to choose; its file, or what it cannot be told."""
    found = {name: tool.problems(info, recipe) for name, tool in DIALECTS.items()}
    st.subheader("Settings for other tools", anchor=False)
    st.caption(
        "These quantize the original by themselves and are told which layer gets what. Scales and rounding are theirs: "
        "what they make measures a little otherwise than what was measured here."
    )
    st.pills(
        "Tool", **TOOL.choice(list(DIALECTS)), required=True,
        format_func=lambda name: f":material/{'block' if found[name] else 'check'}: {DIALECTS[name].target.title}",
        help="A tick: it can be told this recipe.",
    )  # fmt: skip
    tool = DIALECTS[TOOL.get()]
    if found[TOOL.get()]:
        in_the_way(info, tool.target.title, tool.solve_for, found[TOOL.get()])
        return
    text = tool.text(info, recipe)
    st.download_button(
        f"Download {tool.file}",
        text,
        tool.file,
        key="download:tool",
        icon=":material/download:",
        on_click="ignore",
    )
    for note in (tool.target.help, *tool.target.notes):
        st.caption(f":material/info: {note}")
    inside = st.expander("Look inside", icon=":material/data_object:", on_change="rerun", key="export:tool")
    if inside.open:
        with inside:
            st.code(text, language=None, height=320)
