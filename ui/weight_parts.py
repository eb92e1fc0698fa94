"""Closer looks at one layer, one at a time: channels, single weights, what enters it, and the layers that are worst."""

from __future__ import annotations

import streamlit as st

from quant_core.schema import ModelInfo, Unit
from ui import state
from ui.weight_channels import activations, channels
from ui.weight_map import weight_maps
from ui.worst_layers import worst_layers

_TITLES = {
    "channels": "Channels",
    "map": "Single weights",
    "activations": "Activations",
    "worst": "Worst layers",
}
PART = state.choice_param("part", "the closer look", tuple(_TITLES))


def parts(info: ModelInfo, unit: Unit, formats: tuple[str, ...]) -> None:
    """The closer look that the user chose."""
    st.subheader("Closer", anchor=False)
    st.caption(f"At `{unit.name}`, {unit.rows:,} outputs × {unit.columns:,} inputs.")
    st.segmented_control(
        "Closer look", required=True, label_visibility="collapsed", format_func=_TITLES.__getitem__,
        **PART.choice(list(_TITLES)),
    )  # fmt: skip
    part = PART.get()
    if part == "channels":
        channels(info, unit, formats[0])
    elif part == "map":
        weight_maps(info, unit, formats)
    elif part == "activations":
        activations(info, unit, formats[0])
    else:
        worst_layers(info, unit, formats[0])
