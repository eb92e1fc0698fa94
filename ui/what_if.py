"""The what-if view: the open layer's score against its group size, its rounding, and the text it was scored on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import streamlit as st

from quant_core.errors import QuantError
from quant_core.names import granularities
from quant_core.plots.what_if import WhatIf, alternatives, draw_what_if, texts
from quant_core.schema import FormatSpec, ModelInfo, ScoreName, ScoreTable, Unit
from ui import scores, state, theme
from ui.format_names import families, format_name, method_name, methods
from ui.jobs import request_result, workspace

WIDE = "channel"
"""Granularity beyond all group sizes: one scale a row."""


def draw(
    info: ModelInfo, table: ScoreTable, tables: Sequence[ScoreTable], form: str, score: ScoreName
) -> None:
    """The layer that is open in all alternatives of the shown format, one choice changed at a time."""
    unit = _unit(info, table)
    spec = workspace().parse_format(form)
    st.markdown(f"**{format_name(form)}** for `{unit.name}`, one choice changed at a time.")
    if score in ("fisher", "output", "weight"):
        _vary(info, table, unit, spec, group_sizes(spec), "group size", score)
        _vary(info, table, unit, spec, roundings(spec), "rounding", score)
    else:
        st.caption("Group sizes and roundings come from a score state, which holds no measured KL.")
    shown = texts(_with_shown(table, tables), unit.name, unit.parameters, form, table, score)
    _chart(shown, unit)
    if len(shown.points) < 2:
        st.caption(
            "Sweeps of this format on other text, or with more or fewer tokens, stand here beside each other: change "
            "the settings above and score again."
        )
    st.caption(
        "Filled: as it is now. Lines are 95 % intervals; bits are those stored a weight. Point at a dot to see what it "
        "was measured on."
    )


def _unit(info: ModelInfo, table: ScoreTable) -> Unit:
    scored = set(table.units)
    known = {unit.name: unit for unit in info.units if unit.name in scored}
    return known.get(state.UNIT.get(), next(iter(known.values())))


def _with_shown(table: ScoreTable, tables: Sequence[ScoreTable]) -> list[ScoreTable]:
    """The stored sweeps, the one that is shown with its added columns."""
    shown = scores.table_id(table)
    return [table, *(each for each in tables if scores.table_id(each) != shown)]


def _vary(
    info: ModelInfo,
    table: ScoreTable,
    unit: Unit,
    spec: FormatSpec,
    labels: Mapping[str, str],
    title: str,
    score: ScoreName,
) -> None:
    """One choice: what the sweep holds already, and the rest from its state."""
    if len(labels) < 2:
        st.caption(f"{families()[spec.family].title} leaves no choice of {title}.")
        return
    found = [table]
    missing = [name for name in labels if name not in table.formats]
    if missing and table.state:
        more = request_result(scores.rescore(info, table, missing, unit.name))
        found += [more] if more is not None else []
    _chart(alternatives(title, found, unit.name, unit.parameters, labels, spec.name, score), unit)
    if not table.state:
        st.caption("This sweep left no score state, so only the formats it was run for are shown.")


def _chart(data: WhatIf, unit: Unit) -> None:
    told = ", ".join(f"{point.label.replace('<br>', ' ')} {point.value:.2g}" for point in data.points)
    alt = f"Score of {unit.name} by {data.title}: {told}."
    theme.chart(draw_what_if(data, theme.palette()), f"what-if-{data.title}", alt)


def group_sizes(spec: FormatSpec) -> dict[str, str]:
    """The format at every group size of its family and a scale a row, by full name."""
    family = families()[spec.family]
    if "group" not in family.granularities:
        return {}
    found = {}
    for part in granularities(family):
        if part.startswith("g") or part == WIDE:
            scale = workspace().parse_format(f"{spec.family}/{part}")
            name = replace(spec, granularity=scale.granularity, group_size=scale.group_size).name
            found[name] = "a row" if part == WIDE else part.removeprefix("g")
    return _valid(found)


def roundings(spec: FormatSpec) -> dict[str, str]:
    """The format rounded in every way that its family takes, by full name."""
    found = {replace(spec, method="").name: "to nearest"}
    for method in methods().values():
        if spec.family in method.families:
            found[replace(spec, method=method.name).name] = method.title
    if spec.method:
        found.setdefault(spec.name, method_name(spec.method))
    return _valid(found)


def _valid(names: Mapping[str, str]) -> dict[str, str]:
    """Those that are formats: not every family takes double quantization at every group size, say."""
    found = {}
    for name, label in names.items():
        try:
            found[workspace().parse_format(name).name] = label
        except QuantError:
            continue
    return found
