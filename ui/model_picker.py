"""Choosing a model: bundled, one opened before, a folder, or a hub id; what is open stays open until the
other is.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from quant_core.errors import QuantError
from quant_core.schema import ModelInfo, ModelRef
from quant_core.workspace import browser_roots
from ui import state, words
from ui.jobs import request_result, show_error, workspace

_WANTED = "picker:wanted"
_KINDS = {"bundled": "Bundled", "recent": "Opened before", "folder": "Folder", "hub": "Hugging Face"}


def picker() -> None:
    """The ways to a model, one form open at a time; opening happens below it."""
    with st.container(border=True):
        kind = st.segmented_control(
            "Model from", list(_KINDS), format_func=_KINDS.__getitem__, default="bundled", required=True,
            key="picker:kind", persist_state="session", on_change=_want, args=(None,),
        )  # fmt: skip
        {"bundled": _bundled, "recent": _recent, "folder": _folder, "hub": _hub}[kind or "bundled"]()
        _how()
        _opening()


def _bundled() -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        _open_button(ModelRef("bundled"), "Open the bundled model")
        st.caption(
            "A small Llama-like model that comes with QuantLens: every step takes seconds.", width="content"
        )


def _recent() -> None:
    known = workspace().recent()
    if not known:
        st.caption("Nothing has been opened before.")
        return
    info = st.selectbox("Opened before", known, format_func=_named, key="picker:recent")
    if info is not None:
        _open_button(info.ref, "Open", as_it_was=True)


def _named(info: ModelInfo) -> str:
    where = info.ref.source + (f"@{info.ref.revision}" if info.ref.revision else "")
    name = info.title if where == "bundled" else f"{info.title} ({where})"
    return f"{name} · {words.count(info.parameters)} parameters · {info.compute_dtype} on {info.device}"


def _folder() -> None:
    roots = ", ".join(f"`{root}`" for root in browser_roots())
    path = st.text_input(
        "Folder with a model", key="picker:folder", placeholder="models/my-model", persist_state="session",
        on_change=_want, args=(None,),
        help=f"A folder with config.json, safetensors weights and a tokenizer. Allowed: {roots}, and folders named "
        "in the environment variable QUANTLENS_MODEL_ROOTS before the start.",
    )  # fmt: skip
    path = (path or "").strip()
    if path and not Path(path).expanduser().is_dir():
        st.error(
            f"There is no folder “{path}”.\n\nGive a path from {Path.cwd()} or a full path.",
            icon=":material/error:",
        )
        return
    _open_button(ModelRef(path), "Open the folder", disabled=not path)


def _hub() -> None:
    left, right = st.columns([3, 1.4])
    name = left.text_input(
        "Hub id", key="picker:hub", placeholder="organisation/name", persist_state="session",
        on_change=_want, args=(None,),
        help="Safetensors weights only, and no code from the repository is run. A token is read from HF_TOKEN; it is "
        "never stored or shown.",
    )  # fmt: skip
    revision = right.text_input("Revision", key="picker:revision", placeholder="main", persist_state="session",
                                help="A branch, tag or commit; empty for the newest.")  # fmt: skip
    if found := workspace().downloaded():
        st.caption("On this machine already: " + ", ".join(f"`{name}`" for name in found[:8]))
    ref = ModelRef((name or "").strip(), (revision or "").strip())
    _open_button(ref, "Open from the hub", disabled=not ref.source)


def _how() -> None:
    with st.expander("How to compute", icon=":material/memory:"):
        left, right = st.columns(2)
        left.selectbox(
            "Dtype", ["auto", "float32", "bfloat16", "float16"], key="picker:dtype", persist_state="session",
            help="In which the model runs. auto: float32 on a CPU, bfloat16 elsewhere. Sizes always follow the "
            "checkpoint's dtype.",
        )  # fmt: skip
        right.selectbox(
            "Device", ["auto", "cpu", "cuda", "mps"], key="picker:device", persist_state="session",
            help="auto takes a GPU if there is one.",
        )  # fmt: skip


def _open_button(ref: ModelRef, label: str, disabled: bool = False, as_it_was: bool = False) -> None:
    if not as_it_was:
        dtype = st.session_state.get("picker:dtype") or "auto"
        ref = ModelRef(ref.source, ref.revision, dtype, st.session_state.get("picker:device") or "auto")
    st.button(label, type="primary", disabled=disabled, key="picker:open", on_click=_want, args=(ref,))


def _want(ref: ModelRef | None) -> None:
    """Open this model next; None forgets what was wanted, and why it failed."""
    st.session_state[_WANTED] = ref


def _opening() -> None:
    """Open the wanted model: progress or the reason why not stands here, and what was open stays open."""
    ref: ModelRef | None = st.session_state.get(_WANTED)
    if ref is None:
        return
    try:
        request = workspace().inspect_request(ref)
    except QuantError as error:
        show_error(error)
        return
    info = request_result(request)
    if info is not None:
        del st.session_state[_WANTED]
        state.open_model(request.model)
        st.rerun()
    st.button("Never mind", type="tertiary", key="picker:forget", on_click=_want, args=(None,))
