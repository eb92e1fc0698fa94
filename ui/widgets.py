"""What more than one page shows: the model's header, figures with their units, empty states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from quant_core.errors import QuantError
from quant_core.schema import ModelInfo, ModelRef
from ui import entry, setup, state, words
from ui.jobs import request_result, workspace

_SAID = "widgets:said"
_NOTES = 100
"""Notes that are written out."""


class Figure(NamedTuple):
    """A number, its unit in ``value``, and a sentence on what it means and where it comes from."""

    label: str
    value: str
    help: str
    delta: str = ""


def model_header(title: str, lead: str) -> ModelInfo:
    """The top of a page: its title, one sentence, and the model that is open, as the chosen rewrites leave it.

    While the model is being opened, or if it cannot be, it shows progress or the reason and stops the page.
    """
    info = try_header(title, lead)
    return setup.rewritten(info) if info is not None else st.stop()


def page_title(title: str, lead: str) -> DeltaGenerator:
    """A page's title, what a link asked for in vain, and one sentence, whose place is given."""
    st.title(title, anchor=False)
    for sentence in state.take_notes():
        st.warning(sentence, icon=":material/link_off:")
    caption = st.empty()
    caption.caption(lead)
    return caption


def try_header(title: str, lead: str) -> ModelInfo | None:
    """As ``model_header``, but the page goes on without a model."""
    caption = page_title(title, lead)
    info = open_model(state.model_ref())
    if info is not None:
        caption.caption(
            f"{lead}  \n**{info.title}** · {words.count(info.parameters)} parameters · "
            f"{info.architecture} · fingerprint `{words.fingerprint(info.fingerprint)}`"
        )
    return info


def open_model(ref: ModelRef) -> ModelInfo | None:
    """The model at ``ref``; until it is there, progress or the reason why not, with a way out."""
    try:
        request = workspace().inspect_request(ref)
    except QuantError as error:
        st.error(f"{error.message}\n\n{error.hint}", icon=":material/error:")
        info = None
    else:
        info = request_result(request)
    if info is None and ref.source != "bundled":
        st.button("Open the bundled model", on_click=state.open_model, args=(ModelRef("bundled"),))
    return info


def figures(items: Sequence[Figure]) -> None:
    """A row of numbers with units, each explained behind its question mark; it wraps when narrow."""
    with st.container(horizontal=True, gap="medium"):
        for item in items:
            st.metric(
                item.label,
                item.value,
                item.delta or None,
                help=item.help,
                delta_color="off",
                delta_arrow="off",
                width="content",
            )


def say(sentence: str, icon: str) -> None:
    """Have a callback's sentence shown by the ``said`` of the run that follows.

    A callback of a fragment may not draw, not even a toast.
    """
    st.session_state[_SAID] = (sentence, icon)


def said() -> None:
    """Show what a callback said, once."""
    if _SAID in st.session_state:
        sentence, icon = st.session_state.pop(_SAID)
        st.toast(sentence, icon=icon)


def notes(sentences: Sequence[str], key: str) -> None:
    """What went otherwise than asked: a line where it is one thing, else folded away under their number."""
    if len(sentences) == 1:
        st.caption(f":material/info: {sentences[0]}")
    elif sentences:
        with st.expander(f"{len(sentences):,} notes", icon=":material/info:", key=f"notes:{key}"):
            shown = [f"- {sentence}" for sentence in sentences[:_NOTES]]
            if len(sentences) > _NOTES:
                shown.append(f"- and {len(sentences) - _NOTES:,} more")
            st.markdown("\n".join(shown))


def empty_state(sentence: str, stem: str = "", label: str = "", **changes: str) -> None:
    """What stands on a page that has nothing to show yet: why, and the link to the next action."""
    with st.container(border=True):
        st.markdown(sentence)
        if stem:
            entry.link(stem, label, **changes)
