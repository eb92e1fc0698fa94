"""Recipe: a format for every layer under a budget, live, by hand where wanted, and measured."""

import streamlit as st

from ui import setup
from ui.entry import ensure_entry, link
from ui.recipe_page import score_first, workbench
from ui.widgets import model_header

ensure_entry("recipe")
info = model_header(
    "Recipe", "Set a budget: every layer gets the format that costs the least quality within it."
)
setup.panel(info)
table = score_first(info)

if table is not None:
    workbench(info, table)
    with st.container(horizontal=True):
        link("compare", "Read the recipe's text beside the original's")
        link("export", "Take the recipe with you")
        link("sensitivity", "Score again with other formats or text")
