"""Opening a model from one of the cards of the start page; what is open stays open until the other is."""

from __future__ import annotations

import streamlit as st

from quant_core.errors import QuantError
from quant_core.schema import ModelRef
from ui import state
from ui.jobs import latest, request_result, show_error, workspace

_WANTED = "picker:wanted"


def open_button(
    ref: ModelRef, label: str, key: str, disabled: bool = False, as_it_was: bool = False, help: str = ""
) -> None:
    """A button that opens a model: computed in as is chosen below the cards, or ``as_it_was`` opened before."""
    if not as_it_was:
        ref = chosen(ref)
    st.button(
        label, type="primary", disabled=disabled, key=key, on_click=want, args=(ref,), help=help or None
    )


def chosen(ref: ModelRef) -> ModelRef:
    """A model with the dtype and the device that are chosen."""
    dtype = st.session_state.get("picker:dtype") or "auto"
    return ModelRef(ref.source, ref.revision, dtype, st.session_state.get("picker:device") or "auto")


def want(ref: ModelRef | None) -> None:
    """Open this model next; None forgets what was wanted, and why it failed."""
    st.session_state[_WANTED] = ref


def how() -> None:
    """In which dtype and on which device models are opened."""
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


def opening() -> None:
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
    job = latest(request)
    if job is None or not job.active:  # while it runs, Cancel stands beside its progress
        st.button("Never mind", type="tertiary", key="picker:forget", on_click=want, args=(None,))


def wanted() -> bool:
    """Whether a model is being opened, or was not to be opened."""
    return st.session_state.get(_WANTED) is not None
