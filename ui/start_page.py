"""The start page: the ways to a model, what to do with the one that is open, and those of before."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from quant_core.errors import QuantError
from quant_core.schema import ModelInfo, ModelRef
from ui import entry, folder_card, hub_card, state, words
from ui.jobs import show_error, workspace
from ui.opening import how, open_button, opening, wanted
from ui.widgets import open_model


def cards() -> None:
    """One card a way to a model; opening one is told below them."""
    bundled, folder, hub = st.columns(3, gap="medium")
    with bundled, _card(":material/auto_stories: The bundled model"):
        st.markdown(
            "A small Llama that writes children's stories: 18.9 million parameters. It comes with QuantLens and needs "
            "no network; every step takes seconds to minutes."
        )
        open_button(ModelRef("bundled"), "Open the bundled model", "picker:open-bundled")
    with folder, _card(":material/folder_open: A folder"):
        folder_card.card()
    with hub, _card(":material/cloud_download: The Hugging Face hub"):
        hub_card.card()
    how()
    with st.container(border=True, horizontal=True, vertical_alignment="center", key="start:checkpoint"):
        st.markdown(
            ":material/inventory_2: **A model that somebody quantized**: GPTQ, AWQ, compressed-tensors, bitsandbytes "
            "or GGUF. What each layer holds, in how many bits, and how far it is from the original's."
        )
        entry.link("checkpoint", "Look into a quantized checkpoint")
    opening()


def _card(title: str) -> DeltaGenerator:
    box = st.container(border=True, height="stretch")
    box.markdown(f"#### {title}")
    return box


def at_hand() -> ModelInfo | None:
    """The model that is open, if it has been opened here; one that a link names is opened."""
    ref = state.model_ref()
    try:
        found = workspace().result(workspace().inspect_request(ref))
    except QuantError as error:
        show_error(error)
        return None
    return found if found is not None or ref.source == "bundled" else open_model(ref)


def first_step() -> None:
    """What opening a model brings, and what a recipe is."""
    if wanted():
        return
    st.info(
        "Open a model above. Then see which layers need many bits, read what few bits do to its text, or have one "
        "button find its best recipe, a number format for every layer, for a size, this machine or a GPU. The recipe "
        "is measured against others before it is recommended.",
        icon=":material/lightbulb:",
    )


def opened(info: ModelInfo) -> None:
    """Which model is open, and what can be asked of it."""
    st.markdown(
        f":material/check_circle: **{info.title}** is open · {words.count(info.parameters)} parameters · "
        f"{words.size(info.original_bits / 8)}"
    )
    with st.container(horizontal=True):
        entry.link("model", "Look at the model")
        entry.link("sensitivity", "Find the layers that need many bits")
        entry.link("compare", "Read what few bits do to its text")
        entry.link("recipe", "Make a recipe by hand")
