"""Compare: original, recipe and another write from the same prompt and seed, and what was measured."""

import streamlit as st

from ui import setup
from ui.compare_page import metrics, recipe_or_hint, settings, texts
from ui.entry import ensure_entry, link
from ui.widgets import empty_state, model_header

ensure_entry("compare")
info = model_header("Compare", "Read what the recipe does to the text: same prompt, same random numbers.")
setup.panel(info)
recipe = recipe_or_hint(info)

if recipe is None:
    empty_state(
        "There is no recipe yet. The original can write, and so can a recipe that needs no scores (Another).",
        "recipe",
        "Make a recipe",
    )

settings(info, recipe)
texts(info, recipe)

if recipe is not None:
    metrics(info, recipe)
    with st.container(horizontal=True):
        link("recipe", "Change the recipe")
        link("export", "Take the recipe with you")
