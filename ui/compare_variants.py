"""The variants that Compare sets beside each other, its sections, and runs that an address names."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import streamlit as st

from quant_core.errors import QuantError
from quant_core.schema import ModelInfo, Recipe, Request, Result, Side, VariantSpec
from ui import compare_other, setup, state, words
from ui.jobs import show_error, show_newest, submit, workspace

TAB = state.choice_param("tab", "the section", ("texts", "vote", "text", "choices", "speed", "served"))
_TITLES = {
    "texts": "Texts",
    "vote": "Blind vote",
    "text": "On text",
    "choices": "Multiple choice",
    "speed": "Speed and energy",
    "served": "Served",
}
Q = TypeVar("Q", bound=Request)
A = TypeVar("A", bound=Result)


def sections() -> str:
    """The choice of a section; the address carries it."""
    st.segmented_control(
        "Section", **TAB.choice(list(_TITLES)), required=True, format_func=_TITLES.__getitem__,
        label_visibility="collapsed",
    )  # fmt: skip
    return TAB.get()


def specs(info: ModelInfo, recipe: Recipe | None) -> dict[Side, VariantSpec]:
    """The variants that there are: the original, the recipe under work, and another if one is chosen."""
    found: dict[Side, VariantSpec] = {"original": VariantSpec(label="Original")}
    if recipe is not None:
        title = f"Recipe at {words.bits(recipe.average_bits)}"
        found["recipe"] = VariantSpec(recipe.assignment(), setup.current(info), title)
    other = compare_other.chosen(info)
    if other is not None:
        found["other"] = VariantSpec(other.assignment, other.setup, compare_other.title(), other.checkpoint)
    return found


def roots(info: ModelInfo) -> tuple[str, ...]:
    """Folders that the model may lie in."""
    return workspace().inspect_request(info.ref).roots


class Found(NamedTuple):
    """A run that an address names."""

    request: Request
    result: Result


def start(request: Request, param: state.Param[str], key: str) -> None:
    """Start the work, and have the address name it."""
    if submit(request) is not None:
        param.set(key)


def named(param: state.Param[str], info: ModelInfo, again: str) -> Found | None:
    """The run that ``param`` names; None where it names none, or after what leads to it or away from it is drawn."""
    key = param.get()
    if not key:
        return None
    try:
        run = workspace().stored_run(key)
        if run.request is None or run.fingerprint != info.fingerprint:
            raise QuantError("The link is about another model.", "Open that model, or start anew.")
        return Found(run.request, run.result)
    except QuantError as error:
        if not show_newest(key):
            show_error(error)
    leave(param, again)
    return None


def leave(param: state.Param[str], label: str) -> None:
    """The way back to the form."""
    st.button(label, icon=":material/arrow_back:", key=f"leave:{param.name}", on_click=param.set, args=("",))
