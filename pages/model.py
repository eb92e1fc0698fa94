"""Model: which one, what it is, and what it weighs at each precision."""

import streamlit as st

from ui.entry import ensure_entry, link
from ui.model_picker import picker
from ui.model_view import layers, memory_view, overview, sizes
from ui.widgets import try_header

ensure_entry("model")
info = try_header("Model", "Choose a language model; everything else starts from here.")

if info is not None:
    overview(info)
    with st.container(horizontal=True):
        link("weights", "Look at its weights")
        link("sensitivity", "Find its sensitive layers")
        link("recipe", "Make a recipe")

with st.expander("Open another model", icon=":material/folder_open:", expanded=info is None, key="picker"):
    picker()

if info is not None:
    memory, roles = st.columns([3, 2], gap="large")
    with memory:
        st.subheader("Memory at each precision", anchor=False)
        memory_view(info)
    with roles:
        st.subheader("Where the bytes are", anchor=False)
        sizes(info)
    st.subheader("Layers", anchor=False)
    layers(info)
