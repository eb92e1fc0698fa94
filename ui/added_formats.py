"""More formats beside a sweep's own, scored from the state it left: no text is read, no model run."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from quant_core.schema import ModelInfo, ScoreTable
from ui import scores, state
from ui.format_names import format_name
from ui.format_picker import format_picker
from ui.jobs import latest, request_result, submit, wait_a_moment, workspace

PICKED = state.text_param("pick", "the format to add", "int3/g32/asym", r"[\w/.@:=+-]{1,160}")


def panel(info: ModelInfo, sweep: ScoreTable) -> ScoreTable:
    """What adds formats and takes them away; gives the sweep with the columns that have arrived."""
    names = scores.added(sweep)
    shown = f"Add formats ({len(names)} added)" if names else "Add formats"
    with st.expander(shown, icon=":material/bolt:", key="added"):
        if not sweep.state:
            st.caption(_stateless(sweep))
        else:
            _picker(sweep, names)
    if sweep.state:
        _fetch(info, sweep, names)
    return scores.with_added(info, sweep)


def _stateless(sweep: ScoreTable) -> str:
    kind = "A measured sweep" if sweep.measured and not sweep.fisher else "This sweep"
    return (
        f"{kind} left no score state, from which formats are scored at once. Choose the formats in the settings and "
        "score the layers by the Fisher score: from then on any other is added here."
    )


def _picker(sweep: ScoreTable, names: Sequence[str]) -> None:
    picked = format_picker(PICKED, "added:format")
    known = picked in sweep.formats or picked in names
    st.button(
        "Add this format", type="primary", icon=":material/add:", key="added:add", disabled=known, on_click=_add_shown,
        args=(picked,), help="Scores every layer in it from what the sweep kept of the text, without running the "
        "model.",
    )  # fmt: skip
    if known:
        st.caption("The scores below hold it already.")
    if names:
        st.session_state["added:names"] = list(names)
        st.multiselect(
            "Added, from the score state", list(names), format_func=format_name, key="added:names", wrap=True,
            on_change=lambda: scores.ADDED.set(tuple(st.session_state["added:names"])),
            help="Take a format away with its cross. The sweep's own formats stay.",
        )  # fmt: skip


def _add_shown(name: str) -> None:
    """Add a format and open it."""
    add([name])
    state.FORMAT.set(name)


def add(names: Sequence[str]) -> None:
    """Have formats scored, by full name, and shown beside the sweep's own."""
    scores.ADDED.set(tuple(dict.fromkeys([*scores.ADDED.get(), *names])))


def add_button(names: Sequence[str], sweep: ScoreTable, key: str) -> bool:
    """Inside a fragment: one press that adds the missing formats; says whether this sweep allows it."""
    if not sweep.state:
        return False
    count = f"the {len(names)} missing formats" if len(names) > 1 else format_name(names[0])
    if st.button(f"Score the layers in {count}", key=key, icon=":material/bolt:", type="primary"):
        add(names)
        st.rerun()  # the table is made outside of the fragment
    return True


def _fetch(info: ModelInfo, sweep: ScoreTable, names: Sequence[str]) -> None:
    """Ask for the columns that are not there, all at once; what takes longer shows its progress here."""
    requests = [scores.rescore(info, sweep, [name]) for name in names]
    missing = [request for request in requests if workspace().result(request) is None]
    fresh = [request for request in missing if latest(request) is None]
    wait_a_moment([job for job in map(submit, fresh) if job is not None])
    for request in missing:
        request_result(request)


def origin(table: ScoreTable, form: str) -> str:
    """How a column came about, a sentence for a caption; empty for a sweep's own."""
    if form not in table.rescored:
        return ""
    return (
        f"{format_name(form)} comes from the score state: the model was not run for it. Its error also holds how far "
        "such scores scatter around those computed token by token."
    )
