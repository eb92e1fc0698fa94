"""Weights on the grids of up to three formats: which formats and weights are meant, figures and histograms."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from quant_core import plots
from quant_core.errors import QuantError
from quant_core.schema import FormatView, LayerRequest, LayerView, ModelInfo, Setup, Unit
from ui import glossary, setup, state, theme, words
from ui.format_names import default_format, families, format_name, kinds, short_names
from ui.jobs import request_result, workspace
from ui.widgets import Figure, figures, notes

ALSO = state.list_param("also", "the formats to compare with")
SCOPE = state.choice_param("scope", "which weights are shown", ("layer", "block"))
COUNTS = state.choice_param("counts", "the axis of the counts", ("linear", "log"))
RANGE = state.choice_param("range", "the range of values", ("all", "grid"))
AFTER = state.choice_param("after", "whether to show quantized weights", ("shown", "hidden"))
BINS = 240
"""Bins of a histogram: fine enough to look closer at the grid."""
_MOST = 3
"""Formats over one histogram."""


def also_picker(first: str) -> tuple[str, ...]:
    """All formats to show: ``first``, and up to two others that are chosen here."""
    names, unknown = [], []
    for name in ALSO.get():
        try:
            spec = workspace().parse_format(name)
        except QuantError:
            unknown.append(name)
            continue
        if spec.family in families() and spec.name != first:
            names.append(spec.name)
    others = tuple(dict.fromkeys(names))[: _MOST - 1]
    if unknown:
        st.warning(f"No format is called {', '.join(unknown)}; it was left out.", icon=":material/link_off:")
        ALSO.set(others)
    listed = [default_format(name, state.GROUP.get()) for names in kinds().values() for name in names]
    key = "also:formats"
    st.session_state[key] = list(others)
    st.multiselect(
        "Compared with", [name for name in dict.fromkeys([*listed, *others]) if name != first], key=key,
        max_selections=_MOST - 1, accept_new_options=True, format_func=format_name, wrap=True,
        on_change=lambda: ALSO.set(tuple(st.session_state[key])), placeholder="Up to two more formats",
        help="Their grids, clipping and errors are drawn over the same weights. Type to search, or type a full name "
        "such as `int3/g64/asym/keep0.5`.",
    )  # fmt: skip
    return (first, *others)


def scope_picker(info: ModelInfo, unit: Unit) -> tuple[Unit, ...]:
    """The layer alone, or all layers of its block."""
    block = tuple(each for each in info.units if each.block == unit.block >= 0 and each.decided)
    if len(block) < 2:
        return (unit,)
    titles = {"layer": "This layer", "block": f"All {len(block)} layers of block {unit.block}"}
    st.segmented_control(
        "Weights", required=True, format_func=titles.__getitem__, **SCOPE.choice(list(titles))
    )
    return block if SCOPE.get() == "block" else (unit,)


def view(info: ModelInfo, units: tuple[Unit, ...], formats: tuple[str, ...]) -> LayerView | None:
    """Histograms and errors; until they are there, progress or the reason why not."""
    rewritten = Setup(transforms=setup.current(info).transforms)
    found = request_result(
        LayerRequest(
            info.ref, info.fingerprint, tuple(unit.name for unit in units), formats, BINS, rewritten,
            workspace().inspect_request(info.ref).roots,
        )
    )  # fmt: skip
    if rewritten.transforms:
        st.caption(f":material/layers: The weights are shown after {setup.summary(rewritten)}.")
    if found is not None:
        notes(found.notes, "layer")
    return found


def weight_figures(view: LayerView) -> None:
    """What the weights are like, whatever the format."""
    figures([
        Figure("Weights", words.count(view.parameters), f"{view.parameters:,} values."),
        Figure("Kurtosis", f"{view.kurtosis:+.2f}",
               "Excess kurtosis, without unit: 0 for a normal distribution, higher the heavier the tails are, and the "
               "harder the weights are to quantize."),
        Figure("Outliers", f"{100 * view.outlier_share:.3f} %",
               "Weights beyond 4 standard deviations; a normal distribution has 0.006 %. They stretch the scale of "
               "every weight that shares it."),
        Figure("Standard deviation", plots.number(view.standard_deviation), "Of the weights, in their own unit."),
        Figure("Largest weight", plots.number(view.absolute_maximum),
               f"In size. The weights lie between {plots.number(view.minimum)} and {plots.number(view.maximum)}."),
    ])  # fmt: skip


def format_table(view: LayerView, units: tuple[Unit, ...]) -> None:
    """What each format does to the weights, in numbers, a row each."""
    frame = pd.DataFrame(
        {
            "Format": [format_name(each.format) for each in view.formats],
            "Bits a weight": [each.bits_per_weight for each in view.formats],
            "SQNR (dB)": [each.sqnr_db for each in view.formats],
            "Error (% of |W|²)": [_relative(each) for each in view.formats],
            "RMS error": [plots.number(each.mean_square**0.5) for each in view.formats],
            "Largest error": [plots.number(each.largest_error) for each in view.formats],
            "Outside its grid (%)": [100 * each.outside for each in view.formats],
            "Kept in 16 bits (%)": [100 * each.kept for each in view.formats],
        }
    )
    if not any(each.kept for each in view.formats):
        del frame["Kept in 16 bits (%)"]
    st.dataframe(
        frame, hide_index=True, alt="What each format does to these weights", placeholder="exact",
        column_config={
            "Bits a weight": st.column_config.NumberColumn(
                format="%.2f", help=glossary.means("effective bits")
            ),
            "SQNR (dB)": st.column_config.NumberColumn(
                format="%.1f", help=glossary.means("SQNR")
            ),
            "Error (% of |W|²)": st.column_config.NumberColumn(
                format="%.3g", help=glossary.means("relative error")
            ),
            "RMS error": st.column_config.TextColumn(
                help="Root of the mean squared error of a weight, in the weight's own unit."
            ),
            "Largest error": st.column_config.TextColumn(help="Of a single weight, in the weight's own unit."),
            "Outside its grid (%)": st.column_config.NumberColumn(
                format="%.2f", help="Weights that lie beyond the range of their own block's grid and are clipped to "
                "its end; weights that the format keeps in 16 bits do not count.",
            ),
            "Kept in 16 bits (%)": st.column_config.NumberColumn(
                format="%.2f", help="The largest weights, which the format stores as they are."
            ),
        },
    )  # fmt: skip
    lines = [_blocks(each, len(units)) for each in view.formats]
    named = [
        f"**{format_name(each.format)}**: {line}" for each, line in zip(view.formats, lines, strict=True)
    ]
    padded = [_padding(each, units) for each in view.formats]
    shown = lines if len(lines) == 1 else named
    if len(set(lines)) == 1 and not any(padded):
        shown, padded = lines[:1], padded[:1]
    st.caption("  \n".join(line + more for line, more in zip(shown, padded, strict=True)))


def _relative(view: FormatView) -> float | None:
    return None if view.sqnr_db is None else 100 * 10 ** (-view.sqnr_db / 10)


def _blocks(view: FormatView, units: int) -> str:
    if not view.grid:
        return "The original keeps every value as it is."
    if view.blocks == 1:
        return "All weights of the layer share one grid."
    if units == 1:
        return (
            f"{view.blocks:,} blocks of {view.block_values:,} weights, each with its own grid; drawn is that of the "
            "block with the median scale."
        )
    return (
        f"{view.blocks:,} blocks, each with its own grid; drawn is that of the block with the median scale, of "
        f"{view.block_values:,} weights."
    )


def _padding(view: FormatView, units: tuple[Unit, ...]) -> str:
    if not view.padded:
        return ""
    what = f"Rows of {units[0].columns:,} inputs" if len(units) == 1 else "Some rows"
    return (
        f" {what} do not divide into such groups: {view.padded:,} zeros fill the last group of each row, and their "
        "codes count in the bits."
    )


def histograms(view: LayerView, name: str) -> None:
    """The weights with the formats' grids over them, and the errors, with their switches."""
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        st.segmented_control("Counts", required=True, **COUNTS.choice(["linear", "log"]))
        st.segmented_control(
            "Values", required=True, **RANGE.choice(["all", "grid"]),
            format_func={"all": "all weights", "grid": "around the grid"}.__getitem__,
        )  # fmt: skip
        st.segmented_control("Quantized weights", required=True, **AFTER.choice(["shown", "hidden"]))
    log, after = COUNTS.get() == "log", AFTER.get() == "shown"
    titles = short_names([each.format for each in view.formats])
    data, called = plots.weight_histogram(view), ", ".join(titles.values())
    weights, errors = st.columns([3, 2], gap="medium")
    with weights:
        figure = plots.draw_weight_histogram(data, theme.palette(), after, log, RANGE.get() == "grid", titles)
        alt = (
            f"Histogram of {name}: {view.parameters:,} weights from {view.minimum:.3g} to {view.maximum:.3g}"
        )
        theme.chart(figure, "weights", f"{alt}, with the grid of {called}.")
    with errors:
        figure = plots.draw_error_histogram(data, theme.palette(), log, titles)
        largest = ", ".join(f"{titles[each.format]} {each.largest_error:.3g}" for each in view.formats)
        theme.chart(figure, "errors", f"Histogram of the error of {name}; the largest is {largest}.")
