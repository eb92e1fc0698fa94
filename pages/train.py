"""Train: fine-tune the quantized weights, watch the loss, and put what was learned to use."""

import streamlit as st

from ui import setup, train_page
from ui.compare_page import recipe_or_hint
from ui.entry import ensure_entry, link
from ui.widgets import model_header

ensure_entry("train")
info = model_header(
    "Train", "Fine-tune the quantized weights so that they predict what the original predicts."
)
setup.panel(info)
recipe = recipe_or_hint(info)
request = train_page.settings(info, recipe)
training = train_page.run_or_show(info, request)

if training is not None:
    train_page.result(training, recipe)
    with st.container(horizontal=True):
        link("recipe", "Measure it in the recipe")
        link("compare", "Read its text beside the original's")

train_page.sources()
