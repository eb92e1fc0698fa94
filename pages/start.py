"""Start: the ways to a model, one button to a proved recipe, and what was done before."""

import streamlit as st

from ui import recent_models, recommend
from ui.entry import ensure_entry
from ui.start_page import at_hand, cards, first_step, opened
from ui.widgets import page_title

ensure_entry("start")
page_title(
    "Start", "Open a language model, or go on with one, and choose how many bits each of its layers keeps."
)
info = at_hand()
if info is None:
    cards()
    first_step()
else:
    opened(info)
    recommend.panel(info)
    st.subheader("Open another model", anchor=False)
    cards()
recent_models.table()
