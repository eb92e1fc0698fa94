"""The blind vote's beginning: which two variants write, from which prompts."""

from __future__ import annotations

from typing import cast

import streamlit as st

from quant_core.errors import QuantError
from quant_core.question_files import bundled_prompts, read_prompts
from quant_core.schema import ModelInfo, PromptsRequest, PromptTexts, Recipe, Side, VariantSpec
from quant_core.store.keys import request_key
from ui import compare_ballot, compare_other, state
from ui.compare_variants import named, roots, specs, start
from ui.jobs import show_error

VOTE = state.text_param("vote", "the vote", pattern=r"[0-9a-f]{0,24}")
"""Content key of the texts that are voted on."""
PAIR = state.choice_param("pair", "the two variants", ("original-recipe", "original-other", "recipe-other"))
_SOURCES = {"bundled": "Bundled stories", "paste": "Paste", "upload": "Upload"}
_PAIRS = {
    "original-recipe": "Original and recipe",
    "original-other": "Original and another",
    "recipe-other": "Recipe and another",
}


def show(info: ModelInfo, recipe: Recipe | None, tokens: int, seed: int, temperature: float) -> None:
    """The vote that the address names, else the form that begins one."""
    if VOTE.get():
        found = named(VOTE, info, "Set up a vote")
        if found is not None and isinstance(found.request, PromptsRequest):
            compare_ballot.show(VOTE, found.request, cast(PromptTexts, found.result))
        return
    st.markdown(
        "Two variants write from the same prompts. You read two texts at a time, as A and B in a drawn order, and say "
        "which is better; who wrote which is told at the end."
    )
    if recipe is None and compare_other.OTHER.get() and PAIR.get() == PAIR.default:
        PAIR.set("original-other")  # what the page compares already
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.segmented_control(
            "Who writes",
            **PAIR.choice(list(_PAIRS)),
            required=True,
            wrap=True,
            format_func=_PAIRS.__getitem__,
        )
        if "other" in PAIR.get():
            compare_other.picker(info)
    prompts = _prompts()
    there = specs(info, recipe)
    pair = [cast(Side, side) for side in PAIR.get().split("-")]
    missing = [side for side in pair if side not in there]
    if missing:
        _missing(missing[0])
    elif prompts:
        _begin(info, prompts, (there[pair[0]], there[pair[1]]), tokens, seed, temperature)


def _missing(side: Side) -> None:
    if side == "recipe":
        compare_other.without_recipe(
            "There is no recipe yet to vote on. Let every layer take 2 bits instead, or make one."
        )
    else:
        st.caption(f":material/info: Choose what else writes under {compare_other.LABEL}.")


def _begin(
    info: ModelInfo, prompts: tuple[str, ...], pair: tuple[VariantSpec, VariantSpec], tokens: int, seed: int,
    temperature: float,
) -> None:  # fmt: skip
    request = PromptsRequest(
        info.ref, info.fingerprint, prompts, pair, tokens, seed, temperature, roots=roots(info)
    )
    st.caption(
        f"{len(prompts)} prompts, {tokens} tokens each at temperature {temperature:g}, seed {seed}: as set under Texts."
    )
    st.button(
        "Write them and vote", type="primary", key="vote:start", on_click=start,
        args=(request, VOTE, request_key(request)),
    )  # fmt: skip


def _prompts() -> tuple[str, ...]:
    """The prompts that are chosen; empty, after a sentence, as long as there are none."""
    kind = st.segmented_control(
        "Prompts", list(_SOURCES), default="bundled", required=True, format_func=_SOURCES.__getitem__,
        key="vote:source", persist_state="session",
        help="The bundled ones begin stories, which is what the bundled model writes.",
    )  # fmt: skip
    try:
        if kind == "paste":
            text = st.text_area(
                "Your prompts, one a line", height=160, key="vote:paste", persist_state="session"
            )
        elif kind == "upload":
            file = st.file_uploader("A text file (UTF-8), one prompt a line", type=["txt"], key="vote:upload")
            text = file.getvalue().decode("utf-8-sig") if file else ""
        else:
            text = bundled_prompts()
        if not text.strip():
            st.caption(":material/info: Give a prompt a line, or take the bundled ones.")
            return ()
        return read_prompts(text)
    except UnicodeDecodeError:
        st.error("The file is no UTF-8 text. Save it as UTF-8 and upload it again.", icon=":material/error:")
    except QuantError as error:
        show_error(error)
    return ()
