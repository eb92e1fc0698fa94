"""The blind vote itself: two texts as A and B, the buttons, and at the end who wrote which.

Nothing on the page or in its address says who wrote which before the voter has done: texts stand in an order that is
drawn for each voter and prompt, and what is stored of a vote is looked up only here.
"""

from __future__ import annotations

import hashlib
import random
import secrets

import streamlit as st

from quant_core.schema import PromptsRequest, PromptTexts
from quant_core.store.votes import Choice
from ui import compare_reveal, compare_text, state, theme
from ui.compare_variants import leave
from ui.jobs import workspace
from ui.widgets import notes

_PERSON = state.integer_param("person", "the number of the voter", 0, 0, 999)
"""Counts those who voted in this browser one after another."""
_SESSION = "vote:session"
_AGAIN = "vote:again"


def show(param: state.Param[str], request: PromptsRequest, result: PromptTexts) -> None:
    """One prompt to vote on, or the outcome once all have been."""
    key = param.get()
    voter = voter_id()
    asked = [place for place, (first, second) in enumerate(result.texts) if first != second]
    mine = {vote.prompt: vote.choice for vote in workspace().votes(key) if vote.voter == voter}
    again = st.session_state.get(_AGAIN)
    left = [place for place in asked if place not in mine or again == (voter, place)]
    if left and not workspace().has_ended_vote(key, voter):
        _ballot(key, voter, left[0], asked, request, result)
    else:
        compare_reveal.show(request, result, workspace().votes(key))
        with st.container(horizontal=True):
            st.button(
                "Let somebody else vote here", icon=":material/person_add:", key="vote:next", on_click=_next
            )
            leave(param, "Set up another vote")
    notes(result.notes, "vote")


def _ballot(
    key: str, voter: str, place: int, asked: list[int], request: PromptsRequest, result: PromptTexts
) -> None:
    number = asked.index(place) + 1
    st.progress(number / len(asked), text=f"{number} of {len(asked)}")
    palette = theme.palette()
    swapped = is_swapped(key, voter, place)
    texts = result.texts[place][::-1] if swapped else result.texts[place]
    for column, name, text in zip(st.columns(2), "AB", texts, strict=True):
        with column.container(border=True):
            st.markdown(f"**{name}**")
            st.html(compare_text.text_html(request.prompts[place], (text,), -1, palette))
    answers: list[tuple[str, str, Choice]] = [
        ("A is better", "a", 1 if swapped else 0),
        ("B is better", "b", 0 if swapped else 1),
        ("No difference", "n", -1),
    ]
    with st.container(horizontal=True, horizontal_alignment="center"):
        for label, letter, choice in answers:
            st.button(
                label, key=f"vote:{letter}", shortcut=letter, on_click=_vote, args=(key, voter, place, choice)
            )
    with st.container(horizontal=True):
        if number > 1:
            st.button(
                "Back", type="tertiary", icon=":material/undo:", key="vote:back", on_click=_back,
                args=(voter, asked[number - 2]),
            )  # fmt: skip
        st.button(
            "End and see the result", type="tertiary", key="vote:end", on_click=_end, args=(key, voter),
            help="You then see who wrote which, so that you can vote on no more of these texts.",
        )  # fmt: skip
    same = len(result.texts) - len(asked)
    st.caption(
        (f"Left out, since both variants wrote the same: {same} of {len(result.texts)}. " if same else "")
        + "Votes are kept on this server and count together: share this page's address to have others vote on the "
        "same texts."
    )


def is_swapped(key: str, voter: str, place: int) -> bool:
    """Whether a voter sees the second variant's text as A; drawn from what is asked, the voter and the prompt."""
    return random.Random(f"{key}/{voter}/{place}").random() < 0.5


def voter_id() -> str:
    """Who votes: this browser, by the cookie that the server gave it, so that a reload or a second tab is nobody new.

    The cookie's token is masked anew in every answer (``2|mask|token|time``, RFC 6455's mask); only its hash is kept.
    """
    try:
        _, mask, token, _ = st.context.cookies["_streamlit_xsrf"].strip('"').split("|")
        key = bytes.fromhex(mask)
        browser = bytes(byte ^ key[place % 4] for place, byte in enumerate(bytes.fromhex(token))).hex()
    except (KeyError, ValueError, IndexError):
        browser = st.session_state.setdefault(_SESSION, secrets.token_hex(16))
    return hashlib.sha256(f"{browser}/{_PERSON.get()}".encode()).hexdigest()[:16]


def _vote(key: str, voter: str, place: int, choice: Choice) -> None:
    st.session_state.pop(_AGAIN, None)
    workspace().vote(key, voter, place, choice)


def _back(voter: str, place: int) -> None:
    st.session_state[_AGAIN] = (voter, place)


def _end(key: str, voter: str) -> None:
    workspace().end_vote(key, voter)


def _next() -> None:
    _PERSON.set(min(_PERSON.get() + 1, 999))
