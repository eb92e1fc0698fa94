"""The train page: what is trained and how, how it goes, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import streamlit as st

from quant_core import plots
from quant_core.schema import Job, ModelInfo, Recipe, TextSource, Training, TrainRequest, digest, replace
from quant_core.store.keys import request_key
from ui import setup, state, theme, words
from ui.format_names import format_name, source_text
from ui.format_picker import format_picker
from ui.jobs import (
    guarded,
    latest,
    request_result,
    run_page_again,
    show_in_place,
    start_button,
    workspace,
)
from ui.text_picker import text_picker
from ui.widgets import Figure, empty_state, figures, notes, said, say

WHAT = state.choice_param("train", "what is trained", ("recipe", "uniform"))
FORMAT = state.text_param("trainformat", "the format", state.FORMAT.default, r"[\w/.@:=+-]{1,160}")
MINUTES = state.integer_param("minutes", "the time limit", 5, 1, 30)
MODE = state.choice_param("trainmode", "the way to train", ("full", "lora"))
RANK = state.integer_param("rank", "the rank", 32, 1, 1024)
TOKENS = state.integer_param("traintokens", "the size of the text", 65_536, 1024, 4_194_304)
SEED = state.integer_param("trainseed", "the seed", 0, 0, 2**31 - 1)
RATE = state.number_param("rate", "the learning rate", 0.007, 0.0001, 1.0)
START = state.text_param("trainfrom", "the training to go on from", pattern=r"[0-9a-f]{0,64}")
SHOWN = state.text_param("training", "the training", pattern=r"[0-9a-f]{0,64}")
"""Key of the stored training that the user picked; empty for the one that the settings ask for."""

_SOURCES = (
    "The loss is KL(original ‖ trained) over every position: distillation (Hinton et al. 2015, arXiv:1503.02531; for "
    "quantization LLM-QAT, Liu et al. 2023, arXiv:2305.17888). Gradients pass straight through rounding (STE, Bengio "
    "et al. 2013, arXiv:1308.3432), and step sizes of uniform integers are learned (LSQ, Esser et al. 2020, "
    "arXiv:1902.08153). LoRA (Hu et al. 2021, arXiv:2106.09685) adds its update before rounding, as LR-QAT does "
    "(Bondarenko et al. 2024, arXiv:2406.06385), so that what is stored is what was trained."
)
_TIMES = [1, 2, 5, 10, 30]
_SIZES = [8192, 16_384, 32_768, 65_536, 131_072, 262_144]
_KEY = "train:key"
_FIELD = 168
"""Pixels of a field: two fit beside each other on a phone."""
_JOBS = 200
"""Newest jobs among which the runs of a training are looked for."""


def sources() -> None:
    """How it is done, and who found out."""
    st.caption(source_text(_SOURCES))


# --- what is asked ------------------------------------------------------------------------------------------


def settings(info: ModelInfo, recipe: Recipe | None) -> TrainRequest | None:
    """What is trained and how; None, with a sentence, as long as that is not complete."""
    said()
    assignment = _assignment(info, recipe)
    with st.expander("Settings of the training", icon=":material/tune:", key="train:settings"):
        _fields(info)
        text = text_picker("training", default="self")
    if not assignment:
        st.warning(
            "The recipe leaves every layer as it is, so there is nothing to train. Lower its budget on the Recipe "
            "page, or train all layers in one format.",
            icon=":material/checklist:",
        )
    return _request(info, assignment, text) if assignment and text is not None else None


def _assignment(info: ModelInfo, recipe: Recipe | None) -> Mapping[str, str]:
    """Full format names by unit: the recipe's, or one for all."""
    if recipe is None:
        empty_state(
            "There is no recipe yet. Make one, or train all layers in one format.", "recipe", "Make a recipe"
        )
    else:
        titles = {
            "recipe": f"The recipe at {words.bits(recipe.average_bits)}",
            "uniform": "All layers in one format",
        }
        st.segmented_control(
            "What to train", **WHAT.choice(["recipe", "uniform"]), required=True, format_func=titles.__getitem__,
            help="The layers that get a format are trained in it; all others stay as they are.",
        )  # fmt: skip
    if recipe is not None and WHAT.get() == "recipe":
        return recipe.assignment()
    name = format_picker(FORMAT, "trainformat")
    return {unit.name: name for unit in info.units if unit.decided}


def _fields(info: ModelInfo) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.selectbox(
            "Time limit", **MINUTES.choice(_TIMES), format_func=lambda minutes: f"{minutes} min", width=_FIELD,
            help="Time in training steps. Writing the text before and measuring after come on top.",
        )  # fmt: skip
        st.selectbox(
            "Size of the text", **TOKENS.choice(sorted({*_SIZES, TOKENS.get()})),
            format_func=lambda count: f"{count:,} tokens", width=_FIELD,
            help="How much text there is; the training goes through it again and again.",
        )  # fmt: skip
        st.number_input(
            "Learning rate", 0.0001, 1.0, step=0.001, format="%.4f", width=_FIELD, **RATE.widget(),
            help="In parts of the distance between two neighbouring values of the format; with LoRA, of its factors.",
        )  # fmt: skip
        st.number_input(
            "Seed of the training", 0, 2**31 - 1, width=_FIELD, **SEED.widget(),
            help="Order of the text and first values.",
        )  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        st.segmented_control(
            "What is learned", **MODE.choice(["full", "lora"]), required=True,
            format_func={"full": "All values", "lora": "LoRA"}.__getitem__,
            help="All values of each weight, or an update of low rank, which takes about half of the memory.",
        )  # fmt: skip
        if MODE.get() == "lora":
            st.number_input("Rank", 1, 1024, width=_FIELD, **RANK.widget(), help="Of the update.")
        known = {training.key: training for training in workspace().trainings(info.fingerprint)}
        if known:
            st.selectbox(
                "Start from", **START.choice(["", *known]), width=2 * _FIELD,
                format_func=lambda key: _title(known[key]) if key else "the checkpoint's weights",
                help="The weights as they are in the model, or as another training left them.",
            )  # fmt: skip


def _request(info: ModelInfo, assignment: Mapping[str, str], text: TextSource) -> TrainRequest:
    return TrainRequest(
        info.ref, info.fingerprint, assignment, replace(setup.current(info), trained=START.get()), text,
        TOKENS.get(), seconds=60.0 * MINUTES.get(), learning_rate=RATE.get(),
        mode="lora" if MODE.get() == "lora" else "full", rank=RANK.get() if MODE.get() == "lora" else RANK.default,
        seed=SEED.get(), roots=workspace().inspect_request(info.ref).roots,
    )  # fmt: skip


# --- how it goes --------------------------------------------------------------------------------------------


def run_or_show(info: ModelInfo, request: TrainRequest | None) -> Training | None:
    """The training to show: the settings' own if it is there, else a stored one below the way to start theirs.

    None while a training runs, which is shown then, whatever it was asked, or if there is none.
    """
    running = [job for job in workspace().jobs(_JOBS) if job.kind == "train" and job.active]
    own = None
    if request is not None:
        _settings_changed(digest(request))
        own = guarded(lambda: request_key(request))
    for job in running:
        _live(job.id, job.key != own)
    if any(job.key == own for job in running):
        return None
    found = None
    if request is not None and own is not None:
        found = workspace().result(request)
        if found is None:
            _start(info, request)
    if running:
        return None
    known = workspace().trainings(info.fingerprint)
    return _choose(found or known[0], known) if known else None


def _settings_changed(key: str) -> None:
    """Other settings than before: what they lead to is shown, not what was picked by hand; a link may set both."""
    before, shown = st.session_state.get(_KEY, (key, ""))
    if before != key and SHOWN.get() == shown:
        SHOWN.set("")
    st.session_state[_KEY] = (key, SHOWN.get())


def _start(info: ModelInfo, request: TrainRequest) -> None:
    """The button that starts the training, or has it go on; above it what became of the last try."""
    job = latest(request)
    if job is not None and job.state == "failed":
        request_result(request)
        _so_far(
            job,
            "Before that, it came this far. Retry goes on from what was saved last, at most a minute before.",
        )
        return
    if job is not None and job.state == "cancelled":
        st.info("This training was stopped before its end.", icon=":material/stop:")
        learned = _so_far(job, "What was learned so far is kept, and the training goes on from there.")
        start_button(request, "Go on" if learned else "Start")
        return
    chosen = [format_name(name) for name in sorted(set(request.assignment.values()))]
    formats = ", ".join(chosen) if len(chosen) <= 3 else f"{len(chosen)} formats"
    weights = sum(unit.parameters for unit in info.units if unit.name in request.assignment)
    st.write(
        f"{len(request.assignment)} layers ({words.count(weights)} weights) in {formats}: "
        f"{words.duration(request.seconds)} of training on {request.tokens:,} tokens of {request.text.label}."
    )
    start_button(request, "Start")


def _so_far(job: Job, sentence: str) -> bool:
    """The curve of a training that ended early; whether there is one."""
    points = _points(job)
    if points:
        theme.chart(_figure(points), "loss-so-far", f"Loss over {points[-1][0]:,} steps.")
        st.caption(f"{points[-1][0]:,} steps. {sentence}")
    return bool(points)


@st.fragment(run_every=1.0)
def _live(job_id: str, other: bool) -> None:
    """Progress, numbers and curve of a running training, and the way to stop it."""
    job = workspace().job(job_id)
    if not job.active:
        run_page_again()
    show_in_place(job.id)
    if other:
        st.caption(":material/info: This training was asked for with other settings than those above.")
    bar, button = st.columns([6, 1], vertical_alignment="bottom", gap="small", wrap=False)
    what = job.message or ("waiting its turn" if job.state == "queued" else "starting")
    bar.progress(min(max(job.progress, 0.0), 1.0), text=f"{job.title} · {what}")
    button.button(
        "Stop", key=f"stop:{job.id}", type="tertiary", icon=":material/stop:", on_click=workspace().cancel,
        args=(job.id,),
    )  # fmt: skip
    _numbers(job)
    points = _points(job)
    alt = f"Loss over {points[-1][0]:,} steps so far." if points else "No step has been taken yet."
    theme.chart(_figure(points), f"loss-live-{job.id}", alt)
    st.caption(
        "What is learned so far is kept when you stop: Start with the same settings goes on from there. You may leave "
        "this page meanwhile."
    )


def _numbers(job: Job) -> None:
    losses = workspace().losses(job.id)
    if not losses:
        return
    last = losses[-1]
    left = last.seconds * (1.0 - job.progress) / job.progress if job.progress > 0 else None
    figures(
        [
            Figure("Steps", f"{last.step:,}", "How often the weights were changed."),
            Figure("Tokens", words.count(last.tokens), "Read so far, repetitions counted."),
            Figure(
                "Loss (nats/token)",
                words.significant(last.loss),
                "KL to the original, in the last half second.",
            ),
            Figure(
                "Time left",
                "–" if left is None else words.duration(max(left, 0.0)),
                "In training steps; measuring what was held out comes on top.",
            ),
        ]
    )


def _points(job: Job) -> list[tuple[int, float]]:
    """Steps and losses of all runs of a training that was stopped and went on."""
    runs = [found for found in reversed(workspace().jobs(_JOBS)) if found.key == job.key]
    return plots.joined_losses([(e.step, e.loss) for e in workspace().losses(run.id)] for run in runs)


def _figure(points: Sequence[tuple[int, float]], training: Training | None = None) -> go.Figure:
    before, after = (training.kl_before, training.kl_after) if training else (None, None)
    return plots.draw_loss_curve(plots.loss_curve(points, before, after), theme.palette())


# --- what came of it ----------------------------------------------------------------------------------------


def _choose(default: Training, trainings: Sequence[Training]) -> Training:
    """Pick among the stored trainings, if there are several."""
    known = {training.key: training for training in trainings}
    if SHOWN.get() and SHOWN.get() not in known:
        st.warning("The training that the link names is not stored here.", icon=":material/link_off:")
        SHOWN.set("")
    chosen = SHOWN.get() or default.key
    if len(known) > 1:
        st.session_state["training:shown"] = chosen
        st.selectbox(
            f"Training shown ({len(known)} stored)", list(known), format_func=lambda key: _title(known[key]),
            key="training:shown", on_change=lambda: SHOWN.set(st.session_state["training:shown"]),
        )  # fmt: skip
    return known[chosen]


def _title(training: Training) -> str:
    """A stored training in a list."""
    names = sorted({name.partition("@")[0] for name in training.assignment.values()})
    formats = format_name(names[0]) if len(names) == 1 else f"{len(names)} formats"
    parts = [f"{len(training.assignment)} layers in {formats}"]
    parts += ["LoRA"] if training.mode == "lora" else []
    return " · ".join([*parts, f"{training.steps:,} steps", f"KL {words.significant(training.kl_after)}"])


def result(training: Training, recipe: Recipe | None) -> None:
    """What a training did, its curve, and how to use it."""
    st.subheader("What it learned", anchor=False)
    st.caption(_title(training))
    held = f"Of {training.held_out:,} held-out tokens of the training text, in nats a token."
    change = training.kl_after / training.kl_before - 1.0 if training.kl_before > 0 else 0.0
    figures(
        [
            Figure("KL before (held out)", words.significant(training.kl_before), f"{held} Rounded, not trained."),
            Figure(
                "KL after (held out)", words.significant(training.kl_after), f"{held} Trained.",
                f"{100 * change:+.0f} %",
            ),
            Figure("Steps", f"{training.steps:,}", "How often the weights were changed."),
            Figure("Tokens", words.count(training.tokens), "Read in all, repetitions counted."),
            Figure("Training time", words.duration(training.seconds), "In training steps."),
            Figure("Trained numbers", words.count(training.learned), "Values and step sizes that were learned."),
        ]
    )  # fmt: skip
    st.caption(
        f":material/info: Both KL are in nats/token, of {training.held_out:,} tokens of the same text "
        f"({training.text_label}, hash {words.fingerprint(training.text_hash)}) that were not trained on: they tell "
        "that it learned, and are no evaluation. Measure it on other text on the Recipe or Compare page."
    )
    _use(training, recipe)
    alt = f"Loss over {training.steps:,} steps."
    theme.chart(_figure(training.curve, training), "loss", alt)
    notes(training.notes, "training")


def _use(training: Training, recipe: Recipe | None) -> None:
    """The buttons that put the trained weights into the recipe and take them out, and what that means for it."""
    used = setup.TRAINED.get() == training.key
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if used:
            st.markdown(":material/check_circle: **In use**: measuring and writing take these weights.")
            st.button("Take it out", key="train:drop", icon=":material/close:", on_click=_take, args=("",))
        else:
            st.button(
                "Use it in the recipe", key="train:use", type="primary", icon=":material/add_task:", on_click=_take,
                args=(training.key,),
            )  # fmt: skip
    if recipe is None:
        st.caption(
            "There is no recipe yet; the trained weights stand in for layers that it gives the same format."
        )
        return
    given = recipe.assignment()
    same = sum(_grid(given.get(unit, "")) == _grid(name) for unit, name in training.assignment.items())
    if same < len(given):
        st.caption(
            f"Trained weights stand in for {same} of the recipe's {len(given)} quantized layers: those that have the "
            "format they were trained in. The rest is rounded as before."
        )


def _take(key: str) -> None:
    setup.TRAINED.set(key)
    say(
        "Measure and Compare use the trained weights now."
        if key
        else "The recipe is without training again.",
        ":material/model_training:",
    )


def _grid(name: str) -> str:
    """A format without the way to round to it."""
    return name.partition("@")[0]
