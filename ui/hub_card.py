"""The card for a model on the Hugging Face hub: what it is and takes, then the download, then the model."""

from __future__ import annotations

import re
from datetime import date

import streamlit as st

from quant_core.schema import DownloadRequest, HubModel, LookRequest, ModelRef
from ui import state, words
from ui.jobs import latest, request_result, workspace
from ui.opening import chosen, open_button, want

HUB = state.text_param("hub", "the hub model", pattern=r"([\w.-]{1,96}(/[\w.-]{1,96})?(@[\w./-]{1,120})?)?")
"""The model that is looked at, as ``id@revision``."""
_AGAIN = "hub:again"
_UNDER_WAY = "hub:under-way"
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def card() -> None:
    """An id to type; what the hub says of it; the download, and how it is going."""
    name, _, revision = HUB.get().partition("@")
    with st.form("hub:form", border=False):
        left, right = st.columns([3, 2])
        typed = left.text_input(
            "Hub id", name, placeholder="organisation/name",
            help="Safetensors weights only, and no code from the repository is run. A token is read from HF_TOKEN; it "
            "is never stored or shown.",
        )  # fmt: skip
        wanted = right.text_input(
            "Revision", revision, placeholder="main", help="A branch, tag or commit; empty for the newest."
        )
        pressed = st.form_submit_button("Look", icon=":material/search:", key="hub:look")
    if pressed:
        _look(typed.strip(), wanted.strip())
    here = workspace().downloaded()
    if here:
        st.caption("On this machine already: " + ", ".join(f"`{each}`" for each in here[:8]))
    if not HUB.get():
        st.caption("Nothing is downloaded before you have seen its size and its licence.")
        return
    name, _, revision = HUB.get().partition("@")
    if name in here:
        open_button(
            ModelRef(name, revision),
            "Open what is here",
            "picker:open-hub",
            help="Without a look at the hub.",
        )
    asked = f"{date.today().isoformat()}{st.session_state.get(_AGAIN, '')}"
    found = request_result(LookRequest(name, revision, asked))
    if found is not None:
        _facts(found)
        _download(found, revision)


def _look(name: str, revision: str) -> None:
    text = f"{name}@{revision}" if revision else name
    want(None)
    if not name or not re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", name):
        st.error(
            "A hub id reads organisation/name.\n\nCopy it from the model's page.", icon=":material/error:"
        )
        return
    if HUB.get() == text:  # again: what the hub says may have changed
        st.session_state[_AGAIN] = f" {int(st.session_state.get(_AGAIN) or 0) + 1}"
    HUB.set(text)


def _facts(found: HubModel) -> None:
    """Size, dtype, licence and access, beside what is free on this machine."""
    room = workspace().room(found)
    values = ", ".join(
        f"{words.count(number)} in {_DTYPES.get(dtype, dtype)}" for dtype, number in found.parameters.items()
    )
    left = max(found.bytes - room.here, 0)
    lines = [
        f"**{found.source}** at commit `{found.commit[:8]}`",
        f"{words.size(found.bytes)} in {len(found.files)} files · {words.size(room.disk)} free on the disk",
        f"Parameters: {values or 'not told by the hub'} · {words.size(room.memory)} of memory free",
        f"Licence: {found.licence or 'not stated'}"
        + (" · access is granted by its authors: HF_TOKEN must be set" if found.gated else ""),
    ]
    if 0 < room.here < found.bytes:
        lines.append(
            f"{words.size(room.here)} are here already: the download goes on with {words.size(left)}"
        )
    st.markdown("  \n".join(lines))
    if left > room.disk:
        st.warning(
            f"The disk lacks {words.size(left - room.disk)}: free some, or set HF_HOME to another disk.",
            icon=":material/hard_drive:",
        )
    with st.expander("Files", key="hub:files"):
        st.markdown("\n".join(f"- `{file.name}` · {words.size(file.bytes)}" for file in found.files))


def _download(found: HubModel, revision: str) -> None:
    if found.problem:
        st.error(found.problem, icon=":material/error:")
        return
    ref = ModelRef(found.source, revision)
    if workspace().room(found).here >= found.bytes:
        if st.session_state.pop(_UNDER_WAY, None) == found.source:  # it came while one looked on
            want(chosen(ref))
        open_button(ref, "Open", "picker:open-downloaded")
        return
    request = DownloadRequest(found.source, revision, found.commit, found.files)
    job = latest(request)
    if job is not None and job.active:
        st.session_state[_UNDER_WAY] = found.source
    request_result(request, start="Download and open")
