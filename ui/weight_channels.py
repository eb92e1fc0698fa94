"""One layer's channels: how far the weights of each reach, and what enters it."""

from __future__ import annotations

import streamlit as st

from quant_core import plots
from quant_core.schema import ChannelRanges, Channels, ChannelsRequest, InputsRequest, ModelInfo, Setup, Unit
from ui import setup, state, theme
from ui.jobs import request_result, workspace
from ui.weight_view import COUNTS

ALONG = state.choice_param("along", "the direction of the channels", ("outputs", "inputs"))


def _ranges(info: ModelInfo, unit: Unit, form: str) -> ChannelRanges | None:
    chosen = setup.current(info).transforms
    return request_result(
        ChannelsRequest(
            info.ref, info.fingerprint, unit.name, form if chosen else "", setup=Setup(transforms=chosen),
            roots=workspace().inspect_request(info.ref).roots,
        )
    )  # fmt: skip


def channels(info: ModelInfo, unit: Unit, form: str) -> None:
    """The range of every output's or every input's weights."""
    titles = {"outputs": f"{unit.rows:,} outputs (rows)", "inputs": f"{unit.columns:,} inputs (columns)"}
    st.segmented_control("Along", required=True, format_func=titles.__getitem__, **ALONG.choice(list(titles)))
    found = _ranges(info, unit, form)
    if found is None:
        return
    what = ALONG.get().removesuffix("s")
    shown = found.outputs if what == "output" else found.inputs
    text = _reach(shown, what)
    figure = plots.draw_channel_strip(plots.channel_strip(shown, what), theme.palette())
    theme.chart(figure, "channels", f"Range of the weights of each {what} of {unit.name}. {text}")
    st.caption(f"{text} {_bins(shown, what)}")


def _reach(shown: Channels, what: str) -> str:
    return plots.reach_text(what, shown.furthest, shown.reach, shown.median, shown.edges[-1])


def _bins(shown: Channels, what: str) -> str:
    bins, count = len(shown.edges) - 1, shown.edges[-1]
    return f"{count:,} {what}s are drawn in {bins} bins." if bins < count else ""


def activations(info: ModelInfo, unit: Unit, form: str) -> None:
    """What enters the layer over the calibration text, beside the weights that it meets; read on request."""
    chosen = setup.current(info).transforms
    asked = InputsRequest(
        info.ref, info.fingerprint, unit.name, form if chosen else "", setup=Setup(transforms=chosen),
        roots=workspace().inspect_request(info.ref).roots,
    )  # fmt: skip
    found = request_result(
        asked, start="Read what enters the layer",
        why=f"The model reads up to {asked.setup.calibration.tokens:,} tokens of the "
        f"{asked.setup.calibration.text.label}, and the values that this layer multiplies are counted.",
    )  # fmt: skip
    if found is None:
        return
    ranges = _ranges(info, unit, form)
    if ranges is None:
        return
    text = plots.reach_text("input", found.furthest, found.reach, found.median, found.edges[-1])
    left, right = st.columns([3, 2], gap="medium")
    with left:
        strip = plots.channel_strip(ranges.inputs, "input")
        figure = plots.draw_channel_strip(strip, theme.palette(), plots.input_strip(found))
        theme.chart(figure, "inputs", f"Weights and activations of each input of {unit.name}. {text}")
    with right:
        values = plots.bars(found.values)
        log = COUNTS.get() == "log"
        low, high = found.values.edges[0], found.values.edges[-1]
        theme.chart(
            plots.draw_input_histogram(values, theme.palette(), log), "input-values",
            f"Histogram of the values that enter {unit.name}, from {low:.3g} to {high:.3g}.",
        )  # fmt: skip
    st.caption(
        f"Activations: {text} Weights: {_reach(ranges.inputs, 'input')} {_bins(ranges.inputs, 'input')}  \n"
        f"On {found.tokens:,} tokens of {found.text_label}, in the activation's own unit."
    )
