"""The compare page: ask for up to three continuations, watch them grow, and see what was measured."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from quant_core.errors import QuantError
from quant_core.schema import Evaluation, GenerateRequest, Generation, Job, ModelInfo, Recipe, Setup, Side
from ui import (
    compare_layers,
    compare_other,
    compare_spread,
    compare_text,
    compare_tokens,
    compare_vote,
    setup,
    state,
    words,
)
from ui import recipe_draft as drafts
from ui.compare_tokens import COLOUR
from ui.jobs import (
    latest,
    progress_text,
    request_result,
    run_page_again,
    show_error,
    show_in_place,
    submit,
    workspace,
)
from ui.widgets import empty_state, notes

EXAMPLES = (
    "Once upon a time there was a little fox who",
    "“What is behind that door?” asked the girl. The old man",
    "The ship had been at sea for three weeks when",
    "My dear sister, you will hardly believe what happened",
)
PROMPT = state.text_param("prompt", "the prompt", EXAMPLES[0], r"[\s\S]{1,2000}")
SEED = state.integer_param("seed", "the seed", 0, 0, 2**31 - 1)
LENGTH = state.integer_param("length", "the length", 60, 1, 1000)
TEMPERATURE = state.number_param("temperature", "the temperature", 0.8, 0.0, 2.0)
CHAT = state.choice_param("chat", "the chat template", ("yes", "no"))

_SHOWN = "compare:request"
_NUMBER = 168
"""Pixels of a number field: two fit beside each other on a phone."""


def recipe_or_hint(info: ModelInfo) -> Recipe | None:
    """The recipe under work; without one, a sentence and the way to get one."""
    try:
        return drafts.current_recipe(info)
    except QuantError as error:
        show_error(error)
        return None


def settings(info: ModelInfo, recipe: Recipe | None) -> None:
    """Prompt, examples and sampling settings, and the button that starts all sides."""
    st.pills(
        "Examples", EXAMPLES, key="compare:example", format_func=lambda text: f"{' '.join(text.split()[:4])} …",
        on_change=_take_example, label_visibility="collapsed",
    )  # fmt: skip
    st.text_area("Prompt", height=90, max_chars=2000, **PROMPT.widget())
    compare_other.picker(info)
    how = f"{LENGTH.get():,} tokens, temperature {TEMPERATURE.get():g}, seed {SEED.get()}"
    with (
        st.expander(f"How they write: {how}", icon=":material/tune:", key="compare:how"),
        st.container(horizontal=True),
    ):
        st.number_input(
            "Tokens", 1, 1000, step=10, width=_NUMBER, **LENGTH.widget(), help="How many tokens each side writes."
        )  # fmt: skip
        st.number_input(
            "Temperature", 0.0, 2.0, step=0.1, width=_NUMBER, **TEMPERATURE.widget(),
            help="0 always takes the likeliest token; higher is more adventurous.",
        )  # fmt: skip
        st.number_input(
            "Seed", 0, 2**31 - 1, width=_NUMBER, **SEED.widget(),
            help="Same seed, same random numbers on all sides and in every run.",
        )  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.button("Write", type="primary", key="compare:write", on_click=_write, args=(info, recipe))
        st.button(
            "Another seed",
            key="compare:next",
            on_click=_next_seed,
            args=(info, recipe),
            icon=":material/casino:",
        )
        if info.chat:
            st.segmented_control(
                "Chat template", **CHAT.choice(["yes", "no"]), required=True,
                format_func={"yes": "Chat template", "no": "Plain text"}.__getitem__, label_visibility="collapsed",
                help="Whether the prompt is wrapped as a chat message.",
            )  # fmt: skip


def _take_example() -> None:
    text = st.session_state.get("compare:example")
    if text:
        PROMPT.set(text)


def _request(info: ModelInfo, recipe: Recipe | None) -> GenerateRequest:
    other = compare_other.chosen(info)
    return GenerateRequest(
        info.ref, info.fingerprint, PROMPT.get(), recipe.assignment() if recipe else None, LENGTH.get(), SEED.get(),
        TEMPERATURE.get(), chat=info.chat and CHAT.get() == "yes",
        setup=setup.current(info) if recipe else Setup(), roots=workspace().inspect_request(info.ref).roots,
        other=other.assignment if other else None, other_setup=other.setup if other else Setup(),
        other_checkpoint=other.checkpoint if other else None,
    )  # fmt: skip


def _write(info: ModelInfo, recipe: Recipe | None) -> None:
    if not PROMPT.get().strip():
        return  # ``texts`` says so
    request = _request(info, recipe)
    st.session_state[_SHOWN] = request
    submit(request)


def _next_seed(info: ModelInfo, recipe: Recipe | None) -> None:
    SEED.set((SEED.get() + 1) % 2**31)
    _write(info, recipe)


def texts(info: ModelInfo, recipe: Recipe | None) -> None:
    """What was asked for last: growing while it is written, then as it is kept."""
    if not PROMPT.get().strip():
        st.warning("Give a prompt to go on from, or take one of the examples.", icon=":material/edit:")
        return
    now = _request(info, recipe)
    asked = st.session_state.get(_SHOWN)
    request = asked if isinstance(asked, GenerateRequest) and asked.fingerprint == info.fingerprint else now
    titles = _titles(info, recipe, request, now)
    result = workspace().result(request)
    if result is not None:
        _finished(request, result, titles)
        st.caption(f"{_how(request, now)}  \n{compare_other.meaning()}")
        compare_layers.show(info, request, result, titles)
        return
    job = latest(request)
    if job is None or job.state == "done":
        who = " and ".join(f"**{title}**" for title in titles.values())
        goes = "go" if len(titles) > 1 else "goes"
        st.caption(
            f"Press Write: {who} {goes} on from the prompt, token by token.  \n{compare_other.meaning()}"
        )
    elif job.active:
        show_in_place(job.id)
        _stream(request, job.id, titles)
    elif job.state == "failed":
        request_result(request)
    else:
        events = workspace().events(job.id)
        compare_text.show(request.prompt, compare_text.from_events(events), titles, writing=False)
        st.caption(f"Stopped after {len(events)} tokens. {_how(request, now)}")


def _finished(request: GenerateRequest, result: Generation, titles: Mapping[Side, str]) -> None:
    """The texts, coloured as asked for, and their numbers as a table."""
    sides = compare_text.from_result(result)
    if not result.readings:
        compare_text.show(request.prompt, sides, titles, writing=False)
        if COLOUR.get() != COLOUR.default:
            st.caption(
                "These texts were stored before tokens were measured: write with another seed to colour them."
            )
        return
    compare_tokens.picker()
    compare_text.show(request.prompt, sides, titles, writing=False, readings=result.readings)
    with st.expander("The numbers of every token", icon=":material/table:"):
        tokens = {side: sides.tokens(side) for side in titles}
        frame = compare_tokens.table(tokens, result.readings, titles)
        st.dataframe(frame, column_config=compare_tokens.column_config(frame))
        st.caption(
            "Probability: what a side gave the token that it wrote. KL: how far what it predicted for the place is "
            "from what the original predicts after the same words. Both at temperature 1 over the whole vocabulary."
        )


@st.fragment(run_every=0.25)
def _stream(request: GenerateRequest, job_id: str, titles: Mapping[Side, str]) -> None:
    job = workspace().job(job_id)
    if not job.active:
        run_page_again()
    _progress(job)
    compare_tokens.picker()
    readings = workspace().readings(job_id)  # before the tokens, which must not be fewer
    sides = compare_text.from_events(workspace().events(job_id))
    compare_text.show(request.prompt, sides, titles, writing=True, readings=readings)


def _progress(job: Job) -> None:
    left, right = st.columns([6, 1], vertical_alignment="center")
    left.caption(progress_text(job))
    right.button(
        "Stop", key=f"stop:{job.id}", icon=":material/stop:", on_click=workspace().cancel, args=(job.id,)
    )


def _titles(
    info: ModelInfo, recipe: Recipe | None, request: GenerateRequest, now: GenerateRequest
) -> dict[Side, str]:
    """What to call the sides of ``request``; one that is no longer what the page asks for says so."""
    titles: dict[Side, str] = {"original": "Original"}
    if request.assignment is not None:
        same = (request.assignment, request.setup) == (now.assignment, now.setup)
        titles["recipe"] = (
            f"Recipe at {words.bits(recipe.average_bits)}" if recipe and same else "Recipe of before"
        )
    if request.other is not None:
        same = (request.other, request.other_setup, request.other_checkpoint) == (
            now.other, now.other_setup, now.other_checkpoint
        )  # fmt: skip
        titles["other"] = compare_other.title() if same else "The other of before"
    return titles


def _how(request: GenerateRequest, now: GenerateRequest) -> str:
    text = f"Seed {request.seed}, temperature {request.temperature:g}, {request.tokens} tokens at most."
    return text + (" Press Write for the settings above." if request != now else "")


def vote(info: ModelInfo, recipe: Recipe | None) -> None:
    """The blind vote, on texts that are written as the settings under Texts say."""
    compare_vote.show(info, recipe, LENGTH.get(), SEED.get(), TEMPERATURE.get())


def on_text(info: ModelInfo, recipe: Recipe | None) -> None:
    """What was measured of the recipe on text."""
    if recipe is None:
        empty_state("There is no recipe yet to measure.", "recipe", "Make a recipe")
        return
    metrics(info, recipe)
    compare_spread.show(info, recipe)


def metrics(info: ModelInfo, recipe: Recipe) -> None:
    """What was measured of the recipe, number by number; or the button that measures."""
    st.subheader("Measured on text", anchor=False)
    found = drafts.measured(info, recipe.assignment()) or recipe.measured
    if found is None:
        found = request_result(
            drafts.measure_request(info, recipe.assignment()), start="Measure it",
            why="KL divergence, perplexity and agreement with the original, on text apart from the calibration text.",
        )  # fmt: skip
    if found is not None:
        st.table(metrics_frame(found).set_index("Metric"), border="horizontal")  # its cells wrap on a phone
        st.caption(
            f"{found.tokens:,} tokens of {found.text_label} (hash {words.fingerprint(found.text_hash)}), in "
            f"{words.duration(found.seconds)}; ± is one standard error."
        )
        notes(found.notes, "measured")
    st.caption(
        ":material/info: Simulated quantization: weights are rounded to their formats and computed as before. "
        "This shows quality, not speed; how fast a recipe runs depends on the runtime's kernels."
    )


def metrics_frame(found: Evaluation) -> pd.DataFrame:
    """The metrics table: each with its unit and what it means, of the original and of the recipe; in Markdown."""
    rows = [
        ("Perplexity", "between how many tokens it wavers; less is better",
         _spread(found.perplexity_original, found.perplexity_original_stderr),
         _spread(found.perplexity, found.perplexity_stderr)),
        ("KL, mean (nats/token)", "how far the next-token distribution moved, on average", "0",
         _spread(found.kl_mean, found.kl_stderr)),
        ("KL, median (nats/token)", "half of the tokens moved less", "0", words.significant(found.kl_median)),
        ("KL, 99th percentile (nats/token)", "one token in 100 moved more", "0", words.significant(found.kl_p99)),
        ("Same likeliest token", "where both would write the same", "100 %", words.share(found.top1_agreement)),
    ]  # fmt: skip
    shown = [(f"**{name}**  \n{meaning}", *values) for name, meaning, *values in rows]
    return pd.DataFrame(shown, columns=["Metric", "Original", "Recipe"])


def _spread(value: float, stderr: float) -> str:
    return f"{words.significant(value, 4)} ± {words.significant(stderr, 2)}"
