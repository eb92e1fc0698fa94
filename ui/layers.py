"""Which layer is meant: a picker, the same by clicks on a chart, and the page's parts about one layer's weights."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from quant_core import plots
from quant_core.schema import LayerRequest, LayerView, ModelInfo, Setup, Unit
from ui import setup, state, theme, words
from ui.jobs import request_result, workspace
from ui.widgets import Figure, figures, notes

COUNTS = state.choice_param("counts", "the axis of the counts", ("linear", "log"))
RANGE = state.choice_param("range", "the range of values", ("all", "grid"))
BINS = 240
"""Bins of a histogram: fine enough to look closer at the grid."""
AFTER = state.choice_param("after", "whether to show quantized weights", ("shown", "hidden"))

_ALL = "all"
_ANYWHERE = "outside"
_BLOCK, _ROLE, _STEP, _PICK = "layer:block", "layer:role", "layer:step", "layer:pick"


def current(units: Sequence[Unit]) -> Unit:
    """The layer that is open; the first decided one if none is, or if the model has no layer of that name."""
    known = {unit.name: unit for unit in units}
    name = state.UNIT.get()
    if name not in known:
        if name:
            st.warning(
                f"There is no layer named “{name}” here; showing the first one.", icon=":material/link_off:"
            )
        name = next((unit.name for unit in units if unit.decided), units[0].name)
        state.UNIT.set(name)
    return known[name]


def picker(info: ModelInfo) -> Unit:
    """Choose any unit of the model: by block, by role, by name, or one step on."""
    unit = current(info.units)
    blocks = [_ALL, *dict.fromkeys(_block(each) for each in info.units)]
    roles = [_ALL, *dict.fromkeys(each.role for each in info.units)]
    if not _passes(unit):
        st.session_state[_BLOCK] = st.session_state[_ROLE] = _ALL
    st.session_state.setdefault(_BLOCK, _ALL)
    st.session_state.setdefault(_ROLE, _ALL)
    left, middle, right, steps = st.columns([1.1, 1.3, 3.2, 1.9], vertical_alignment="bottom")
    left.selectbox(
        "Block", blocks, format_func=lambda block: f"all {info.blocks}" if block == _ALL else block, key=_BLOCK,
        on_change=_follow, args=(info,), persist_state="session",
        help="Show only layers of one transformer block.",
    )  # fmt: skip
    middle.selectbox(
        "Role", roles, key=_ROLE, on_change=_follow, args=(info,), persist_state="session",
        help="Show only layers that do the same thing in every block.",
    )  # fmt: skip
    shown = [each for each in info.units if _passes(each)]
    names = [each.name for each in shown]
    titles = {each.name: title(each) for each in shown}
    st.session_state[_PICK] = unit.name
    right.selectbox(
        f"Layer ({len(shown):,} of {len(info.units):,})", names, format_func=lambda name: titles.get(name, name),
        key=_PICK, on_change=lambda: state.UNIT.set(st.session_state[_PICK]),
        help="Every weight that can be quantized. Type to search.",
    )  # fmt: skip
    place = names.index(unit.name)
    with steps.container(horizontal=True, gap="xsmall", wrap=False):
        for label, icon, step in (("Previous", "chevron_left", -1), ("Next", "chevron_right", 1)):
            st.button(
                label, icon=f":material/{icon}:", key=f"{_STEP}:{label}", on_click=state.UNIT.set,
                args=(names[(place + step) % len(names)],),
            )  # fmt: skip
    return unit


def title(unit: Unit) -> str:
    """How a layer is called in a list: ``block 3 · q_proj · 512 × 512``."""
    where = f"block {unit.block} · " if unit.block >= 0 else ""
    return f"{where}{unit.role} · {unit.rows:,} × {unit.columns:,}"


def _block(unit: Unit) -> str:
    return str(unit.block) if unit.block >= 0 else _ANYWHERE


def _passes(unit: Unit) -> bool:
    block, role = st.session_state.get(_BLOCK, _ALL), st.session_state.get(_ROLE, _ALL)
    return block in (_ALL, _block(unit)) and role in (_ALL, unit.role)


def _follow(info: ModelInfo) -> None:
    """A filter changed: stay, or go to the first layer that passes; filters that exclude all give way."""
    passing = [unit for unit in info.units if _passes(unit)]
    if not passing:
        st.session_state[_BLOCK] = st.session_state[_ROLE] = _ALL
    elif state.UNIT.get() not in {unit.name for unit in passing}:
        state.UNIT.set(passing[0].name)


def view(info: ModelInfo, unit: Unit, format_name: str) -> LayerView | None:
    """The layer's histograms and error; until they are there, progress or the reason why not."""
    rewritten = Setup(transforms=setup.current(info).transforms)
    found = request_result(
        LayerRequest(
            info.ref, info.fingerprint, unit.name, format_name, BINS, rewritten,
            workspace().inspect_request(info.ref).roots,
        )
    )  # fmt: skip
    if rewritten.transforms:
        st.caption(f":material/layers: The weights are shown after {setup.summary(rewritten)}.")
    if found is not None:
        notes(found.notes, "layer")
    return found


def weight_figures(view: LayerView, unit: Unit) -> None:
    """What the format does to the layer, in numbers."""
    exact = view.sqnr_db is None
    figures([
        Figure("SQNR", "exact" if exact else f"{view.sqnr_db:.1f} dB",
               "Signal to quantization noise: 10·log₁₀(|W|² / |error|²). 6 dB more is half the error; one bit more "
               "brings about 6 dB."),
        Figure("Bits a weight", f"{view.bits_per_weight:.2f} bits",
               f"Everything stored for this layer (codes, scales, whatever else) divided by its {unit.parameters:,} "
               f"weights. The checkpoint stores {unit.bits} bits."),
        Figure("Outside its grid", words.share(view.outside),
               "Weights that lie beyond the range of their own block's grid and are clipped to its end; weights that "
               "the format keeps in 16 bits do not count."),
        Figure("Outliers", f"{100 * view.outlier_share:.3f} %",
               "Weights beyond 4 standard deviations; a normal distribution has 0.006 %. They stretch the scale of "
               "every weight that shares it."),
        Figure("Kurtosis", f"{view.kurtosis:+.2f}",
               "Excess kurtosis, without unit: 0 for a normal distribution, higher the heavier the tails are, and the "
               "harder the layer is to quantize."),
        Figure("Standard deviation", plots.number(view.standard_deviation),
               f"Of the weights, in their own unit. The largest is {plots.number(view.absolute_maximum)} in size."),
    ])  # fmt: skip
    st.caption(_block_sentence(view) + _padding_sentence(view, unit))


def _block_sentence(view: LayerView) -> str:
    if not view.grid:
        return "The original keeps every value as it is."
    if view.blocks == 1:
        return "All weights of the layer share one grid."
    blocks = f"{view.blocks:,} blocks"
    return (
        f"{blocks} of {view.block_values:,} weights, each with its own grid; drawn is that of the block with the "
        "median scale."
    )


def _padding_sentence(view: LayerView, unit: Unit) -> str:
    if not view.padded:
        return ""
    return (
        f" Rows of {unit.columns:,} inputs do not divide into such groups: {view.padded:,} zeros fill the last group "
        "of each row, and their codes count in the bits."
    )


def histograms(view: LayerView, unit: Unit) -> None:
    """The weights with the format's grid over them, and the error, with their switches."""
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        st.segmented_control("Counts", required=True, **COUNTS.choice(["linear", "log"]))
        st.segmented_control(
            "Values", required=True, **RANGE.choice(["all", "grid"]),
            format_func={"all": "all weights", "grid": "around the grid"}.__getitem__,
        )  # fmt: skip
        st.segmented_control("Quantized weights", required=True, **AFTER.choice(["shown", "hidden"]))
    log, after = COUNTS.get() == "log", AFTER.get() == "shown"
    weights, errors = st.columns([3, 2], gap="medium")
    with weights:
        figure = plots.draw_weight_histogram(
            plots.weight_histogram(view), theme.palette(), after, log, RANGE.get() == "grid"
        )
        alt = f"Histogram of {unit.name}: {unit.parameters:,} weights, up to {view.absolute_maximum:.3g} in size"
        theme.chart(figure, "weights", f"{alt}, with the grid of {view.format}.")
    with errors:
        figure = plots.draw_error_histogram(view.errors, theme.palette(), log)
        theme.chart(figure, "errors", f"Histogram of the error of {unit.name} in {view.format}.")
