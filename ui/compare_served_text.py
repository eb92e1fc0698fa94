"""The text of a served model, streamed beside the original's and the approved recipe's, and how fast it came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import streamlit as st

from quant_core import served
from quant_core.schema import Endpoint, ModelInfo, Recipe, ServedRequest, ServedText, Side, TokenEvent
from quant_core.store.keys import request_key
from ui import compare_text, setup, state, words
from ui.compare_page import LENGTH, PROMPT, SEED, TEMPERATURE
from ui.compare_variants import leave, named, roots, start
from ui.jobs import progress_text, show_in_place, workspace
from ui.widgets import Figure, figures, notes

DRAW = state.choice_param("draw", "how the server draws", ("greedy", "sampled"))
WROTE = state.text_param("wrote", "the served text", pattern=r"[0-9a-f]{0,24}")
"""Content key of the text that is shown."""
_GREEDY = "All take the likeliest token, so until then they agree word for word."
_OWN = "The server draws with random numbers of its own, so texts part soon even if the models are the same."
_DRAWS = {"greedy": "Likeliest token", "sampled": "Drawn by chance"}


def text_request(info: ModelInfo, endpoint: Endpoint, recipe: Recipe | None, asked: str) -> ServedRequest:
    """A text as the settings say; ``greedy`` alone can be compared word for word."""
    return ServedRequest(
        info.ref, info.fingerprint, endpoint, PROMPT.get(), recipe.assignment() if recipe else None,
        LENGTH.get(), SEED.get(), 0.0 if DRAW.get() == "greedy" else TEMPERATURE.get(), asked=asked,
        setup=setup.current(info), roots=roots(info),
    )  # fmt: skip


def show(info: ModelInfo, endpoint: Endpoint, recipe: Recipe | None, title: str) -> None:
    """The text that the address names, growing or finished; above it the form."""
    st.subheader("Its text beside the original's", anchor=False)
    st.text_area("Prompt", height=90, max_chars=2000, **PROMPT.widget("served:prompt"))
    st.segmented_control(
        "Each token", **DRAW.choice(list(_DRAWS)), required=True, format_func=_DRAWS.__getitem__,
        help="A server draws with random numbers of its own, even with the same seed: only likeliest tokens can be "
        "compared word for word.",
    )  # fmt: skip
    st.button(
        "Write", type="primary", key="served:write", disabled=not PROMPT.get().strip(), on_click=_start_text,
        args=(info, endpoint, recipe),
    )  # fmt: skip
    if not WROTE.get():
        drawn = "" if DRAW.get() == "greedy" else f", seed {SEED.get()}, temperature {TEMPERATURE.get():g}"
        st.caption(
            f"{LENGTH.get()} tokens at most{drawn}, as set under Texts. The server writes first, so that nothing here "
            f"slows it down; then the original{' and the recipe' if recipe else ''}."
        )
        return
    active = next((job for job in workspace().jobs(50) if job.key == WROTE.get() and job.active), None)
    if active is not None:
        show_in_place(active.id)
        titles: dict[Side, str] = {"original": "Original"}
        titles |= {"recipe": title} if recipe else {}
        _stream(active.id, PROMPT.get(), {**titles, "other": "Served"})
        return
    found = named(WROTE, info, "Write anew")
    if found is not None and isinstance(found.request, ServedRequest):
        _written(found.request, cast(ServedText, found.result))


def _start_text(info: ModelInfo, endpoint: Endpoint, recipe: Recipe | None) -> None:
    request = text_request(info, endpoint, recipe, served.now())
    start(request, WROTE, request_key(request))


@st.fragment(run_every=0.25)
def _stream(job_id: str, prompt: str, titles: Mapping[Side, str]) -> None:
    job = workspace().job(job_id)
    if not job.active:
        st.rerun()
    left, right = st.columns([6, 1], vertical_alignment="center")
    left.caption(progress_text(job))
    right.button(
        "Stop", key=f"stop:{job.id}", icon=":material/stop:", on_click=workspace().cancel, args=(job.id,)
    )
    compare_text.show(prompt, _sides(workspace().events(job_id)), titles, writing=True)


def _sides(events: Sequence[TokenEvent]) -> compare_text.Sides:
    sides = compare_text.from_events(events)
    return sides._replace(other=served.aligned(sides.original, sides.other))


def _written(request: ServedRequest, found: ServedText) -> None:
    titles: dict[Side, str] = {"original": "Original"}
    titles |= {"recipe": "Approved recipe"} if request.assignment is not None else {}
    titles |= {"other": f"Served: {served.short(found.name)}"}
    sides = compare_text.Sides(found.original, found.approved, served.aligned(found.original, found.served))
    draws = _GREEDY if request.temperature == 0 else _OWN
    compare_text.show(request.prompt, sides, titles, writing=False, draws=draws)
    count = "as the server counted" if found.counted else "a piece of the stream each"
    rate = f"{words.significant(found.rate)} tokens/s" if found.rate else "–"
    figures(
        [
            Figure("First text after", f"{1e3 * found.first:.0f} ms",
                   "From request to first text, measured here: connection, queue and reading of the prompt included."),
            Figure("Writing", rate, f"Tokens a second behind the first, measured here ({count}); – for a short text."),
            Figure("Written", f"{found.written:,} tokens", f"Tokens of the served text, {count}."),
        ]
    )  # fmt: skip
    sampled = f"temperature {request.temperature:g}, seed {request.seed}"
    st.caption(
        f"`{request.endpoint.address}` at {request.asked[:16].replace('T', ' ')} UTC, "
        f"{sampled if request.temperature else 'likeliest tokens'}, one run: times vary with what else the server does."
    )
    notes(found.notes, "served")
    leave(WROTE, "Write anew")
