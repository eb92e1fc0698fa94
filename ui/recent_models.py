"""Models that were opened before, each with what is finished for it and the way there."""

from __future__ import annotations

import streamlit as st

from quant_core.schema import ModelInfo
from quant_core.workspace import Finished
from ui import entry, state, words
from ui.jobs import workspace
from ui.opening import open_button

MOST = 8


def table() -> None:
    """One row a model, the last used first."""
    st.subheader("Opened before", anchor=False)
    known = workspace().recent()
    if not known:
        st.caption("Nothing yet. Every model that you open is kept here, with its scores and recipes.")
        return
    for place, info in enumerate(known[:MOST]):
        _row(info, f"recent:{place}")
    if len(known) > MOST:
        st.caption(f"{len(known) - MOST:,} further models were opened longer ago.")


def _row(info: ModelInfo, key: str) -> None:
    done = workspace().finished(info.fingerprint)
    place = {
        "model": info.ref.source, "revision": info.ref.revision, "dtype": info.ref.dtype, "device": info.ref.device,
        "unit": "", "trained": "",
    }  # fmt: skip
    with st.container(border=True, key=key):
        left, right = st.columns([5, 1], vertical_alignment="center")
        with left:
            st.markdown(f"**{info.title}** · {_where(info)}  \n{summary(done)}")
        with right:
            if info.ref == state.model_ref():
                st.caption("open now")
            else:
                open_button(info.ref, "Open", f"{key}:open", as_it_was=True)
        with st.container(horizontal=True, gap="small"):
            if done.sweeps:
                entry.link("sensitivity", "Scores", **place, recipe="")
            for recipe in done.recipes:
                label = f"Recipe of {words.size(recipe.bytes)} ({words.bits(recipe.average_bits)} a weight)"
                entry.link("recipe", label, **place, recipe=recipe.id)


def _where(info: ModelInfo) -> str:
    """Where it comes from, its size, and what it computes in."""
    source = "comes with QuantLens" if info.ref.source == "bundled" else f"`{info.ref.source}`"
    at = f" at {info.ref.revision}" if info.ref.revision else ""
    return (
        f"{source}{at} · {words.count(info.parameters)} parameters · {words.size(info.original_bits / 8)} · "
        f"{info.compute_dtype} on {info.device}"
    )


def summary(done: Finished) -> str:
    """What is finished, in words."""
    counted = (
        (done.sweeps, "sweep of scores", "sweeps of scores"),
        (len(done.recipes), "recipe", "recipes"),
        (done.proofs, "proof", "proofs"),
        (done.evaluations, "measured recipe", "measured recipes"),
        (done.trainings, "training", "trainings"),
    )
    parts = [f"{number:,} {one if number == 1 else many}" for number, one, many in counted if number]
    return f"Finished: {', '.join(parts)}" if parts else "Nothing has been worked out yet"
