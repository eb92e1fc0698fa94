"""The lesson on uniform and other grids: five ways to spend four bits on one layer, and where their values stand."""

import streamlit as st

from quant_core import plots
from quant_core.schema import LayerRequest, replace
from ui import lesson, theme, words
from ui.format_names import default_format, format_name, short_names
from ui.jobs import request_result, workspace

GRIDS = ("int4", "nf4", "fp4", "pot4", "kmeans4")

here = lesson.begin("grids")
unit = here.layer("down_proj")
names = tuple(default_format(family, 64) for family in GRIDS)
roots = workspace().inspect_request(here.info.ref).roots
titles = short_names(names)
if here.guess(*titles.values()) and (
    view := request_result(
        LayerRequest(here.info.ref, here.info.fingerprint, (unit.name,), names, roots=roots)
    )
):
    error = {each.format: lesson.relative_error(each) for each in view.formats}
    bits = {each.format: each.bits_per_weight for each in view.formats}
    shown = st.pills(
        "Grids to draw",
        names,
        default=names[:2],
        selection_mode="multi",
        format_func=titles.__getitem__,
        key="grids:shown",
    )
    few = tuple(each for each in view.formats if each.format in shown)[:3]
    drawn = plots.weight_histogram(replace(view, formats=few))
    theme.chart(
        plots.draw_weight_histogram(drawn, theme.palette(), dequantized=False, titles=titles), "lesson-grids",
        f"Histogram of {unit.name} with the values that the chosen grids can hold.",
    )  # fmt: skip
    st.dataframe(
        {
            "Grid": [format_name(name) for name in names],
            "Error (% of |W|²)": [words.significant(error[name], 2) for name in names],
            "Bits a weight": [f"{bits[name]:.2f}" for name in names],
        },
        hide_index=True, alt="Error and size of the layer on each grid",
    )  # fmt: skip
    best, worst = min(names, key=error.__getitem__), max(names, key=error.__getitem__)
    here.happened(
        names.index(best),
        {
            "best": format_name(best),
            "least": lesson.percent(error[best]),
            "worst": format_name(worst),
            "most": lesson.percent(error[worst]),
        },
    )
    options = [titles[name] for name in names]
    cheaper = min(names, key=lambda name: (bits[name], error[name]))
    here.quiz(
        lesson.Quiz(
            "Which of these takes the fewest bits in all on this layer?", tuple(options), names.index(cheaper),
            f"{format_name(cheaper)} takes {words.bits(bits[cheaper])} a weight, its scales or codebooks counted.",
        ),
        lesson.Quiz(
            "How many different values can a 4-bit code name, whatever the grid?", ("4", "16", "64"), 1, "2⁴ = 16.",
        ),
    )  # fmt: skip
here.end()
