"""What a model is, in figures, a table of its layers, and its memory at each precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pandas as pd
import streamlit as st

from quant_core.errors import QuantError
from quant_core.plots.sizes import draw_size_bars, memory, size_by
from quant_core.schema import ORIGINAL, ModelInfo, Unit, UnitStatistics, Use, WeightStatistics
from quant_core.workspace import DEFAULT_FORMATS
from ui import state, theme, words
from ui.architecture import RECIPE, recipe_at_hand
from ui.format_names import default_format, families, format_name, kind_title, kinds
from ui.jobs import request_result, workspace
from ui.widgets import Figure, figures, notes
from ui.worst_layers import MANY, MEASURES, worst_units


def overview(info: ModelInfo) -> None:
    """The figures that place a model: size, depth, width, context."""
    decided = [unit for unit in info.units if unit.decided]
    weights = sum(unit.parameters for unit in decided)
    figures([
        Figure("Parameters", words.count(info.parameters), f"{info.parameters:,} values, counted in the "
               "checkpoint; shared storage counts once."),
        Figure("Weights on disk", words.size(info.original_bits / 8), f"In the checkpoint's dtype, {info.dtype}. "
               "1 MB = 10⁶ bytes."),
        Figure("To be quantized", f"{len(decided)} layers", "The linear layers of the blocks, which recipes decide on: "
               f"{weights:,} weights, {words.share(weights / max(info.parameters, 1))} of all parameters."),
        Figure("Blocks", str(info.blocks), "Transformer blocks, one after the other."),
        Figure("Context", f"{words.count(info.context_length)} tokens", "The longest text it was made for, by its "
               "configuration."),
    ])  # fmt: skip
    facts = [
        f"Hidden size {info.hidden_size:,} · vocabulary {info.vocabulary:,} tokens · computes in {info.compute_dtype} "
        f"on {info.device}" + (" · its tokenizer brings a chat template" if info.chat else ""),
        *info.notes,
    ]
    st.caption("  \n".join(facts))


def layers(info: ModelInfo) -> None:
    """Every weight that can be quantized, with shape and size, and how its values are spread once that was read."""
    table = st.container()
    found = request_result(
        workspace().weights_request(info.ref),
        start="Read the weights",
        why="How the values of each layer are spread (outliers, kurtosis, range) is read from the files on request.",
    )
    with table:
        _layer_table(info, found)


def _layer_table(info: ModelInfo, found: WeightStatistics | None) -> None:
    text = st.text_input(
        "Filter",
        placeholder="q_proj, layers.3, mlp …",
        key="layers:filter",
        live=True,
        label_visibility="collapsed",
    )
    shown = [unit for unit in info.units if (text or "").lower() in unit.name.lower()]
    spread = {each.unit.name: each for each in found.units} if found else {}
    if found:
        shown = _worst(shown, spread)
    frame = pd.DataFrame(
        {
            "Layer": [unit.name for unit in shown],
            **(_spread([spread.get(unit.name) for unit in shown]) if found else {}),
            "Block": [unit.block if unit.block >= 0 else None for unit in shown],
            "Role": [unit.role for unit in shown],
            "Kind": [unit.kind for unit in shown],
            "Outputs × inputs": [f"{unit.rows:,} × {unit.columns:,}" for unit in shown],
            "Weights": [unit.parameters for unit in shown],
            "Size (MB)": [unit.parameters * unit.bits / 8e6 for unit in shown],
            "Decided": [unit.decided for unit in shown],
            "Shared with": [", ".join(unit.tied) for unit in shown],
        }
    )
    if not any(unit.tied for unit in shown):
        del frame["Shared with"]
    st.dataframe(
        frame, hide_index=True, height=360, alt="Layers that can be quantized", placeholder="–",
        column_config={
            "Layer": st.column_config.TextColumn(help="The weight's name in the checkpoint."),
            "Role": st.column_config.TextColumn(help="What it does in its block, the same in every block."),
            "Kind": st.column_config.TextColumn(help="What sort of layer it belongs to; experts count one by one."),
            "Outputs × inputs": st.column_config.TextColumn(help="Rows and columns of its matrix."),
            "Weights": st.column_config.NumberColumn(format="localized", help="Values in its matrix."),
            "Shared with": st.column_config.TextColumn(help="Weights that share its storage."),
            "Block": st.column_config.NumberColumn(help="Its place in the stack; – is outside."),
            "Size (MB)": st.column_config.NumberColumn(format="%.3f", help="In the checkpoint; 1 MB = 10⁶ bytes."),
            "Decided": st.column_config.CheckboxColumn(help="Recipes decide on it; the others stay as they are."),
            **_SPREAD_COLUMNS,
        },
    )  # fmt: skip
    total = sum(unit.parameters for unit in shown)
    st.caption(f"{len(shown)} of {len(info.units)} weights · {words.count(total)} values")
    if found:
        st.caption(
            f"Spread of the checkpoint's {found.bytes / 1e6:,.1f} MB of weights as they are stored, read in "
            f"{words.duration(found.seconds)}."
        )
        unread = [
            f"{name} is stored in another form than it is used in and was not read." for name in found.unread
        ]
        spoilt = [
            f"{each.unit.name} holds {each.not_finite:,} infinite or undefined values, which are left out."
            for each in found.units if each.not_finite
        ]  # fmt: skip
        notes([*spoilt, *unread], "weights")


def _worst(units: list[Unit], spread: dict[str, UnitStatistics]) -> list[Unit]:
    """All units, or the ten that are worst by what the user picks."""
    by = st.segmented_control(
        "Show", ["all", *MEASURES], default="all", required=True, key="layers:worst", persist_state="session",
        format_func=lambda name: "All layers" if name == "all" else f"Worst {MANY} by {MEASURES[name].title.lower()}",
        label_visibility="collapsed",
    )  # fmt: skip
    return units if by not in MEASURES else worst_units(units, spread, by)


def _spread(found: Sequence[UnitStatistics | None]) -> dict[str, list[Any]]:
    def column(value: Callable[[UnitStatistics], Any]) -> list[Any]:
        return [None if each is None else value(each) for each in found]

    return {
        "Values": column(lambda each: list(each.counts)),
        "Largest": column(lambda each: each.absolute_maximum),
        "Std": column(lambda each: each.standard_deviation),
        "Kurtosis": column(lambda each: each.kurtosis),
        "Outliers (%)": column(lambda each: 100 * each.outlier_share),
        "Output spread": column(lambda each: each.row_spread),
        "Input spread": column(lambda each: each.column_spread),
    }


_SPREAD_COLUMNS = {
    "Values": st.column_config.BarChartColumn(
        width="small", help="Histogram, from the least to the largest weight."
    ),
    "Largest": st.column_config.NumberColumn(format="%.4g", help="Largest |w|, in the weight's own unit."),
    "Std": st.column_config.NumberColumn(format="%.4g", help="Standard deviation, in the weight's own unit."),
    "Kurtosis": st.column_config.NumberColumn(
        format="%.2f", help="Excess kurtosis: 0 for a normal distribution, higher the heavier the tails are."
    ),
    "Outliers (%)": st.column_config.NumberColumn(
        format="%.4f", help="Weights beyond 4 standard deviations; a normal distribution has 0.006 %."
    ),
    "Output spread": st.column_config.NumberColumn(
        format="%.2f", help="Largest |w| of an output (row) over the median of all outputs'."
    ),
    "Input spread": st.column_config.NumberColumn(
        format="%.2f", help="Largest |w| of an input (column) over the median of all inputs'."
    ),
}
"""How the columns of ``_spread`` are shown."""


def _roles(info: ModelInfo) -> None:
    """Where the megabytes are, by role."""
    figure = draw_size_bars(size_by(info), theme.palette())
    theme.chart(figure, "sizes", f"Size of {info.title} by role, in megabytes.")
    st.caption(f"In the checkpoint's dtype, {info.dtype}; experts of all blocks count under one role.")


def _weights(info: ModelInfo, chosen: Sequence[str], group: int) -> dict[str, float]:
    """Bytes of all weights as they are and in each family's default format at the group size, the largest first."""
    names = dict.fromkeys([ORIGINAL, *(default_format(family, group) for family in chosen)])
    key = f"{info.fingerprint} {len(info.units)}"
    sizes = {name: _bytes(key, name, info) for name in names}
    with suppress(QuantError):  # the diagram above says why a link's recipe cannot be had
        recipe = recipe_at_hand(info)
        if recipe is not None:
            sizes[RECIPE] = workspace().assigned_bytes(info, recipe)
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


@st.cache_resource(max_entries=256, show_spinner=False)
def _bytes(key: str, form: str, _info: ModelInfo) -> float:
    return workspace().weight_bytes(_info, form)


def _precisions() -> list[str]:
    """Which families are compared: by default those that layers are scored in."""
    known = families()
    headings = kinds()
    listed = [name for names in headings.values() for name in names]
    st.session_state.setdefault("memory:formats", [name for name in DEFAULT_FORMATS if name in known])
    return st.multiselect(
        "Formats", listed, key="memory:formats", persist_state="session", wrap=True,
        format_func=lambda name: f"{kind_title(known[name].kind)}: {known[name].title}",
        help="Precisions to compare with the original. Type to search by name or kind.",
    )  # fmt: skip


@st.fragment
def memory_view(info: ModelInfo) -> None:
    """Memory at each uniform precision with the KV cache at a chosen context length, and where that fits."""
    memory, roles = st.columns([3, 2], gap="large")
    with roles:
        st.subheader("Where the bytes are", anchor=False)
        _roles(info)
    with memory:
        st.subheader("Memory at each precision", anchor=False)
        weights, use = _memory(info)
    st.subheader("Fits on", anchor=False)
    _fits(info, weights, use)


def _memory(info: ModelInfo) -> tuple[dict[str, float], Use]:
    """The bars with their switches; gives the bytes of the weights at each precision, and the use they are for."""
    left, middle, right = st.columns([3, 1, 1], vertical_alignment="bottom")
    top = max(info.context_length, 512)
    context = min(state.CONTEXT.get(), top)
    tie = state.CONTEXT.widget()
    st.session_state[tie["key"]] = context
    left.slider(
        "Context in the KV cache (tokens)", 1, top, format="localized", **tie,
        help="Tokens of one sequence whose keys and values are kept.",
    )  # fmt: skip
    cache = middle.selectbox("KV cache", [16, 8, 4], format_func=lambda bits: f"{bits}-bit", key="memory:cache",
                             persist_state="session", help="Bits a cached value.")  # fmt: skip
    right.selectbox("Group size", **state.GROUP.choice([32, 64, 128], "memory:group"),
                    help="Weights that share a scale.")  # fmt: skip
    weights = _weights(info, _precisions(), state.GROUP.get())
    bars = memory(info, weights, context, cache or 16)
    theme.chart(
        draw_size_bars(bars, theme.palette(), stacked=True), "memory",
        f"Memory of {info.title} in each format at {context:,} tokens of context: "
        + ", ".join(f"{label} {sum(values):,.1f} MB" for label, values in
                    zip(bars.labels, zip(*bars.series.values(), strict=True), strict=True)) + ".",
    )  # fmt: skip
    st.caption(
        "Computed from the shapes, weights and cache only: activations and the runtime's own buffers come on top. The "
        "decided layers take the format, codes, scales and zero points included; embeddings, head and norms stay as "
        "in the checkpoint. 1 MB = 10⁶ bytes."
    )
    return weights, Use(context, 1, float(cache or 16))


def _fits(info: ModelInfo, weights: Mapping[str, float], use: Use) -> None:
    """Machines by precisions: whether the model fits, and how much of the memory then remains."""
    found = workspace().fits(info, weights, use)
    titles = {ORIGINAL: f"Original ({info.dtype})", RECIPE: "The recipe"}
    columns = {name: titles.get(name) or format_name(name) for name in weights}
    counts: dict[int, list[str]] = {}
    for name, title in columns.items():
        counts.setdefault(sum(fit.left(name) >= 0 for fit in found), []).append(title)
    told = "; ".join(f"{', '.join(names)} on **{count} of {len(found)}**" for count, names in counts.items())
    st.markdown(f"At {use.context:,} tokens of context it fits, as {told} devices.")
    frame = pd.DataFrame(
        [
            {
                "Device": fit.machine.title,
                "Memory (GB)": fit.machine.memory,
                "Usable (GB)": fit.usable / 1e9,
                **{title: _left(fit.left(name)) for name, title in columns.items()},
            }
            for fit in found
        ]
    )
    meaning = "Share of the usable memory that remains beside weights, KV cache and activations."
    st.dataframe(
        frame, hide_index=True, height=360, alt="Which devices the model fits on at each precision",
        column_config={
            "Device": st.column_config.TextColumn(pinned=True),
            "Memory (GB)": st.column_config.NumberColumn(
                format="localized", help="By the vendor's data sheet; 1 GB = 10⁹ bytes."
            ),
            "Usable (GB)": st.column_config.NumberColumn(
                format="%.1f", help="What a runtime is assumed to be able to use of it: see below the table."
            ),
            **{title: st.column_config.TextColumn(help=meaning) for title in columns.values()},
        },
    )  # fmt: skip
    st.caption(
        "Computed, not tried out: one sequence, weights, KV cache, and the activations of a prompt that passes in "
        "pieces of 2,048 tokens. Assumed is that a runtime can use 90 % of a GPU's memory (vLLM's default), two thirds "
        "of an Apple machine's up to 36 GB and three quarters beyond (Metal's recommended limit), and 80 % beside a "
        "CPU; the rest is the system's. One device each, nothing offloaded."
    )


def _left(share: float) -> str:
    """What remains of the memory, or how many times too small it is, in words."""
    return f"✓ {100 * share:.0f} % left" if share >= 0 else f"✗ needs {1 - share:.1f} × that"
