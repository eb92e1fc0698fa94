"""The checkpoint page: pick somebody's quantized checkpoint, and see what it holds and how far it is off."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import streamlit as st

from quant_core import plots
from quant_core.errors import QuantError
from quant_core.folders import Folder
from quant_core.schema import ImportRequest, ModelInfo, QuantizedCheckpoint
from quant_core.workspace import browser_roots
from ui import entry, state, theme, words
from ui.format_names import format_name
from ui.jobs import request_result, show_error, workspace
from ui.runs_words import plain
from ui.widgets import Figure, figures, notes

AT = state.text_param("checkpoint", "the quantized checkpoint", pattern=r"[^\0\n]{0,400}")
BESIDE = state.choice_param("beside", "what it is compared with", ("model", "none"))
_HEIGHT = 220
_SHORT = 4
"""Entries that are shown without scrolling."""
_UNMATCHED = 500
"""Names that are listed."""


def show(info: ModelInfo | None) -> None:
    """The way to a checkpoint, what it is compared with, and what was found."""
    place = _picker()
    if place is None:
        return
    beside = _beside(info)
    try:
        request = workspace().import_request(str(place), beside)
    except QuantError as error:
        show_error(error)
        return
    against = f" and compare every weight with {plain(beside.title)}'s" if beside is not None else ""
    found = request_result(
        request, start="Read it",
        why=f"Read what each weight of **{plain(place.name)}** holds{against}, one at a time.",
    )  # fmt: skip
    if found is not None:
        _finished(request, found)


def _picker() -> Path | None:
    """A path to type and folders to walk through; the checkpoint that is chosen, None while none is."""
    roots = [root for root in browser_roots() if root.is_dir()]
    at = st.text_input(
        "Quantized checkpoint", placeholder="models/Llama-3-8B-GPTQ, or a .gguf file", **AT.widget(),
        help="A folder with config.json and safetensors weights, or a GGUF file, of a split one any part. Allowed: "
        f"{', '.join(f'`{root}`' for root in roots)}, and folders named in the environment variable "
        "QUANTLENS_MODEL_ROOTS before the start.",
    ).strip()  # fmt: skip
    if not at:
        with st.container(border=True):
            st.markdown(
                "You downloaded a model that somebody quantized: pick its folder or its file. QuantLens reads "
                "**GPTQ**, **AWQ**, **compressed-tensors**, **FP8**, **bitsandbytes** and **GGUF**, says what each "
                "weight holds and in how many bits, and how far it is from the original's. The open model is the "
                "original: open the one that the checkpoint was made from on Start, or compare with none."
            )
        with st.container(key="checkpoint:folders", border=False, gap=None):
            for root in roots:
                _entry(Folder(root, str(root)))
        return None
    place = Path(at).expanduser()
    try:
        found = workspace().folders(place.parent if place.is_file() else place, files=True)
    except QuantError as error:
        show_error(error)
        _up("", "All folders")
        return None
    chosen = place if place.is_file() or found.here.method else None
    rows = len(found.inside)
    with st.container(
        height=_HEIGHT if rows > _SHORT else "content", border=False, gap=None, key="checkpoint:folders"
    ):
        above = str(found.above) if found.above else ""
        _up(above, "Up" if above else "All folders")
        for folder in found.inside:
            _entry(folder)
        if found.left_out:
            st.caption(f"{found.left_out:,} further entries: type the path.")
        elif chosen is None and not found.inside:
            st.caption("No folders in here, no GGUF file, and no quantized checkpoint.")
    if chosen is None and found.here.kind:
        st.info(
            f"**{plain(found.here.name)}** is not quantized: its config.json names no quantization. Open it as a model "
            "on Start.",
            icon=":material/deployed_code:",
        )
    return chosen


def _up(path: str, label: str) -> None:
    st.button(
        label, icon=":material/arrow_upward:", type="tertiary", on_click=AT.set, args=(path,), key="checkpoint:up"
    )  # fmt: skip


def _entry(folder: Folder) -> None:
    kind = folder.method or folder.kind
    told = f"{folder.name} · {kind} · {words.size(folder.bytes)}" if kind else folder.name
    icon = ":material/inventory_2:" if folder.method else ":material/folder:"
    st.button(
        told, icon=icon, type="tertiary", key=f"checkpoint:{folder.path}", on_click=AT.set, args=(str(folder.path),)
    )  # fmt: skip


def _beside(info: ModelInfo | None) -> ModelInfo | None:
    """The original, which is the open model, or none."""
    if info is None:
        st.caption("No model is open, so that it is compared with none.")
        return None
    titles = {"model": f"Compare with {info.title}", "none": "Compare with none"}
    st.segmented_control(
        "The original", **BESIDE.choice(list(titles)), required=True, format_func=titles.__getitem__,
        help="The model that the checkpoint was made from. Another one is opened on Start.",
    )  # fmt: skip
    return info if BESIDE.get() == "model" else None


def _finished(request: ImportRequest, found: QuantizedCheckpoint) -> None:
    _figures(found)
    data = plots.checkpoint_errors(found)
    if found.compared:
        theme.chart(
            plots.draw_checkpoint_errors(data, theme.palette()),
            "checkpoint-errors",
            f"Bars of the relative error of each layer. {plots.checkpoint_text(data)}",
        )
        st.markdown(plain(plots.checkpoint_text(data)))
    notes(found.notes, "checkpoint")
    _unmatched(found)
    st.dataframe(
        frame(found), hide_index=True, width="stretch", alt="What each weight holds",
        column_config={
            "Bits": st.column_config.NumberColumn(
                format="%.2f", help="Stored bits a weight: codes, scales, zero points and all else of the layer."
            ),
            "Size (MB)": st.column_config.NumberColumn(format="%.3f", help="1 MB = 10⁶ bytes."),
            "Error": st.column_config.NumberColumn(
                format="%.4f", help="|W' − W| / |W|: W the original's weight, W' the checkpoint's; without unit."
            ),
            "SQNR (dB)": st.column_config.NumberColumn(
                format="%.1f", help="10·log₁₀(|W|² / |W' − W|²); the lower, the worse."
            ),
        },
    )  # fmt: skip
    with st.container(horizontal=True):
        if found.compared:
            key = workspace().key_of(request)
            entry.link("compare", "Generate beside the original", other=f"import:{key}", tab="texts")
        entry.link("runs", "See it among the runs", kind="Quantized checkpoint")
    st.caption(f"Read in {words.duration(found.seconds)}; content `{words.fingerprint(found.content)}`.")


def _figures(found: QuantizedCheckpoint) -> None:
    items = [
        Figure("How it is packed", found.method, "Named by its config.json, or its file. What each weight holds is "
               "read from its tensors."),
        Figure("Quantized", f"{len(found.quantized):,} weights", "Matrices that are not plain floats.",
               f"of {len(found.weights):,}"),
        Figure("Bits a weight", words.bits(found.bits_per_weight), "Of the quantized weights: all stored bits of "
               "their layers, scales and zero points included, divided by their number of values."),
        Figure("On disk", words.size(found.bytes), "Its files of weights. 1 MB = 10⁶ bytes."),
    ]  # fmt: skip
    if found.error is not None:
        ratio = f"SQNR {-20 * math.log10(found.error):.1f} dB" if found.error else "the same values"
        items.append(
            Figure("Error against the original", words.share(found.error), "Of all quantized weights that were "
                   f"compared with {found.original}'s: the root of the summed squares of the differences over that of "
                   "the weights.", ratio)
        )  # fmt: skip
    figures(items)


def _unmatched(found: QuantizedCheckpoint) -> None:
    """What has no counterpart, by name and reason."""
    if not found.unmatched:
        return
    count = len(found.unmatched)
    title = "1 weight was not compared" if count == 1 else f"{count:,} weights were not compared"
    with st.expander(title, icon=":material/link_off:", key="checkpoint:unmatched"):
        rows = [(one.name, one.reason) for one in found.unmatched[:_UNMATCHED]]
        st.dataframe(
            pd.DataFrame(rows, columns=["Weight", "Why"]), hide_index=True, width="stretch",
            alt="Weights without a counterpart",
        )  # fmt: skip
        if count > _UNMATCHED:
            st.caption(f"The first {_UNMATCHED} of {count:,}.")


def frame(found: QuantizedCheckpoint) -> pd.DataFrame:
    """A row a weight; what was not compared has no error."""
    rows = [
        (
            one.name,
            one.holds + (", rescaled" if one.rescaled else ""),
            one.bits_per_weight,
            one.error,
            one.sqnr_db,
            one.bits / 8e6,
            f"{one.rows} × {one.columns}",
            one.unit if one.unit not in ("", one.name) else None,
            format_name(one.format) if one.format else None,
        )
        for one in found.weights
    ]
    names = [
        "Weight", "Holds", "Bits", "Error", "SQNR (dB)", "Size (MB)", "Shape", "In the original", "QuantLens format"
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=names).dropna(axis="columns", how="all")
