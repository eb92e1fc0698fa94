"""A served model beside the original: its text and speed, and whether it is still what was approved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import pandas as pd
import streamlit as st

from quant_core import plots, served
from quant_core.errors import QuantError
from quant_core.schema import (
    Check,
    CheckRequest,
    Endpoint,
    ModelInfo,
    Recipe,
)
from quant_core.store.keys import request_key
from ui import compare_served_text, runs_words, setup, state, theme, words
from ui.compare_variants import leave, named, roots, start
from ui.entry import link
from ui.jobs import show_error, workspace
from ui.widgets import Figure, figures, notes

ADDRESS = state.text_param("endpoint", "the server's address", pattern=r"\S{0,300}")
NAME = state.text_param("served", "the served model", pattern=r"[^\x00-\x1f]{0,200}")
ALLOWED = state.number_param("allowed", "the limit of a check", served.LIMIT, 1e-6, 100.0)
CHECKED = state.text_param("checked", "the check", pattern=r"[0-9a-f]{0,24}")
"""Content key of the check that is shown."""
_KEY = "served:key"
"""Where the session keeps the name of the key's variable; no address does, so that no link can have a key sent."""
_START = """llama-server -m model.gguf --port 8080
vllm serve FOLDER --port 8000
ollama serve"""


class Approved(NamedTuple):
    """What the endpoint is to be: the recipe under work, or the original as long as there is none."""

    assignment: Mapping[str, str]
    recipe: Recipe | None
    title: str


def show(info: ModelInfo, recipe: Recipe | None) -> None:
    """The endpoint's form; behind it its text, the check, and all checks so far."""
    st.markdown(
        "Name a server that speaks OpenAI's completions API (vLLM, llama.cpp, Ollama): read its text beside the "
        "original's, time it, and check whether it still serves what you approved. A check sends token ids and needs "
        "log-probabilities, as vLLM and llama.cpp give them; a server without them can be read and timed."
    )
    endpoint = _endpoint()
    if endpoint is None:
        return
    title = f"Recipe at {words.bits(recipe.average_bits)}" if recipe else "Original"
    approved = Approved(recipe.assignment() if recipe else {}, recipe, title)
    past = _checks(info, check_request(info, endpoint, approved, ""))
    _check(info, endpoint, approved, past)
    _history(info, endpoint, approved, past)
    compare_served_text.show(info, endpoint, approved.recipe, approved.title)


def _endpoint() -> Endpoint | None:
    """The endpoint that is named; None, after a sentence, where none is."""
    with st.container(horizontal=True):
        st.text_input(
            "Server", placeholder="http://127.0.0.1:8080/v1", width=336, max_chars=300, **ADDRESS.widget(),
            help="Its address up to the version. Nothing is asked of it before you press a button.",
        )  # fmt: skip
        st.text_input(
            "Model there", placeholder="its only one", width=240, max_chars=200, **NAME.widget(),
            help="What the server calls the model; empty where it has a single one.",
        )  # fmt: skip
        key = st.text_input(
            "Variable with the key", placeholder="none needed", width=240, max_chars=70, key=_KEY,
            persist_state="session",
            help="The NAME of the environment variable that holds the key, such as OPENAI_API_KEY. QuantLens reads it "
            "where it runs and sends it to this server alone. The key is never stored, logged or shown, and no address "
            "or result holds it.",
        )  # fmt: skip
    if not ADDRESS.get().strip():
        with st.container(border=True):
            st.markdown("No server is named yet. Start one from a file that you exported, for instance:")
            st.code(_START, language=None, wrap_lines=True)
            st.caption(
                "A check needs a server that takes token ids and tells log-probabilities, as llama.cpp and vLLM do; of "
                "others the text can be read and timed."
            )
            link("export", "Export a file to serve")
        return None
    try:
        found = served.endpoint(ADDRESS.get(), NAME.get(), (key or "").strip())
    except QuantError as error:
        show_error(error)
        return None
    if found.key:
        st.caption(f":material/key: The key in {found.key} is sent to `{found.address}` alone.")
    return found


class Past(NamedTuple):
    """A check that was made: when, in seconds since the epoch, what was asked, and what was found."""

    time: float
    request: CheckRequest
    found: Check


# --- the check


def check_request(info: ModelInfo, endpoint: Endpoint, approved: Approved, asked: str) -> CheckRequest:
    """The comparison with what is approved, on the bundled evaluation text."""
    return CheckRequest(
        info.ref, info.fingerprint, endpoint, approved.assignment, ALLOWED.get(), asked,
        setup=setup.current(info), roots=roots(info),
    )  # fmt: skip


def _check(info: ModelInfo, endpoint: Endpoint, approved: Approved, past: Sequence[Past]) -> None:
    st.subheader("Is it still what you approved?", anchor=False)
    sample = check_request(info, endpoint, approved, "")
    if approved.recipe is None:
        st.caption(":material/info: There is no recipe yet: what is served is compared with the original.")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.number_input(
            "Limit (nats/token)", 1e-6, 100.0, step=0.01, format="%.4g", width=168, **ALLOWED.widget(),
            help="Up to this mean top-k KL it counts as the same. Another runtime rounds otherwise: see what a server "
            "that you trust gets, and set the limit above it.",
        )  # fmt: skip
        st.button(
            "Check now",
            type="primary",
            key="check:start",
            on_click=_start_check,
            args=(info, endpoint, approved),
        )
    if CHECKED.get():
        found = named(CHECKED, info, "Back to the newest check" if past else "Start over")
        if found is not None and isinstance(found.request, CheckRequest):
            _verdict(found.request, cast(Check, found.result))
            if not past or past[-1].request != found.request:
                leave(CHECKED, "Back to the newest check")
        return
    if past:
        _verdict(past[-1].request, past[-1].found)
        return
    st.caption(
        f"Asks the server for its {sample.k} likeliest next tokens at each of {sample.tokens:,} places of the bundled "
        f"evaluation text, and compares them with **{approved.title}**, computed here. vLLM answers for a sequence at "
        "once, others place by place: about a thousand short requests."
    )


def _start_check(info: ModelInfo, endpoint: Endpoint, approved: Approved) -> None:
    request = check_request(info, endpoint, approved, served.now())
    start(request, CHECKED, request_key(request))


def _verdict(request: CheckRequest, found: Check) -> None:
    sentence = (
        f"**{served.answer(found, request.limit)}** The server is {words.nats(found.approved.mean)} from what was "
        f"approved (95 % interval {words.significant(found.approved.low)} to "
        f"{words.significant(found.approved.high)}); the limit is {request.limit:g}."
    )
    said = served.verdict(found.approved, request.limit)
    draw = {"same": st.success, "changed": st.error}.get(said, st.warning)
    icon = {"same": ":material/check_circle:", "changed": ":material/error:"}.get(said, ":material/help:")
    draw(sentence, icon=icon)
    where = f"Top-{found.k} KL, on {found.tokens:,} tokens of {found.text_label}."
    items = [
        Figure(
            "KL to the approved", f"{words.significant(found.approved.mean)} nats",
            f"How far the server's next-token predictions are from the approved variant's, a token. {where}",
        ),
        Figure(
            "KL to the original", f"{words.significant(found.original.mean)} nats",
            f"The same against the model as it is: what the recipe and the runtime cost together. {where}",
        ),
        Figure(
            "Same likeliest token", words.share(found.top1_agreement),
            "Where server and approved variant would write the same.",
        ),
        Figure(
            "Named", words.share(found.coverage),
            f"Share of the server's probability that lies on the {found.k} tokens it named; the rest counts as one.",
        ),
    ]  # fmt: skip
    figures(items if request.assignment else [items[0], *items[2:]])
    st.caption(
        f"{request.asked[:16].replace('T', ' ')} UTC · `{request.endpoint.address}`, model "
        f"{served.short(found.served)} · {runs_words.assignment(request.assignment)} · {found.tokens:,} tokens of "
        f"{found.text_label} (hash {words.fingerprint(found.text_hash)}) in {found.requests:,} requests, "
        f"{words.duration(found.seconds)}. Top-{found.k} KL is at most the whole KL: the server names {found.k} tokens "
        "at a place, and all others are compared as one. The interval is Student's over sequences."
    )
    notes(found.notes, "check")


def _checks(info: ModelInfo, sample: CheckRequest) -> list[Past]:
    """All checks of this endpoint against this variant, the oldest first."""
    return [
        Past(run.created, run.request, run.result)
        for run in workspace().checks(info.fingerprint)
        if isinstance(run.result, Check)
        and isinstance(run.request, CheckRequest)
        and _alike(run.request, sample)
    ]


def _alike(one: CheckRequest, other: CheckRequest) -> bool:
    """Whether two checks are of one served model against one variant."""
    return (one.endpoint.address, one.endpoint.model, one.assignment, one.setup) == (
        other.endpoint.address, other.endpoint.model, other.assignment, other.setup,
    )  # fmt: skip


def _history(info: ModelInfo, endpoint: Endpoint, approved: Approved, past: Sequence[Past]) -> None:
    """The chart of all checks, and the line that has them made on a schedule."""
    if past:
        data = plots.check_history([(time, found, request.limit) for time, request, found in past])
        above = sum(mean > limit for mean, limit in zip(data.means, data.limits, strict=True))
        theme.chart(
            plots.draw_check_history(data, theme.palette()),
            "checks",
            f"{len(past)} checks over time, {above} above their limit; the last {words.nats(data.means[-1])}.",
        )
        with st.expander(
            f"{len(past):,} check{'s' if len(past) > 1 else ''} as a table", icon=":material/table:"
        ):
            st.dataframe(history_frame(past), hide_index=True, alt="Every check of this server")
    with st.expander("Check it on a schedule", icon=":material/schedule:"):
        file = "recipe.json" if approved.recipe else ""
        line = served.command(endpoint, info.ref, file, ALLOWED.get())
        st.code(line, language=None, wrap_lines=True)
        st.markdown(
            "It exits with 0 within the limit, 3 above it, and 1 where it could not measure, so that cron or a systemd "
            "timer can raise the alarm; `--every 1h` has it go on by itself. Every check joins the history above. In a "
            "crontab, every hour: `0 * * * *` before the line, with the full paths of python and recipe."
        )
        if approved.recipe:
            st.download_button(
                "The approved recipe (recipe.json)", workspace().recipe_text(approved.recipe, "json"), "recipe.json",
                "application/json", key="check:recipe", icon=":material/download:", on_click="ignore",
            )  # fmt: skip


def history_frame(past: Sequence[Past]) -> pd.DataFrame:
    """The checks as rows, the newest first."""
    rows = [
        (runs_words.when(time), served.answer(found, request.limit), words.significant(found.approved.mean),
         f"{words.significant(found.approved.low)} to {words.significant(found.approved.high)}",
         f"{request.limit:g}", words.share(found.top1_agreement), served.short(found.served))
        for time, request, found in reversed(past)
    ]  # fmt: skip
    columns = ["When", "Still approved?", "KL (nats/token)", "95 %", "Limit", "Same likeliest", "Model there"]
    return pd.DataFrame(rows, columns=columns)
