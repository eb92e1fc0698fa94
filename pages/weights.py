"""Weights: a layer or a block on the grids of up to three formats, what is clipped, and the error that remains."""

import streamlit as st

from ui import layers, weight_view
from ui.entry import ensure_entry, link
from ui.format_picker import format_picker
from ui.score_view import layer_cost
from ui.weight_parts import parts
from ui.widgets import model_header

ensure_entry("weights")
info = model_header("Weights", "What number formats do to the weights of a layer or a block.")

unit = layers.picker(info)
chosen = format_picker(unit=unit)
formats = weight_view.also_picker(chosen)
units = weight_view.scope_picker(info, unit)
name = unit.name if len(units) == 1 else f"block {unit.block}, {len(units)} layers"
st.subheader(f"`{name}`" if len(units) == 1 else name.capitalize(), anchor=False)
view = weight_view.view(info, units, formats)

if view is not None:
    weight_view.weight_figures(view)
    weight_view.format_table(view, units)
    weight_view.histograms(view, name)
    layer_cost(info, unit, chosen)
    with st.container(horizontal=True):
        link("sensitivity", "See what each layer costs")
        link("recipe", "Choose a format for every layer")
    parts(info, unit, formats)
