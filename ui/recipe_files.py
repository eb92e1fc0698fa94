"""Recipes in and out of the page: keep one under a link, or go on with one from a file."""

from __future__ import annotations

import streamlit as st

from quant_core.errors import QuantError
from quant_core.schema import ModelInfo, Recipe, ScoreTable
from ui import recipe_draft as drafts
from ui.jobs import show_error, workspace
from ui.widgets import say

MAX_BYTES = 5_000_000


def keep_and_load(info: ModelInfo, table: ScoreTable) -> None:
    """Two buttons: save the draft (its id goes into the address), and load a recipe's file."""
    st.button(
        "Save", icon=":material/bookmark:", key="save", on_click=_save, args=(info, table),
        help="Keeps the recipe here; the page's address then names it.",
    )  # fmt: skip
    with st.popover("Load", icon=":material/upload_file:"):
        st.file_uploader(
            "A recipe file (JSON or YAML)", type=["json", "yaml", "yml"], key="recipe:file", on_change=_load,
            args=(info,),
        )  # fmt: skip
        failure = st.session_state.get("recipe:failure")
        if isinstance(failure, QuantError):
            show_error(failure)


def _save(info: ModelInfo, table: ScoreTable) -> None:
    drafts.save(info, table)
    say("Saved. The address of this page now names the recipe.", ":material/bookmark_added:")


def _load(info: ModelInfo) -> None:
    file = st.session_state.get("recipe:file")
    st.session_state.pop("recipe:failure", None)
    if file is None:
        return
    try:
        drafts.adopt(info, read(file.name, file.getvalue(), info))
    except QuantError as error:
        st.session_state["recipe:failure"] = error
    else:
        say(f"Loaded {file.name}.", ":material/check_circle:")


def read(name: str, data: bytes, info: ModelInfo) -> Recipe:
    """The recipe in an uploaded file.

    Raises:
        QuantError: It is too large, no text, malformed, or of another model.
    """
    if len(data) > MAX_BYTES:
        raise QuantError(f"{name} is larger than any recipe.", "Choose a recipe that QuantLens wrote.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise QuantError(f"{name} is no text file.", "Choose a recipe in JSON or YAML.") from None
    loaded = workspace().result(workspace().inspect_request(info.ref))
    return workspace().read_recipe(text, loaded or info)
