"""Settings of a sensitivity sweep, and which of the stored sweeps is on screen."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from quant_core.schema import ModelInfo, ScoreTable, SensitivityRequest, digest, replace
from ui import added_formats, scores, setup, state
from ui.format_names import method_name, short_names
from ui.formats_picker import formats_picker
from ui.jobs import POLL, latest, request_result, run_page_again, workspace
from ui.score_view import SCORE_TITLES, available
from ui.text_picker import text_picker

METHOD = state.choice_param("method", "the way to score", ("fisher", "measured"))
STOP = state.choice_param("stop", "when to stop reading", ("once", "0.1", "0.05"))
EMBEDDINGS = state.choice_param("embeddings", "whether embeddings take part", ("no", "yes"))
SHOWN = scores.SWEEP

STOPS = {
    "once": "after one reading",
    "0.1": "known to within 10 %",
    "0.05": "known to within 5 %",
}
TOKENS = [512, 1024, 2048, 4096, 8192, 16_384, 32_768]
_KEY = "sweep:key"
_NAMED = 8
"""Formats that are named before a sweep."""


def settings(info: ModelInfo) -> SensitivityRequest | None:
    """The form of a sweep; None, with a sentence, as long as it is not complete."""
    with st.expander("Settings: formats, rounding, text", icon=":material/tune:"):
        names = formats_picker(scores.FORMATS, scores.ROUNDING)
        left, middle, stop, right = st.columns([1.8, 1, 1.7, 1.4], vertical_alignment="bottom", gap="medium")
        left.segmented_control(
            "Score by", **METHOD.choice(["fisher", "measured"]), required=True,
            format_func={"fisher": "Fisher score", "measured": "Measured KL"}.__getitem__,
            help="The Fisher score predicts the KL of every layer and format from one forward and one backward pass. "
            "Measuring quantizes one layer at a time and runs the text through the model each time: exact, and slow.",
        )  # fmt: skip
        choices = sorted({*TOKENS, scores.TOKENS.get()})
        middle.selectbox(
            "Tokens", **scores.TOKENS.choice(choices, "sweep:tokens"), format_func=lambda count: f"{count:,}",
            help="Calibration text to read. More makes the scores more certain and takes longer.",
        )  # fmt: skip
        stop.selectbox(
            "Stop", **STOP.choice(list(STOPS), "sweep:stop"), format_func=STOPS.__getitem__,
            disabled=METHOD.get() == "measured",
            help="Fisher scores depend on words that are drawn at random. Reading the same text again with fresh ones "
            "makes them more certain, up to 8 times; a longer text helps more.",
        )  # fmt: skip
        right.segmented_control(
            "Embedding and head", **EMBEDDINGS.choice(["no", "yes"]), required=True,
            format_func={"no": "leave out", "yes": "include"}.__getitem__,
            help="Whether recipes may also decide on the embedding and the output head.",
        )  # fmt: skip
        setup.transforms_picker(info, "sweep:transforms")
        text = text_picker("calibration")
    if not names:
        st.warning("Choose one format or more.", icon=":material/checklist:")
    if text is None or not names:
        return None
    request = scores.request(info, names, text)
    method = "measured" if METHOD.get() == "measured" else "fisher"
    precision = 0.0 if method == "measured" or STOP.get() == "once" else float(STOP.get())
    return replace(request, score=method, precision=precision, embeddings=EMBEDDINGS.get() == "yes")


def run_or_show(
    info: ModelInfo, request: SensitivityRequest | None, live: bool = False
) -> tuple[ScoreTable | None, list[ScoreTable]]:
    """The table to draw and all stored ones: the settings' own if it is there, else a button and the newest.

    ``live`` asks for the scores so far while the settings' own sweep runs.
    """
    found = so_far = None
    if request is not None:
        found = request_result(request, start="Score the layers", why=_plan(info, request))
        _settings_changed(digest(request))
        if live and found is None and not SHOWN.get():
            so_far = _so_far(request)
    tables = _tables(info)
    if so_far is not None:
        return so_far, [so_far, *tables]
    shown = found or next((each for each in tables if each.tokens), None)
    if shown is None:
        return None, []
    return added_formats.panel(info, _choose(shown, tables)), tables


def _so_far(request: SensitivityRequest) -> ScoreTable | None:
    """What the running sweep knows already, said to be so; the page is drawn again when it knows more."""
    job = latest(request)
    if job is None or not job.active:
        return None
    number, table = workspace().scores_so_far(job.id) or (-1, None)
    _follow(job.id, number)
    if table is not None and table.tokens:
        st.info(
            f"So far, from {table.tokens:,} of about {request.tokens:,} tokens: the scores become more certain as the "
            "sweep goes on.",
            icon=":material/hourglass_top:",
        )
    elif table is not None:
        st.info(
            "A first picture: the error of the weights alone, which needs no text and says little about what matters "
            "to the model. Scores take its place as they come.",
            icon=":material/hourglass_top:",
        )
    return table


@st.fragment(run_every=POLL)
def _follow(job_id: str, number: int) -> None:
    """Draw the page again once the sweep has streamed more than the table of ``number``."""
    found = workspace().scores_so_far(job_id)
    if found is not None and found[0] > number:
        run_page_again()


def _tables(info: ModelInfo) -> list[ScoreTable]:
    """The stored sweeps of the model as it is rewritten now, the last used first."""
    transforms = setup.current(info).transforms
    return [table for table in workspace().tables(info.fingerprint) if table.transforms == transforms]


def _plan(info: ModelInfo, request: SensitivityRequest) -> str:
    """What the button will do, so that nobody presses it blindly."""
    extra = sum(unit.kind in ("embedding", "head") for unit in info.units) if request.embeddings else 0
    layers, formats = sum(unit.decided for unit in info.units) + extra, len(request.formats)
    how = (
        "one forward and one backward pass over"
        if request.score == "fisher"
        else f"{layers * formats:,} forward passes over"
    )
    if _tables(info):
        first = "What is shown below was scored with other settings. With these: "
    else:
        after = setup.summary(request.setup)
        first = "No layer of this model has been scored yet" + (f" after {after}" if after else "") + ".  \n"
    until = (
        f", again until scores are known to within {100 * request.precision:g} %" if request.precision else ""
    )
    text = f"{request.tokens:,} tokens of {request.text.label}"
    named = ""
    if formats <= _NAMED:
        *others, last = short_names(request.formats).values()
        named = f" ({', '.join(others)} and {last})" if others else f" ({last})"
    return f"{first}{layers} layers in {formats} formats{named}: {how} {text}{until}."


def _settings_changed(key: str) -> None:
    """Other settings than before: what they lead to is shown, not what was picked by hand; a link may set both."""
    before, shown = st.session_state.get(_KEY, (key, ""))
    if before != key and SHOWN.get() == shown:
        SHOWN.set("")
    st.session_state[_KEY] = (key, SHOWN.get())


def _choose(default: ScoreTable, tables: Sequence[ScoreTable]) -> ScoreTable:
    """Pick among the stored sweeps, if there are several."""
    known = {scores.table_id(table): table for table in tables}
    if SHOWN.get() and SHOWN.get() not in known:
        st.warning("The sweep that the link names is not stored here.", icon=":material/link_off:")
        SHOWN.set("")
    chosen = SHOWN.get() or scores.table_id(default)
    if len(known) > 1:
        st.session_state["sweep:shown"] = chosen
        st.selectbox(
            f"Sweep shown ({len(known)} stored)", list(known), format_func=lambda name: _title(known[name]),
            key="sweep:shown", on_change=lambda: SHOWN.set(st.session_state["sweep:shown"]),
        )  # fmt: skip
    return known[chosen]


def _title(table: ScoreTable) -> str:
    methods = dict.fromkeys(method_name(name.partition("@")[2]) for name in table.formats if "@" in name)
    parts = [SCORE_TITLES[available(table)[0]], f"{len(table.formats)} formats", *methods]
    parts += [f"{table.tokens:,} tokens", table.text_label, f"seed {table.seed}"]
    return " · ".join(parts)
