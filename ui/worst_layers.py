"""The layers that are hardest to quantize, by what the weights alone tell: which they are, and the way to each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import streamlit as st

from quant_core import plots
from quant_core.schema import ModelInfo, SensitivityRequest, Setup, Unit, UnitStatistics
from ui import glossary, layers, setup, state
from ui.format_names import format_name
from ui.jobs import request_result, workspace

MANY = 10
_SQNR = "sqnr"


class Measure(NamedTuple):
    """Something that layers are worst by: the more of it, the worse."""

    title: str
    value: Callable[[UnitStatistics], float]
    text: Callable[[float], str]
    help: str


MEASURES: Mapping[str, Measure] = {
    "kurtosis": Measure(
        "Kurtosis", lambda each: each.kurtosis, lambda value: f"{value:+.2f}",
        "Excess kurtosis, without unit: 0 for a normal distribution.",
    ),
    "outliers": Measure(
        "Outliers", lambda each: each.outlier_share, lambda value: f"{100 * value:.3f} %",
        "Share of weights beyond 4 standard deviations; a normal distribution has 0.006 %.",
    ),
    "largest": Measure(
        "Largest weight", lambda each: each.absolute_maximum, plots.number,
        "Largest |w|, in the weight's own unit.",
    ),
    "spread": Measure(
        "Channel spread", lambda each: max(each.row_spread, each.column_spread), lambda value: f"{value:.1f} times",
        "How many times as far as the median output (or input, whichever is more) the furthest one reaches.",
    ),
}  # fmt: skip
WORST = state.choice_param("worst", "what layers are worst by", (_SQNR, *MEASURES))


def worst_units(units: Sequence[Unit], spread: Mapping[str, UnitStatistics], by: str) -> list[Unit]:
    """Those of ``units`` that are worst by a measure, the worst first; what was not read is left out."""
    known = [unit for unit in units if unit.name in spread]
    return sorted(known, key=lambda unit: -MEASURES[by].value(spread[unit.name]))[:MANY]


def worst_layers(info: ModelInfo, unit: Unit, form: str) -> None:
    """The ten worst layers by what the user picks, each a way to it; ``unit`` is the one that is open."""
    titles = {_SQNR: f"SQNR in {format_name(form)}"} | {name: each.title for name, each in MEASURES.items()}
    st.segmented_control(
        f"Worst {MANY} by", required=True, format_func=titles.__getitem__, **WORST.choice(list(titles))
    )
    by = WORST.get()
    found = _by_error(info, form) if by == _SQNR else _by_spread(info, by)
    if found is None:
        return
    help = f"{glossary.means('SQNR')} The lower, the worse."
    st.caption(MEASURES[by].help if by in MEASURES else help)
    with st.container(key="worst-layers", gap="xsmall"):
        for place, (each, text) in enumerate(found, 1):
            st.button(
                f"{place}. {layers.title(each)} — **{text}**", key=f"worst:{each.name}", type="tertiary",
                on_click=state.UNIT.set, args=(each.name,), disabled=each.name == unit.name,
                icon=":material/arrow_right:" if each.name == unit.name else None,
            )  # fmt: skip


def _by_spread(info: ModelInfo, by: str) -> list[tuple[Unit, str]] | None:
    found = request_result(
        workspace().weights_request(info.ref),
        start="Read the weights",
        why="How the values of each layer are spread is read from the checkpoint's files on request.",
    )
    if found is None:
        return None
    spread = {each.unit.name: each for each in found.units}
    measure = MEASURES[by]
    return [
        (unit, measure.text(measure.value(spread[unit.name]))) for unit in worst_units(info.units, spread, by)
    ]


def _by_error(info: ModelInfo, form: str) -> list[tuple[Unit, str]] | None:
    """By the weight error of a sweep that has it in this format, or of one for that alone."""
    transforms = setup.current(info).transforms
    tables = workspace().tables(info.fingerprint)
    table = next(
        (each for each in tables if each.weight and form in each.formats and each.transforms == transforms),
        None,
    )
    if table is None:
        table = request_result(
            SensitivityRequest(
                info.ref, info.fingerprint, (form,), score="weight", setup=Setup(transforms=transforms),
                roots=workspace().inspect_request(info.ref).roots,
            ),
            start="Round every layer",
            why=f"The error that {format_name(form)} makes in each layer is worked out on request; no text is needed.",
        )  # fmt: skip
    if table is None:
        return None
    column = table.formats.index(form)
    errors = {name: row[column] for name, row in zip(table.units, table.weight, strict=True)}
    worst = sorted((unit for unit in info.units if unit.name in errors), key=lambda unit: -errors[unit.name])
    return [(unit, _decibels(errors[unit.name])) for unit in worst[:MANY]]


def _decibels(error: float) -> str:
    return f"{-10 * math.log10(error):.1f} dB" if error > 0 else "exact"
