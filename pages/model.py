"""Model: which one, what it is, and what it weighs at each precision."""

import streamlit as st

from ui.entry import ensure_entry, link
from ui.model_view import layers, memory_view, overview, sizes
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
    memory, roles = st.columns([3, 2], gap="large")
    with memory:
        st.subheader("Memory at each precision", anchor=False)
        memory_view(info)
    with roles:
        st.subheader("Where the bytes are", anchor=False)
        sizes(info)
    st.subheader("Layers", anchor=False)
    layers(info)
else:
    link("start", "Open another model")
