"""Recipes by rule as marks beside the solved one: what people would use without scores."""

from __future__ import annotations

import streamlit as st

from quant_core.allocation.references import Reference, fitting
from quant_core.contrast import main_score
from quant_core.plots.pareto import Mark, mark
from quant_core.schema import ModelInfo, ScoreTable
from ui.format_names import format_name, short_names
from ui.jobs import workspace
from ui.scores import table_key


def marks(info: ModelInfo, table: ScoreTable, average_bits: float) -> list[Mark]:
    """The first and last block in 8 bits, the rest uniform, at a size; and Q4_K_M where its formats are scored."""
    found = fitting(_rules(table_key(table), info, table), average_bits)
    short = short_names(table.formats)
    shown = []
    for one in found:
        if one.kind == "edges":
            edge = format_name(one.edge.partition("/")[0])
            shown.append(mark("rule", f"edges {edge}, rest {short[one.form]}", one.solution))
        elif one.kind == "mix":
            shown.append(mark("rule", one.form.upper(), one.solution))
    return shown


@st.cache_resource(max_entries=16, show_spinner=False)
def _rules(key: str, _info: ModelInfo, _table: ScoreTable) -> list[Reference]:
    return workspace().rules(_info, _table, main_score(_table))
