"""Compare: original, recipe and another side by side: their texts, a blind vote, and what was measured."""

import streamlit as st

from ui import compare_choices, compare_other, compare_page, compare_served, compare_speed, setup
from ui.compare_variants import sections
from ui.entry import ensure_entry, link
from ui.widgets import model_header

ensure_entry("compare")
info = model_header("Compare", "Read and measure what the recipe does to the model's text.")
setup.panel(info)
recipe = compare_page.recipe_or_hint(info)

section = sections()
if section == "texts":
    if recipe is None and not compare_other.OTHER.get():
        compare_other.without_recipe()
    compare_page.settings(info, recipe)
    compare_page.texts(info, recipe)
elif section == "vote":
    compare_page.vote(info, recipe)
elif section == "text":
    compare_page.on_text(info, recipe)
elif section == "choices":
    compare_choices.show(info, recipe)
elif section == "speed":
    compare_speed.show(info, recipe)
else:
    compare_served.show(info, recipe)

if recipe is not None:
    with st.container(horizontal=True):
        link("recipe", "Change the recipe")
        link("export", "Take the recipe with you")
