"""Recipes in and out of the page: keep one under a link, or go on with one from a file."""

from __future__ import annotations

from collections import Counter

import streamlit as st

from quant_core.errors import QuantError
from quant_core.schema import IncomingRecipe, ModelInfo, ScoreTable
from ui import recipe_draft as drafts
from ui import setup
from ui.format_names import format_name
from ui.jobs import show_error, workspace
from ui.widgets import say

MAX_BYTES = 5_000_000
_INCOMING = "recipe:incoming"


def keep_and_load(info: ModelInfo, table: ScoreTable) -> None:
    """Two buttons: save the draft (its id goes into the address), and load a recipe's file."""
    st.button(
        "Save", icon=":material/bookmark:", key="save", on_click=_save, args=(info, table),
        help="Keeps the recipe here; the page's address then names it.",
    )  # fmt: skip
    with st.popover("Load", icon=":material/upload_file:"):
        st.file_uploader(
            "A recipe, or settings for llm-compressor, GPTQModel or llama-quantize",
            type=["json", "yaml", "yml", "txt", "sh"], key="recipe:file", on_change=_load, args=(info,),
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
    st.session_state.pop(_INCOMING, None)
    if file is None:
        return
    try:
        found = read(file.name, file.getvalue(), info)
        drafts.adopt(info, found.recipe)
    except QuantError as error:
        st.session_state["recipe:failure"] = error
    else:
        if found.tool:
            st.session_state[_INCOMING] = found
        say(f"Loaded {file.name}.", ":material/check_circle:")


def understood(info: ModelInfo) -> None:
    """What was understood of another tool's settings that were loaded, and what was not, until it is put away."""
    found = st.session_state.get(_INCOMING)
    if not isinstance(found, IncomingRecipe) or found.recipe.fingerprint != info.fingerprint:
        return
    formats = Counter(found.recipe.assignment().values())
    taken = ", ".join(f"{count} in {format_name(form)}" for form, count in formats.most_common())
    beside = setup.summary(found.recipe.setup)
    with st.container(border=True):
        st.markdown(
            f"**From settings for {found.tool}:** {formats.total()} of {len(found.recipe.units)} weights are "
            f"quantized, {taken}." + (f" Beside them: {beside}." if beside else "")
        )
        if found.notes:
            st.caption("What is not as in the file:")
        for note in found.notes:
            st.text(note)
        st.button("Put away", key="recipe:understood", on_click=st.session_state.pop, args=(_INCOMING, None))


def read(name: str, data: bytes, info: ModelInfo) -> IncomingRecipe:
    """The recipe in an uploaded file, QuantLens' own or what another tool's settings make.

    Raises:
        QuantError: It is too large, no text, malformed, or of another model.
    """
    if len(data) > MAX_BYTES:
        raise QuantError(f"{name} is larger than any recipe.", "Choose a recipe or a tool's settings.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise QuantError(f"{name} is no text file.", "Choose a recipe or a tool's settings.") from None
    loaded = workspace().result(workspace().inspect_request(info.ref))
    return workspace().import_recipe(text, loaded or info)
