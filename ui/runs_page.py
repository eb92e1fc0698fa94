"""The runs page: every result in a list, one of them with all that it comes from, and what can be done with it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from quant_core.allocation.proof import ranking, verdict
from quant_core.contrast import main_score
from quant_core.errors import QuantError
from quant_core.plots import draw_loss_curve, loss_curve
from quant_core.schema import (
    Belongings,
    Check,
    ChoiceScores,
    Evaluation,
    Generation,
    Job,
    KlTails,
    PromptTexts,
    Proof,
    ProveRequest,
    Run,
    RunLine,
    ScoreTable,
    ServedText,
    Speeds,
    Training,
)
from ui import runs_figures, runs_open, runs_words, state, theme, words
from ui.compare_page import metrics_frame
from ui.entry import link
from ui.format_names import format_name
from ui.jobs import LONG, progress_text, show_error, workspace
from ui.runs_compare import side_by_side, written
from ui.runs_words import plain
from ui.widgets import Figure, empty_state, figures, said, say

RUN = state.text_param("run", "the run", pattern=r"[0-9a-f]{0,24}")
OTHER = state.text_param("with", "the run to compare with", pattern=r"[0-9a-f]{0,24}")
OF_MODEL = state.text_param("of", "the model of the runs", pattern=r"[0-9a-f]{0,24}")
OF_KIND = state.text_param("kind", "the kind of the runs", pattern=r"[A-Za-z ]{0,24}")

_TABLE = "runs:table"
_FAILURE = "runs:failure"
_MOST_UPLOAD = 500
"""Megabytes of a file that the browser hands over; larger ones go by the command line."""
_MOST_DOWNLOAD = 500_000_000
"""Bytes of arrays that are put together for the browser."""
_FAILED_HOURS = 24


# --- the list -----------------------------------------------------------------------------------------------


def header() -> None:
    """Title, what the page is for, and what a link asked for that makes no sense."""
    st.title("Runs", anchor=False)
    for sentence in state.take_notes():
        st.warning(sentence, icon=":material/link_off:")
    st.caption("Every result with what it comes from: look at one, compare two, keep a note, hand it on.")
    said()


def under_way() -> None:
    """Runs that are not finished, and those that failed lately; progress itself stands at the foot of every page."""
    jobs = [job for job in workspace().jobs(100) if job.kind in (*LONG, "generate")]
    active = [job for job in jobs if job.active]
    if active:
        st.info(
            "  \n".join(plain(progress_text(job)) for job in active)
            + "  \nIt joins the list when it is done; what is finished can be used meanwhile.",
            icon=":material/hourglass_top:",
        )
    failed = _failed(jobs)
    if failed:
        with st.expander(f"{len(failed)} failed lately", icon=":material/error:", key="runs:failed"):
            for job in failed:
                st.markdown(
                    f"**{plain(job.title)}**, {runs_words.when(job.finished)}: {plain(job.error)} {plain(job.hint)}"
                )
                st.button(
                    "Retry",
                    key=f"runs:retry:{job.id}",
                    icon=":material/refresh:",
                    on_click=_retry,
                    args=(job.id,),
                )


def _failed(jobs: Sequence[Job]) -> list[Job]:
    """The newest job of each request that failed in the last day and was not asked for again."""
    newest: dict[str, Job] = {}
    for job in jobs:
        newest.setdefault(job.key, job)
    recent = time.time() - 3600 * _FAILED_HOURS
    return [job for job in newest.values() if job.state == "failed" and job.finished > recent]


def _retry(job_id: str) -> None:
    workspace().retry(job_id)


def nothing() -> None:
    """What stands here before anything was found."""
    empty_state(
        "**Nothing has been scored, measured, written or trained yet.** Score a model's layers first: it takes "
        "seconds on the bundled one, and its result stands here from then on.",
        "sensitivity",
        "Score the layers",
    )


def listing(lines: Sequence[RunLine]) -> list[RunLine]:
    """The filters and the table; gives the runs that are shown."""
    models = {line.fingerprint: line.model for line in reversed(lines)}
    kinds = list(dict.fromkeys(line.title for line in lines))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.selectbox(
            "Model", **OF_MODEL.choice(["", *models]), width=280,
            format_func=lambda mark: f"{models[mark]} ({mark[:8]})" if mark else "All models",
        )  # fmt: skip
        st.selectbox(
            "Kind", **OF_KIND.choice(["", *kinds]), width=220, format_func=lambda kind: kind or "All kinds"
        )
        bring_in()
    shown = [
        line
        for line in lines
        if OF_MODEL.get() in ("", line.fingerprint) and OF_KIND.get() in ("", line.title)
    ]
    if not shown:
        st.info("No run of this model is of this kind.", icon=":material/filter_alt_off:")
        st.button("Show all", on_click=_show_all)
        return []
    keys = [line.key for line in shown]
    rows = [keys.index(key) for key in (RUN.get(), OTHER.get()) if key in keys]
    st.session_state[_TABLE] = {"selection": {"rows": sorted(rows), "columns": [], "cells": []}}
    st.dataframe(
        table(shown), hide_index=True, key=_TABLE, on_select=partial(_select, keys), selection_mode="multi-row",
        height=min(38 + 35 * len(shown), 388), alt=f"{len(shown)} runs with what each found; choose one below",
        column_config={"Took": st.column_config.TextColumn(width="small"), "Note": st.column_config.TextColumn()},
    )  # fmt: skip
    if len(shown) > 1:
        export(shown, workspace().array_bytes(), f"Export all {len(shown)} shown", "runs:export-all")
    return shown


def table(lines: Sequence[RunLine]) -> pd.DataFrame:
    """The runs as rows."""
    rows = [
        (line.title, runs_words.found(line.finding), line.model, runs_words.when(line.created),
         words.duration(line.seconds), line.note)
        for line in lines
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["Kind", "Found", "Model", "When", "Took", "Note"])


def _show_all() -> None:
    OF_MODEL.set("")
    OF_KIND.set("")


def _select(keys: Sequence[str]) -> None:
    """Rows were ticked: the first is the run shown, the newest tick beside it the one to compare with."""
    ticked = [keys[row] for row in st.session_state[_TABLE]["selection"]["rows"] if row < len(keys)]
    choose(ticked)


def choose(ticked: Sequence[str]) -> None:
    """Show the runs with these keys, those that were shown before in the order they had."""
    before = [key for key in (RUN.get(), OTHER.get()) if key in ticked]
    fresh = [key for key in ticked if key not in before]
    now = [*before, *fresh] if len(before) < 2 else [before[0], *fresh, before[1]]
    RUN.set(now[0] if now else "")
    OTHER.set(now[1] if len(now) > 1 else "")


def chosen(lines: Sequence[RunLine], shown: Sequence[RunLine]) -> tuple[Run, Run | None] | None:
    """The run to look at and, if one is chosen, the one to compare it with; both also by keyboard."""
    known = {line.key: line for line in lines}
    for param in (RUN, OTHER):
        if param.get() and param.get() not in known:
            show_error(
                QuantError(
                    f"There is no run {param.get()[:8]} here.",
                    "It was deleted, or belongs to another home folder: choose another, or import its file.",
                )
            )
            param.set("")
    options = list(
        dict.fromkeys([key for key in (RUN.get(), OTHER.get()) if key] + [line.key for line in shown])
    )
    if not options:
        return None
    with st.container(horizontal=True, gap="small"):
        st.selectbox(
            "Run shown", **RUN.choice(["", *options]), width=420,
            format_func=lambda key: runs_words.title(known[key]) if key else "Choose a run",
        )  # fmt: skip
        first = known.get(RUN.get())
        if first is None:
            OTHER.set("")
            st.caption("Choose a run, here or in the table, to see what it found and where it comes from.")
            return None
        alike = [key for key in options if key != first.key and known[key].kind == first.kind]
        if OTHER.get() and OTHER.get() not in alike:
            st.warning("Two runs are compared where they are of one kind.", icon=":material/compare:")
            OTHER.set("")
        if alike:
            st.selectbox(
                "Compare with", **OTHER.choice(["", *alike]), width=420,
                format_func=lambda key: runs_words.title(known[key]) if key else "No other run",
            )  # fmt: skip
    try:
        other = workspace().stored_run(OTHER.get()) if OTHER.get() else None
        return workspace().stored_run(first.key), other
    except QuantError as error:  # deleted in another tab since the list was made
        show_error(error)
        return None


# --- one run ------------------------------------------------------------------------------------------------


def one(run: Run, line: RunLine) -> None:
    """A run in full: what it found, where it comes from, the note, and what can be done with it."""
    st.subheader(f"{line.title}: {runs_words.found(line.finding)}", anchor=False)
    place = runs_open.place(run)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if place is not None:
            link(place.stem, place.label, **place.values)
        belongings = workspace().belongings(run.key)
        export([line], belongings.bytes, "Export", "runs:export")
        delete(line, belongings)
    if place is None:
        st.caption(_no_place(run))
    st.text_area(
        "Note", value=run.note, key=f"runs:note:{run.key}", max_chars=2000, height=80, on_change=_note,
        args=(run.key,), placeholder="Your own words: why you ran it, what you saw.",
    )  # fmt: skip
    answer(run)
    st.markdown("**Where it comes from**")
    asked = runs_words.asked(run.request)
    if not asked:
        st.caption(
            ":material/info: What was asked was not recorded: an older QuantLens made this run. Its answer is whole."
        )
    elif run.origin is None:
        st.caption(":material/info: Versions and hardware were not recorded when this run was made.")
    facts({**runs_words.identity(run, line), **asked, **runs_words.made_with(run.origin)})
    if asked and not isinstance(run.result, Speeds):
        _reproduce(run)


def _reproduce(run: Run) -> None:
    """The command that works a run out anew, and how that ended the last time."""
    st.markdown("**Work it out anew**")
    st.code(f"python -m quant_core reproduce {run.key[:8]}", language="bash")
    found = workspace().reproduction(run.key)
    if found is None:
        st.caption(
            "It compares every figure with the stored one, and says what changed of versions and machine."
        )
        return
    apart = [pair for pair in found.figures if pair.agreement == "different"]
    sentence = {
        "identical": ":material/check_circle: Every figure was the same, to the last bit",
        "close": f":material/check_circle: Every figure within {words.share(found.tolerance)} of the stored one",
        "different": f":material/error: {len(apart)} of {len(found.figures)} figures differ by more than "
        f"{words.share(found.tolerance)} ({plain(', '.join(pair.name for pair in apart[:3]))})",
    }[found.agreement]
    changed = "; ".join(plain(line) for line in found.changes) or "versions and machine were the same"
    st.caption(f"{sentence}, on {runs_words.when(found.created)}. What changed since: {changed}.")


def facts(values: Mapping[str, str]) -> None:
    """Names and values, one a line; they wrap on a phone."""
    rows = [(f"**{name}**", plain(value)) for name, value in values.items()]
    st.table(pd.DataFrame(rows, columns=["What", "Value"]).set_index("What"), border="horizontal")


def _no_place(run: Run) -> str:
    if isinstance(run.result, Generation):
        return "The original wrote alone: its text stands below."
    return "The model of this run is not at hand here: open it on the Model page to go on from this run."


def _note(key: str) -> None:
    try:
        workspace().set_note(key, st.session_state[f"runs:note:{key}"])
    except QuantError as error:
        say(str(error), ":material/error:")
    else:
        say("Note kept.", ":material/check_circle:")


def answer(run: Run) -> None:
    """What a run found, number by number."""
    match run.result:
        case ScoreTable():
            _scores(run.result)
        case Evaluation():
            st.table(metrics_frame(run.result).set_index("Metric"), border="horizontal")
        case Proof():
            _proof(run, run.result)
        case Generation():
            written(run, run.result)
        case Training():
            _training(run.result)
        case PromptTexts() | ChoiceScores() | KlTails() | Speeds():
            facts(runs_figures.figures(run))
        case Check() | ServedText():
            facts(runs_words.from_server(run))
    read = runs_words.read_text(run.result)
    sentences = getattr(run.result, "notes", ())
    if read:
        error = " ± is one standard error." if isinstance(run.result, Evaluation | Proof) else ""
        st.caption(f"Text: {plain(read)}.{error}")
    for sentence in sentences[:10]:
        st.caption(f":material/info: {plain(sentence)}")


def _scores(table: ScoreTable) -> None:
    score = main_score(table)
    values = table.scores(score) or table.output or table.weight
    unit = "nats/token" if table.scores(score) else "relative error"
    rows = []
    for column, form in enumerate(table.formats):
        ordered = sorted(
            ((row[column], name) for row, name in zip(values, table.units, strict=True)), reverse=True
        )
        rows.append(
            {
                "Format": format_name(form),
                f"Sum ({unit})": words.significant(sum(value for value, _ in ordered)),
                f"Median layer ({unit})": words.significant(ordered[len(ordered) // 2][0]),
                f"Largest ({unit})": words.significant(ordered[0][0]),
                "Layer of the largest": ordered[0][1],
            }
        )
    figures(
        [
            Figure("Layers", f"{len(table.units):,}", "Weights that were scored."),
            Figure("Formats", f"{len(table.formats)}", "Number formats that each was scored in."),
            Figure("Took", words.duration(table.seconds), "Time of computing, without loading the model."),
        ]
    )
    st.dataframe(pd.DataFrame(rows), hide_index=True, alt="Scores of the layers, format by format")


def _proof(run: Run, proof: Proof) -> None:
    places = ranking(proof.kl)
    given = run.request.assignments if isinstance(run.request, ProveRequest) else ()
    rows = [
        {
            "Place": f"{index + 1}{' (tied)' if index and place.tied else ''}",
            "Measured KL (nats/token)": f"{words.significant(place.kl)} ± {words.significant(place.stderr, 2)}",
            "Recipe": runs_words.assignment(given[place.recipe]) if given else f"number {place.recipe + 1}",
        }
        for index, place in enumerate(places)
    ]
    st.dataframe(pd.DataFrame(rows), hide_index=True, alt="The measured recipes, the best first")
    if text := verdict(places):
        st.caption(text)


def _training(training: Training) -> None:
    held = f"Of {training.held_out:,} held-out tokens of the training text."
    figures(
        [
            Figure("KL before", words.nats(training.kl_before), f"{held} Rounded, not trained."),
            Figure("KL after", words.nats(training.kl_after), f"{held} Trained."),
            Figure("Steps", f"{training.steps:,}", "How often the weights were changed."),
            Figure("Tokens read", words.count(training.tokens), "Repetitions counted."),
        ]
    )
    curve = loss_curve(training.curve, training.kl_before, training.kl_after)
    last = f", {words.nats(training.curve[-1][1])} at the end" if training.curve else ""
    theme.chart(
        draw_loss_curve(curve, theme.palette()), "runs-loss", f"Loss over {training.steps:,} steps{last}."
    )


# --- out, in, away ------------------------------------------------------------------------------------------


def export(lines: Sequence[RunLine], size: int, label: str, key: str) -> None:
    """A button that hands runs with arrays of ``size`` bytes on as one file; disabled with the reason if it cannot."""
    keys = tuple(line.key for line in lines if line.recorded)
    reason = ""
    if not keys:
        reason = "What was asked was not recorded, so nobody could check this run: run it again to export it."
    elif size > _MOST_DOWNLOAD:
        reason = (
            f"Its arrays take {words.size(size)}, too much for the browser: "
            f"python -m quant_core runs export {' '.join(key[:8] for key in keys[:3])} --out runs.zip"
        )
    one = f"{lines[0].kind}-{lines[0].key[:8]}"
    name = f"quantlens-{one if len(lines) == 1 else f'{len(keys)}-runs'}.zip"
    st.download_button(
        label, _packer(keys), name, "application/zip", key=key, icon=":material/download:", on_click="ignore",
        disabled=bool(reason),
        help=reason or "One zip file: answers, settings, notes, votes, the model's description and the arrays that "
        "belong. "
        "A text of your own is in it.",
    )  # fmt: skip


def _packer(keys: tuple[str, ...]) -> Callable[[], bytes]:
    here = workspace()

    def pack() -> bytes:
        file = io.BytesIO()
        here.export_runs(keys, file)
        return file.getvalue()

    return pack


def bring_in() -> None:
    """The way in for a file that was exported here or elsewhere."""
    with st.popover("Import", icon=":material/upload_file:"):
        st.file_uploader(
            "A file of runs (zip)", type=["zip"], key="runs:file", on_change=_import, max_upload_size=_MOST_UPLOAD,
            help="Every entry is checked before anything is stored; runs that are here already stay as they are.",
        )  # fmt: skip
    failure = st.session_state.get(_FAILURE)
    if isinstance(failure, QuantError):
        show_error(failure)


def _import() -> None:
    st.session_state.pop(_FAILURE, None)
    file = st.session_state.get("runs:file")
    if file is None:
        return
    try:
        found = workspace().import_runs(file)
    except QuantError as error:
        st.session_state[_FAILURE] = error
        return
    here = len(found.keys) - len(found.added)
    known = f" {here} {'was' if here == 1 else 'were'} here already." if here else ""
    votes = f" {found.votes:,} {'vote' if found.votes == 1 else 'votes'} came along." if found.votes else ""
    say(f"{len(found.added)} added.{known}{votes}", ":material/check_circle:")
    _show_all()
    RUN.set(found.keys[0])
    OTHER.set("")


def delete(line: RunLine, belongings: Belongings) -> None:
    """Asks once more, saying what goes."""
    with st.popover("Delete", icon=":material/delete:"):
        st.markdown(going(line, belongings))
        st.button(
            "Delete for good", key="runs:delete", type="primary", icon=":material/delete_forever:", on_click=_delete,
            args=(line.key, line.title),
        )  # fmt: skip


def going(line: RunLine, belongings: Belongings) -> str:
    """What goes with a run, in words."""
    parts = ["its answer", "its settings", "its note" if line.note else ""]
    if line.kind == "prompts":
        parts.append("the votes on it")
    if belongings.files:
        count = len(belongings.files)
        parts.append(
            f"{count} {'file' if count == 1 else 'files'} of arrays ({words.size(belongings.bytes)})"
        )
    if belongings.added:
        parts.append(f"the scores of {belongings.added} formats that were added to it")
    what = [part for part in parts if part]
    weights = " Recipes that use its weights can no longer be measured." if line.kind == "train" else ""
    return (
        f"This deletes {', '.join(what[:-1])} and {what[-1]}. **It cannot be undone**: export the run first if you may "
        f"want it back. Saved recipes stay.{weights}"
    )


def _delete(key: str, title: str) -> None:
    try:
        workspace().delete_run(key)
    except QuantError as error:
        say(str(error), ":material/error:")
        return
    RUN.set("")
    OTHER.set("")
    say(f"{title} deleted.", ":material/delete:")


def both(first: Run, second: Run, lines: Sequence[RunLine]) -> None:
    """Two runs of one kind beside each other, and the way to take both along."""
    side_by_side(first, second)
    pair = [line for line in lines if line.key in (first.key, second.key)]
    size = sum(workspace().belongings(line.key).bytes for line in pair)
    export(pair, size, "Export both", "runs:export-both")
