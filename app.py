"""QuantLens in the browser: ``streamlit run app.py``."""

import streamlit as st

from ui.entry import ROOT, navigate

ABOUT = "**QuantLens** shows what quantization does to a language model, layer by layer."

st.set_page_config(
    page_title="QuantLens",
    page_icon=str(ROOT / "assets" / "icon.svg"),
    layout="wide",
    menu_items={"About": ABOUT},
)
navigate()
