"""Model: which one, what it is, and what it weighs at each precision."""

import streamlit as st

from ui.architecture import architecture
from ui.entry import ensure_entry, link
from ui.model_view import layers, memory_view, overview
from ui.widgets import try_header

ensure_entry("model")
info = try_header("Model", "What the model is, and what it weighs at each precision.")

if info is not None:
    overview(info)
    with st.container(horizontal=True):
        link("weights", "Look at its weights")
        link("sensitivity", "Find its sensitive layers")
        link("recipe", "Make a recipe")
        link("start", "Open another model")
    st.subheader("Architecture", anchor=False)
    architecture(info)
    memory_view(info)
    st.subheader("Layers", anchor=False)
    layers(info)
else:
    link("start", "Open another model")
