"""Work in the background as pages see it: one workspace, a strip that shows every job, and results on
request.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar, overload

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from quant_core.errors import QuantError
from quant_core.schema import (
    Attribution,
    AttributionRequest,
    CatalogRequest,
    ChannelRanges,
    ChannelsRequest,
    Check,
    CheckRequest,
    ChoiceScores,
    ChoicesRequest,
    ClipRequest,
    ClipSweep,
    Downloaded,
    DownloadRequest,
    EvaluateRequest,
    Evaluation,
    Exported,
    ExportRequest,
    GenerateRequest,
    Generation,
    HubModel,
    ImportRequest,
    InputsRequest,
    InspectRequest,
    Job,
    KlTails,
    LayerInputs,
    LayerRequest,
    LayerView,
    LookRequest,
    ModelInfo,
    PromptsRequest,
    PromptTexts,
    Proof,
    ProveRequest,
    QuantizedCheckpoint,
    Recommendation,
    RecommendRequest,
    Request,
    RescoreRequest,
    Result,
    RuntimeSpeedRequest,
    RuntimeSpeeds,
    ScoreTable,
    SensitivityRequest,
    ServedRequest,
    ServedText,
    SpeedRequest,
    Speeds,
    TailsRequest,
    Training,
    TrainRequest,
    WeightsRequest,
    WeightStatistics,
    Window,
    WindowRequest,
)
from quant_core.store.keys import request_key
from quant_core.workspace import Workspace, browser_roots
from ui import words

POLL = 0.5
"""Seconds between two looks at a running job."""
PATIENCE = 1.2
"""Seconds that a page waits for short work before it shows progress instead."""
SHORT = (
    InspectRequest, LayerRequest, WindowRequest, ChannelsRequest, ClipRequest, RescoreRequest, GenerateRequest,
    AttributionRequest, LookRequest, CatalogRequest, ServedRequest,
)  # fmt: skip
LONG = (
    "weights", "sensitivity", "train", "prove", "evaluate", "recommend", "download", "prompts", "choices",
    "tails", "speed", "export", "runtime_speed", "import", "check",
)  # fmt: skip
"""Kinds of jobs that nobody sits and waits for."""

_FRESH = "jobs:fresh"
_SHOWN = "jobs:shown"
_ACTIVE = "jobs:active"
_DISMISSED = "jobs:dismissed"
_PAGE = "jobs:page"
_KEYS: deque[tuple[Request, str]] = deque(maxlen=4)
"""The requests whose keys were worked out last."""

R = TypeVar("R")


@st.cache_resource(show_spinner=False)
def workspace() -> Workspace:
    """The one workspace of this server; local models must lie under the browser's roots."""
    return Workspace(roots=browser_roots())


def submit(request: Request) -> Job | None:
    """Start the work, or find the same work under way; a refusal is shown as a sentence and gives None."""
    try:
        job = workspace().submit(request)
    except QuantError as error:
        show_error(error)
        return None
    if job.active:
        st.session_state[_FRESH] = True
    return job


def latest(request: Request) -> Job | None:
    """The newest job for this very request, whatever its state; a reload finds it again by content."""
    key = _key(request)
    return next((job for job in workspace().jobs(50) if job.key == key), None)


def _key(request: Request) -> str:
    """The key of a request; a page asks several times for one that may name tens of thousands of layers."""
    found = next((key for known, key in tuple(_KEYS) if known is request), "") or request_key(request)
    _KEYS.append((request, found))
    return found


@overload
def request_result(request: InspectRequest, *, start: str = ..., why: str = ...) -> ModelInfo | None: ...
@overload
def request_result(request: SensitivityRequest, *, start: str = ..., why: str = ...) -> ScoreTable | None: ...
@overload
def request_result(request: RescoreRequest, *, start: str = ..., why: str = ...) -> ScoreTable | None: ...
@overload
def request_result(request: LayerRequest, *, start: str = ..., why: str = ...) -> LayerView | None: ...
@overload
def request_result(request: WindowRequest, *, start: str = ..., why: str = ...) -> Window | None: ...
@overload
def request_result(request: ChannelsRequest, *, start: str = ..., why: str = ...) -> ChannelRanges | None: ...
@overload
def request_result(request: InputsRequest, *, start: str = ..., why: str = ...) -> LayerInputs | None: ...
@overload
def request_result(request: ClipRequest, *, start: str = ..., why: str = ...) -> ClipSweep | None: ...
@overload
def request_result(
    request: WeightsRequest, *, start: str = ..., why: str = ...
) -> WeightStatistics | None: ...
@overload
def request_result(request: EvaluateRequest, *, start: str = ..., why: str = ...) -> Evaluation | None: ...
@overload
def request_result(request: ProveRequest, *, start: str = ..., why: str = ...) -> Proof | None: ...
@overload
def request_result(request: GenerateRequest, *, start: str = ..., why: str = ...) -> Generation | None: ...
@overload
def request_result(
    request: RecommendRequest, *, start: str = ..., why: str = ...
) -> Recommendation | None: ...
@overload
def request_result(request: LookRequest, *, start: str = ..., why: str = ...) -> HubModel | None: ...
@overload
def request_result(request: DownloadRequest, *, start: str = ..., why: str = ...) -> Downloaded | None: ...
@overload
def request_result(
    request: AttributionRequest, *, start: str = ..., why: str = ...
) -> Attribution | None: ...
@overload
def request_result(request: PromptsRequest, *, start: str = ..., why: str = ...) -> PromptTexts | None: ...
@overload
def request_result(request: ChoicesRequest, *, start: str = ..., why: str = ...) -> ChoiceScores | None: ...
@overload
def request_result(request: TailsRequest, *, start: str = ..., why: str = ...) -> KlTails | None: ...
@overload
def request_result(request: SpeedRequest, *, start: str = ..., why: str = ...) -> Speeds | None: ...
@overload
def request_result(request: TrainRequest, *, start: str = ..., why: str = ...) -> Training | None: ...
@overload
def request_result(request: ExportRequest, *, start: str = ..., why: str = ...) -> Exported | None: ...
@overload
def request_result(
    request: RuntimeSpeedRequest, *, start: str = ..., why: str = ...
) -> RuntimeSpeeds | None: ...
@overload
def request_result(
    request: ImportRequest, *, start: str = ..., why: str = ...
) -> QuantizedCheckpoint | None: ...
@overload
def request_result(request: CheckRequest, *, start: str = ..., why: str = ...) -> Check | None: ...
@overload
def request_result(request: ServedRequest, *, start: str = ..., why: str = ...) -> ServedText | None: ...
def request_result(request: Request, *, start: str = "", why: str = "") -> Result | None:
    """The stored result at once; otherwise draw, right here, what leads to it, and return None.

    Without ``start`` the work begins by itself. With ``start`` it waits for a click on a button so labelled,
    under the sentence ``why``. While it runs its progress stands here, with a way to cancel; a failure is one
    sentence with its hint and a Retry. When it ends the page runs again and finds the result.
    """
    try:
        found = workspace().result(request)
        if found is not None:
            return found
        job = latest(request)
    except QuantError as error:
        show_error(error)
        return None
    if (
        job is None or job.state == "done"
    ):  # a done job without a result: its result was removed from the store
        job = _begin(request, start, why)
        if job is None:
            return None
        found = workspace().result(request)
        if found is not None:
            return found
    _status(job)
    return None


def _begin(request: Request, start: str, why: str) -> Job | None:
    if start:
        if why:
            st.write(why)
        start_button(request, start)
        return None
    job = submit(request)
    if job is not None and isinstance(request, SHORT):
        job = wait_a_moment([job])[0]
    return job


def wait_a_moment(jobs: Sequence[Job]) -> list[Job]:
    """The jobs as they are once all have ended, or after ``PATIENCE``."""
    end = time.monotonic() + PATIENCE
    now = list(jobs)
    while any(job.active for job in now) and time.monotonic() < end:
        time.sleep(0.03)
        now = [workspace().job(job.id) for job in now]
    return now


def start_button(request: Request, label: str, primary: bool = True) -> None:
    """A button that starts the work."""
    st.button(
        label, type="primary" if primary else "secondary", key=f"start:{_key(request)}", on_click=_start,
        args=(request,),
    )  # fmt: skip


def _status(job: Job) -> None:
    """Progress, failure or cancellation of a job, where its result will stand."""
    show_in_place(job.id)
    if job.active:
        if st.session_state.get(_FRESH) and in_fragment():
            run_page_again()  # the strip below the page must learn of the job
        _watch(job.id)
    elif job.state == "failed":
        show_error(QuantError(job.error, job.hint))
        _dismiss(job.id)  # it has been told: the strip need not repeat it on every page
        st.button("Retry", key=f"retry:{job.id}", icon=":material/refresh:", on_click=_retry, args=(job.id,))
    else:
        st.info("This was cancelled before it finished.", icon=":material/cancel:")
        st.button(
            "Start again", key=f"again:{job.id}", icon=":material/refresh:", on_click=_retry, args=(job.id,)
        )


def show_newest(key: str) -> bool:
    """As ``request_result`` draws it, how the newest job with a key is going or ended; False if there is none."""
    job = next((job for job in workspace().jobs(50) if job.key == key and job.state != "done"), None)
    if job is not None:
        _status(job)
    return job is not None


@st.fragment(run_every=POLL)
def _watch(job_id: str) -> None:
    job = workspace().job(job_id)
    if not job.active:
        run_page_again()
    show_progress(job, "here")


def run_page_again() -> None:
    """From a fragment, run its page, unless the user has gone to another one.

    A fragment that was asked for before the browser knew of the new page runs after it, as a part of the old one; to
    run "the page" from there would lead the user back.
    """
    if _page_hash() == st.session_state[_PAGE]:
        st.rerun()


def _page_hash() -> str:
    context = get_script_run_ctx()
    return context.page_script_hash if context is not None else ""


def show_progress(job: Job, place: str) -> None:
    """A bar with what is done, what it is doing, and how long it will take; beside it, Cancel."""
    bar, button = st.columns([6, 1], vertical_alignment="bottom", gap="small", wrap=False)
    bar.progress(min(max(job.progress, 0.0), 1.0), text=progress_text(job))
    button.button(
        "Cancel",
        key=f"cancel:{place}:{job.id}",
        type="tertiary",
        icon=":material/close:",
        on_click=workspace().cancel,
        args=(job.id,),
    )


def progress_text(job: Job) -> str:
    """``Sensitivity of demo-model · block 3 of 8 · 42 % · about 12 s left``."""
    if job.state == "queued":
        return " · ".join(part for part in (job.title, job.message or "waiting its turn") if part)
    left = job.time_left(time.time())
    parts = [job.title, job.message, f"{100 * job.progress:.0f} %" if job.progress > 0 else ""]
    if left is not None and not job.message.endswith("left"):
        parts.append(f"about {words.duration(max(left, 1.0))} left")
    return " · ".join(part for part in parts if part)


def show_error(error: QuantError) -> None:
    """A failure in one sentence, and what to do about it."""
    st.error(error.message + (f"\n\n{error.hint}" if error.hint else ""), icon=":material/error:")


def guarded(work: Callable[[], R]) -> R | None:
    """What ``work`` gives, or None after showing the sentence of its ``QuantError``."""
    try:
        return work()
    except QuantError as error:
        show_error(error)
        return None


def in_fragment() -> bool:
    """Whether only a fragment of the page is running again."""
    context = get_script_run_ctx()
    return context is not None and bool(context.fragment_ids_this_run)


def strip() -> None:
    """The bar at the foot of every page: work under way, with progress and Cancel; failures, with Retry.

    It looks every half second while there is work, and runs the page again once a job has ended.
    """
    st.session_state[_FRESH] = False
    active = [job.id for job in workspace().jobs() if _in_strip(job)]
    st.session_state[_ACTIVE] = active
    if active or _failures():
        with st.bottom:
            st.fragment(_strip, run_every=POLL if active else None)()


def _strip() -> None:
    jobs = workspace().jobs()
    active = [job for job in jobs if _in_strip(job)]
    ended = [job for job in jobs if not job.active and job.id in st.session_state.get(_ACTIVE, [])]
    for job in ended:
        if job.state == "done" and job.kind in LONG:
            st.toast(f"Done: {job.title}", icon=":material/check_circle:")
    if ended:
        st.session_state[_ACTIVE] = [job.id for job in active]
        run_page_again()
    with st.container(key="job_strip", gap="xsmall"):
        for job in reversed(active):
            show_progress(job, "strip")
        for job in _failures():
            sentence, buttons = st.columns([6, 2], vertical_alignment="center")
            sentence.markdown(f":red[:material/error:] **{job.title}** failed: {job.error} {job.hint}")
            with buttons.container(horizontal=True, horizontal_alignment="right"):
                st.button(
                    "Retry", key=f"strip:retry:{job.id}", type="tertiary", on_click=_retry, args=(job.id,)
                )
                st.button(
                    "Dismiss",
                    key=f"strip:dismiss:{job.id}",
                    type="tertiary",
                    on_click=_dismiss,
                    args=(job.id,),
                )


def _in_strip(job: Job) -> bool:
    """Whether a job is under way and not one that someone waits for in front of its own progress."""
    return job.active and (job.kind in LONG or job.id not in st.session_state.get(_SHOWN, set()))


def show_in_place(job_id: str) -> None:
    """Note that the page itself shows how a job is going."""
    st.session_state.setdefault(_SHOWN, set()).add(job_id)


def _failures() -> list[Job]:
    """Long jobs of the last hour that failed, and that nobody has dismissed, repeated, or been shown in place.

    Short work is told where it was asked for; on every page, and in every other tab, it would be in the way.
    """
    hidden = st.session_state.get(_DISMISSED, set()) | st.session_state.get(_SHOWN, set())
    newest: dict[str, Job] = {}
    for job in workspace().jobs():
        newest.setdefault(job.key, job)
    recent = time.time() - 3600
    failed = [job for job in newest.values() if job.state == "failed" and job.kind in LONG]
    return [job for job in failed if job.id not in hidden and job.finished > recent][:3]


def start_page() -> None:
    """Note the page, and forget which jobs it showed in place; called before a page runs."""
    st.session_state[_PAGE] = _page_hash()
    st.session_state[_SHOWN] = set()


def _start(request: Request) -> None:
    submit(request)


def _retry(job_id: str) -> None:
    workspace().retry(job_id)
    st.session_state[_FRESH] = True


def _dismiss(job_id: str) -> None:
    st.session_state.setdefault(_DISMISSED, set()).add(job_id)
