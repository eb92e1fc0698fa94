"""Weights: one layer on a number format's grid, what is clipped, and the error that remains."""

import streamlit as st

from ui import layers
from ui.entry import ensure_entry, link
from ui.format_picker import format_picker
from ui.score_view import layer_cost
from ui.widgets import model_header

ensure_entry("weights")
info = model_header("Weights", "What a number format does to the weights of one layer.")

unit = layers.picker(info)
chosen = format_picker(unit=unit)
st.subheader(f"`{unit.name}`", anchor=False)
view = layers.view(info, unit, chosen)

if view is not None:
    layers.weight_figures(view, unit)
    layers.histograms(view, unit)
    layer_cost(info, unit, chosen)
    with st.container(horizontal=True):
        link("sensitivity", "See what each layer costs")
        link("recipe", "Choose a format for every layer")
