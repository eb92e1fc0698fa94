"""One button from a size, a memory or a machine to a recipe that was measured."""

from __future__ import annotations

import math

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from quant_core.allocation.proof import CLEAR, ranking, verdict
from quant_core.schema import (
    Budget,
    Limits,
    ModelInfo,
    Recommendation,
    RecommendRequest,
    Setup,
    Solution,
    Terms,
    Use,
)
from quant_core.targets.hardware import machines
from ui import entry, proof, scores, state, words
from ui import recipe_draft as drafts
from ui.jobs import in_fragment, latest, request_result, workspace

GOALS = {"size": "A size", "machine": "This machine", "hardware": "Another"}
GOAL = state.choice_param("for", "what to recommend for", tuple(GOALS))
SIZE = state.number_param("mb", "the size", 0, 0, 1e8)
"""MB; 0 for the one that is proposed."""
FREE = state.number_param("free", "the free memory", 0, 0, 1e8)
"""GB; 0 for what is free now."""
MACHINE = state.choice_param("machine", "the machine", tuple(machines()))
EFFORT = state.choice_param("effort", "how thoroughly", ("usual", "quick", "thorough"))
TOKENS = {"quick": (1024, 1024), "usual": (8192, 4096), "thorough": (32_768, 16_384)}
"""Tokens that layers are scored on, and that the finalists are measured on."""
PROPOSED = "int4/g64/asym"
"""The size of this for every layer is proposed."""
SHARE = 0.9
"""Share of a machine's memory that is planned with; the rest is the runtime's own. vLLM's default too."""
_LANDING = "recommend:landing"
_MOMENT = 1.0
"""Seconds between the end of the job and the page that it leads to."""


def panel(info: ModelInfo) -> None:
    """What to recommend for, the button, how it is going; when it is done, the recipe opens."""
    st.subheader(f"Recommend a recipe for {info.title}", anchor=False)
    st.caption(
        f"Its weights take {words.size(info.original_bits / 8)} as they are. One press scores its layers, solves for "
        "the best recipe, measures the finalists side by side on text that was held out, and opens the best."
    )
    with st.container(border=True):
        asked = _asked(info)
        if asked is None:
            return
        request = _request(info, *asked)
        job = latest(request)
        if job is not None and job.active:
            st.session_state[_LANDING] = job.key
        found = request_result(request, start="Recommend a recipe", why=_plan(request))
        if found is not None:
            _finished(info, request, found, job is not None and st.session_state.get(_LANDING) == job.key)


def _asked(info: ModelInfo) -> tuple[Budget, Terms] | None:
    """Budget and terms from the form; None, with a sentence, where nothing has to be done."""
    left, middle, right = st.columns([4, 3, 2], vertical_alignment="bottom", gap="medium")
    left.segmented_control(
        "For", **GOAL.choice(list(GOALS)), format_func=GOALS.__getitem__, required=True,
        help="What the recipe has to fit: a size of all weights; or a memory, this machine's or a GPU's, that holds "
        "the KV cache and activations beside the weights.",
    )  # fmt: skip
    right.selectbox(
        "How thoroughly", **EFFORT.choice(list(TOKENS)), format_func=str.capitalize,
        help="Tokens to score layers on, and to measure finalists on: quick 1,024 and 1,024, usual 8,192 and 4,096, "
        "thorough 32,768 and 16,384.",
    )  # fmt: skip
    if GOAL.get() == "size":
        size = _number(
            middle, SIZE, _proposed(info), "Size at most (MB)",
            "Of all the model's weights, those that stay as they are included; 1 MB = 10⁶ bytes.",
        )  # fmt: skip
        terms, room, what = Terms(), size * 1e6, f"{words.size(size * 1e6)} hold"
    else:
        terms = _memory(middle, info)
        room = workspace().weights_in_memory(info, terms)
        what = f"{words.size(terms.limits.memory)} of memory, with {terms.use.context:,} tokens in the KV cache, hold"
    if room >= info.original_bits / 8:
        st.success(
            f"{what} the original as it is, {words.size(info.original_bits / 8)}: nothing has to be quantized. "
            "Ask for a size to make it smaller.",
            icon=":material/check_circle:",
        )
        return None
    least = workspace().least_bytes(info, scores.format_names(), embeddings=True)
    if room < least:
        st.warning(
            f"{what} {words.size(max(room, 0.0))} of weights, and the smallest recipe takes {words.size(least)}: every "
            "layer, the embedding and the head in the smallest format that is scored. Ask for more.",
            icon=":material/block:",
        )
        return None
    return Budget("bytes", _rounded(room / 1e6) * 1e6), terms


def _proposed(info: ModelInfo) -> float:
    """Megabytes to begin with: those of ``PROPOSED``, up to three digits."""
    size = workspace().least_bytes(info, [PROPOSED]) / 1e6
    step = 10.0 ** (math.floor(math.log10(size)) - 2)
    return math.ceil(size / step) * step


def _number(
    place: DeltaGenerator, param: state.Param[float], proposed: float, label: str, help: str
) -> float:
    """A number field that proposes one; gives the number to the digits that the URL holds."""
    key = f"recommend:{param.name}"
    st.session_state[key] = _rounded(param.get() or proposed)
    value = place.number_input(
        label, min_value=0.001, key=key, format="%.6g", step=1.0, help=help,
        on_change=lambda: param.set(_rounded(st.session_state[key])),
    )  # fmt: skip
    return _rounded(value)


def _rounded(value: float) -> float:
    """A number down to five significant digits, which the URL holds exactly."""
    if value <= 0:
        return 0.0
    digits = 4 - math.floor(math.log10(value))
    return round(math.floor(round(value * 10.0**digits, 6)) / 10.0**digits, max(digits, 0))


def _memory(place: DeltaGenerator, info: ModelInfo) -> Terms:
    """A limit on memory, free here or of another machine, at a context length."""
    if GOAL.get() == "machine":
        if not FREE.get():  # what is free changes all the time: what was asked for does not
            FREE.set(math.floor(workspace().free_memory() / 1e8) / 10)
        memory = 1e9 * _number(
            place, FREE, FREE.get(), "Memory at most (GB)",
            "At first what was free when you came here; 1 GB = 10⁹ bytes.",
        )  # fmt: skip
    else:
        place.selectbox(
            "Machine", **MACHINE.choice(list(machines())),
            format_func=lambda name: f"{machines()[name].title} · {machines()[name].memory:g} GB",
            help=f"{SHARE:.0%} of its memory are planned with; the rest is left to the runtime.",
        )  # fmt: skip
        memory = 1e9 * _rounded(SHARE * machines()[MACHINE.get()].memory)
    top = max(info.context_length, 512)
    tie = state.CONTEXT.widget("recommend:context")
    st.session_state[tie["key"]] = min(state.CONTEXT.get(), top)
    st.slider(
        "Context in the KV cache", 1, top, format="localized", **tie,
        help="Tokens of one sequence whose keys and values are kept, 16 bits each.",
    )  # fmt: skip
    hardware = MACHINE.get() if GOAL.get() == "hardware" else ""
    return Terms(limits=Limits(memory=memory), use=Use(st.session_state[tie["key"]], hardware=hardware))


def _request(info: ModelInfo, budget: Budget, terms: Terms) -> RecommendRequest:
    tokens, held_out = TOKENS[EFFORT.get()]
    return workspace().recommend_request(info, budget, terms, scores.format_names(), tokens, held_out)


def _plan(request: RecommendRequest) -> str:
    """What the button will do."""
    joined = "the embedding and the head too" if request.embeddings else "embedding and head stay as they are"
    kept = " The scores are there already." if workspace().result(request.sweep) is not None else ""
    return (
        f"The best recipe of at most {words.size(request.budget.value)} for the weights, of {len(request.formats)} "
        f"formats ({joined}): scored on {request.tokens:,} tokens of {request.text.label}, measured on "
        f"{request.held_out_tokens:,} tokens of {request.held_out.label}.{kept}"
    )


def _finished(info: ModelInfo, request: RecommendRequest, found: Recommendation, land: bool) -> None:
    """Who won and the way to it; ``land`` goes there by itself."""
    places = ranking(found.proof.kl)
    best = places[0].recipe
    solution = found.recipes[best]
    form = found.forms[best]
    st.markdown(
        f":material/trophy: **{words.size(solution.total_bytes)}, {words.bits(solution.average_bits)} a weight, "
        f"measured KL {words.significant(places[0].kl)} ± {words.significant(CLEAR * places[0].stderr, 2)} "
        f"nats/token** (95 %, {found.proof.tokens:,} tokens of {found.proof.text_label})"
        + (f": {proof.called(0, form)}." if form else ".")
        + f"  \nBest of {len(places)} measured recipes. {verdict(places)}"
    )
    if workspace().result(request.sweep) is None:
        st.caption("Its scores were removed since; the recipe opens once they are there again.")
        request_result(request.sweep, start="Score the layers again")
    elif st.button(
        "Open the proved recipe", type="primary", icon=":material/arrow_forward:", key="recommend:open"
    ):
        _open(info, request, solution)
    elif land:
        _land(info, request, solution)


@st.fragment(run_every=_MOMENT)
def _land(info: ModelInfo, request: RecommendRequest, solution: Solution) -> None:
    """Open the recipe a moment later.

    Not in the very run in which the job ended: the browser may have asked the progress to be drawn again just then, and
    an answer to that for this page, once the next is there, makes it empty the next.
    """
    if in_fragment():
        _open(info, request, solution)
    st.caption("It opens by itself in a moment.")


def _open(info: ModelInfo, request: RecommendRequest, solution: Solution) -> None:
    """Make the winner the recipe under work, and go to it."""
    table = workspace().result(request.sweep)
    if table is None:
        return
    recipe = workspace().make_recipe(
        info, table, solution, request.budget, setup=Setup(), terms=request.terms
    )
    drafts.adopt(info, recipe)
    st.session_state.pop(_LANDING, None)
    scores.SWEEP.set(scores.table_id(table))
    scores.ADDED.set(())
    proof.TOKENS.set(request.held_out_tokens)
    entry.go("recipe")
