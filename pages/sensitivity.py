"""Sensitivity: what each layer costs in each format, on which text, and how sure that is."""

import streamlit as st

from ui import added_formats, score_charts, score_form, score_view, selected_layers
from ui.entry import ensure_entry, link
from ui.widgets import model_header

ensure_entry("sensitivity")
info = model_header("Sensitivity", "What the model loses when one layer takes a number format.")

request = score_form.settings(info)
table, tables = score_form.run_or_show(info, request, live=True)

if table is not None:
    unit = score_view.open_layer(info, table)
    answer = st.container()
    form, score = score_view.controls(table)
    with answer:
        score_charts.answer(info, table, score)
    score_view.summary(info, table, form, score)
    st.segmented_control(
        "View",
        required=True,
        format_func=score_charts.VIEWS.__getitem__,
        label_visibility="collapsed",
        **score_charts.VIEW.choice(list(score_charts.VIEWS)),
    )
    chart, layer = score_charts.places()
    with chart:
        score_charts.draw(info, table, tables, form, score)
        st.caption(f"On {score_view.measured_on(table)}. {added_formats.origin(table, form)}")
    with layer:
        selected_layers.beside(info, table, unit, form, score)
    link("recipe", "Turn these scores into a recipe")
