"""The card for a model in a folder: walk through the allowed folders, or type a path."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from quant_core.errors import QuantError
from quant_core.folders import Folder
from quant_core.schema import ModelRef
from quant_core.workspace import browser_roots
from ui import words
from ui.entry import link
from ui.jobs import show_error, workspace
from ui.opening import open_button, want
from ui.runs_words import plain

_AT = "picker:folder"
_HEIGHT = 220
_SHORT = 4
"""Entries that are shown without scrolling."""


def card() -> None:
    """A path to type, the folders to walk through below it, and the button for one that holds a model."""
    roots = [root for root in browser_roots() if root.is_dir()]
    st.text_input(
        "Folder with a model", key=_AT, placeholder="models/my-model", persist_state="session",
        on_change=want, args=(None,),
        help="A folder with config.json, safetensors weights and a tokenizer. Allowed: "
        f"{', '.join(f'`{root}`' for root in roots)}, and folders named in the environment variable "
        "QUANTLENS_MODEL_ROOTS before the start.",
    )  # fmt: skip
    at = (st.session_state.get(_AT) or "").strip()
    if not at:
        with _list(len(roots)):
            for root in roots:
                _entry(Folder(root, str(root)))
        return
    try:
        found = workspace().folders(Path(at).expanduser())
    except QuantError as error:
        show_error(error)
        st.button("All folders", icon=":material/arrow_upward:", type="tertiary", on_click=_go, args=("",))
        return
    if found.here.kind:
        st.markdown(f"**{found.here.name}** · {found.here.kind} · {words.size(found.here.bytes)}")
        if found.here.method:
            st.caption(f"It is quantized ({plain(found.here.method)}): only an original can be opened.")
            link("checkpoint", "See what it holds", checkpoint=str(found.here.path))
        else:
            open_button(ModelRef(str(found.here.path)), "Open the folder", "picker:open-folder")
    with _list(len(found.inside)):
        above = str(found.above) if found.above else ""
        st.button(
            "Up" if above else "All folders", icon=":material/arrow_upward:", type="tertiary", on_click=_go,
            args=(above,), key="folders:up",
        )  # fmt: skip
        for folder in found.inside:
            _entry(folder)
        if found.left_out:
            st.caption(f"{found.left_out:,} further folders: type the path.")
        elif not found.inside and not found.here.kind:
            st.caption("No folders in here, and no model: it would have config.json and safetensors weights.")


def _list(entries: int) -> DeltaGenerator:
    """A place for folders, which scrolls where they are many."""
    height: Literal["content"] | int = _HEIGHT if entries > _SHORT else "content"
    return st.container(height=height, border=False, gap=None, key="folders")


def _entry(folder: Folder) -> None:
    label = f"{folder.name} · {folder.kind} · {words.size(folder.bytes)}" if folder.kind else folder.name
    icon = ":material/deployed_code:" if folder.kind else ":material/folder:"
    st.button(
        label, icon=icon, type="tertiary", key=f"folders:{folder.path}", on_click=_go, args=(str(folder.path),)
    )  # fmt: skip


def _go(path: str) -> None:
    want(None)
    st.session_state[_AT] = path
