"""The frame of a lesson: question, guess, a live experiment, what happened, a quiz, and the way on.

A lesson's page begins with ``begin``, asks with ``guess``, shows its experiment, and closes with ``happened``, ``quiz``
and ``end``. What was guessed is kept in the address, so that a reload shows the same; in lesson mode, which hides the
rest of the app, the arrow keys go from lesson to lesson.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import streamlit as st

from quant_core.schema import FormatView, ModelInfo, Unit
from ui import entry, state, words
from ui.lesson_text import LessonText, filled, lesson_text
from ui.widgets import open_model, page_title

GUESSES = state.list_param("guess", "the guesses")


@dataclass(frozen=True)
class Quiz:
    """A question whose right option follows from numbers that were just computed."""

    question: str
    options: tuple[str, ...]
    right: int
    why: str


@dataclass(frozen=True)
class Lesson:
    """The lesson that a page shows, on the model at hand."""

    stem: str
    text: LessonText
    info: ModelInfo

    def layer(self, role: str = "") -> Unit:
        """The layer that the experiment looks at: the reader's choice, at first a middle block's ``role``."""
        units = [unit for unit in self.info.units if unit.decided]
        names = [unit.name for unit in units]
        if state.UNIT.get() not in names:
            alike = [unit for unit in units if role and role in unit.role] or units
            state.UNIT.set(alike[len(alike) // 2].name)
        st.selectbox(
            "Layer", help="Any layer of the model at hand; the numbers below are computed from its weights.",
            **state.UNIT.choice(names, "lesson:layer"),
        )  # fmt: skip
        return next(unit for unit in units if unit.name == state.UNIT.get())

    def guess(self, *options: str) -> bool:
        """Ask for a guess before anything is shown; whether one was made."""
        made = _guesses().get(self.stem)
        st.markdown(f"**First, a guess.** {self.text.guess}")
        if made is None or not 0 <= made < len(options):
            for place, option in enumerate(options):
                st.button(
                    option, key=f"guess:{self.stem}:{place}", on_click=_guess, args=(self.stem, place),
                    width="stretch",
                )  # fmt: skip
            return False
        st.caption(f":material/person: Your guess: **{options[made]}**")
        st.button("Guess again", key=f"guess:{self.stem}:again", type="tertiary", on_click=_guess,
                  args=(self.stem, None))  # fmt: skip
        return True

    def happened(self, right: int | None, numbers: dict[str, str]) -> None:
        """Tell what happened, in numbers, and whether the guess was right; None where none is right or wrong."""
        st.subheader("What happened", anchor=False)
        made = _guesses().get(self.stem)
        if right is not None and made is not None:
            st.markdown(
                ":green[:material/check:] As you guessed." if made == right else "Not as you guessed."
            )
        st.markdown(filled(self.text.happened, numbers))

    def quiz(self, *items: Quiz) -> None:
        """Questions to answer; right and wrong are told at once."""
        st.subheader("Check yourself", anchor=False)
        for place, item in enumerate(items):
            key = f"quiz:{self.stem}:{place}"
            chosen = st.radio(item.question, item.options, index=None, key=key)
            if chosen is None:
                continue
            if chosen == item.options[item.right]:
                st.success(f"Right. {item.why}", icon=":material/check:")
            else:
                st.error(f"Not so. {item.why}", icon=":material/close:")

    def end(self) -> None:
        """What to keep in mind, where it is used, and the neighbouring lessons."""
        st.info(f"**To keep in mind.** {self.text.remember}", icon=":material/lightbulb:")
        with st.container(horizontal=True, gap="medium"):
            for stem, label in self.text.earnest:
                entry.link(stem, label, mode="app")
        place = _place(self.stem)
        with st.container(
            horizontal=True, gap="small", horizontal_alignment="distribute", key="lesson-steps"
        ):
            _step(place - 1, "Left", ":material/arrow_back:", "left")
            _step(place + 1, "Right", ":material/arrow_forward:", "right")


def begin(stem: str) -> Lesson:
    """The top of a lesson's page: place among the lessons, title, question and idea; stops until a model is open."""
    entry.ensure_entry(entry.lesson_stem(stem))
    text = lesson_text(stem)
    caption = page_title(text.title, "")
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        entry.link("learn", "All lessons", mode="app")
        leave = state.MODE.get() == "lesson"
        st.button(
            "Leave lesson mode" if leave else "Lesson mode", key="lesson:mode", type="tertiary",
            icon=":material/close_fullscreen:" if leave else ":material/fullscreen:", on_click=state.MODE.set,
            args=("app" if leave else "lesson",), help="Hides the rest of the app; the arrow keys go from lesson to "
            "lesson.",
        )  # fmt: skip
    info = open_model(state.model_ref())
    if info is None:
        st.stop()
    caption.caption(
        f"Lesson {_place(stem) + 1} of {len(entry.LESSONS)} · every number is computed from **{info.title}**, "
        f"fingerprint `{words.fingerprint(info.fingerprint)}`"
    )
    st.markdown(text.question)
    with st.expander("The idea", icon=":material/lightbulb_2:"):
        st.markdown(text.idea)
    return Lesson(stem, text, info)


def relative_error(view: FormatView) -> float:
    """Squared error over squared weights, in percent; 0 where the format holds every weight."""
    return 0.0 if view.sqnr_db is None else 100 * 10 ** (-view.sqnr_db / 10)


def percent(value: float) -> str:
    """A share in percent, to two significant digits."""
    return f"{words.significant(value, 2)} %"


def _place(stem: str) -> int:
    return [spec.stem for spec in entry.LESSONS].index(stem)


def _step(place: int, key: str, icon: str, side: Literal["left", "right"]) -> None:
    if not 0 <= place < len(entry.LESSONS):
        return
    spec = entry.LESSONS[place]
    if st.button(
        f"{place + 1}. {spec.title}", key=f"lesson:{side}", icon=icon, icon_position=side,
        shortcut=key if state.MODE.get() == "lesson" else None,
    ):  # fmt: skip
        entry.go(entry.lesson_stem(spec.stem))


def _guesses() -> dict[str, int]:
    """The option that was guessed, by lesson; what makes no sense in the address is none."""
    pairs = [text.rpartition(".") for text in GUESSES.get()]
    return {stem: int(option) for stem, _, option in pairs if option.isdecimal()}


def _guess(stem: str, option: int | None) -> None:
    kept = {name: made for name, made in _guesses().items() if name != stem}
    if option is not None:
        kept[stem] = option
    GUESSES.set(tuple(f"{name}.{made}" for name, made in kept.items()))
