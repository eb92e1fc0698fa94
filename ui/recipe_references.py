"""Recipes by rule as marks beside the solved one: what people would use without scores."""

from __future__ import annotations

from quant_core.contrast import main_score
from quant_core.plots.pareto import Mark, mark
from quant_core.schema import ModelInfo, ScoreTable
from ui.format_names import format_name, short_names
from ui.jobs import workspace


def marks(info: ModelInfo, table: ScoreTable, average_bits: float) -> list[Mark]:
    """The first and last block in 8 bits, the rest uniform, at a size; and Q4_K_M where its formats are scored."""
    found = workspace().references(info, table, average_bits, main_score(table))
    short = short_names(table.formats)
    shown = []
    for one in found:
        if one.kind == "edges":
            edge = format_name(one.edge.partition("/")[0])
            shown.append(mark("rule", f"edges {edge}, rest {short[one.form]}", one.solution))
        elif one.kind == "mix":
            shown.append(mark("rule", one.form.upper(), one.solution))
    return shown
