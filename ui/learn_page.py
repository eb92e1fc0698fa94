"""The Learn page: all lessons in their order, the glossary, and a page to print."""

from __future__ import annotations

import streamlit as st

from ui import entry, glossary
from ui.lesson import GUESSES
from ui.lesson_text import lesson_text
from ui.summary_page import summary


def lessons() -> None:
    """A card a lesson: what it asks, and the way in."""
    begun = {text.rpartition(".")[0] for text in GUESSES.get()}
    with st.container(horizontal=True, gap="medium"):
        for place, spec in enumerate(entry.LESSONS):
            text = lesson_text(spec.stem)
            with st.container(border=True, width=330, height="stretch", key=f"lesson-card-{spec.stem}"):
                done = " :green[:material/check:]" if spec.stem in begun else ""
                st.markdown(f"**{place + 1}. {spec.title}**{done}  \n{text.title}")
                entry.link(entry.lesson_stem(spec.stem), "Again" if done else "Begin")


def words_of_the_field() -> None:
    """The glossary, searchable."""
    st.subheader("Glossary", anchor=False)
    asked = st.text_input("Search the terms", placeholder="scale", key="glossary:search").strip().lower()
    found = [
        term
        for term in glossary.terms().values()
        if asked in term.name.lower() or asked in term.means.lower()
    ]
    if not found:
        st.caption(f"No term speaks of “{asked}”.")
    taught = {spec.stem: place + 1 for place, spec in enumerate(entry.LESSONS)}
    for term in found:
        lesson = f" *(lesson {taught[term.lesson]})*" if term.lesson in taught else ""
        st.markdown(f"**{term.name}**: {term.means}{lesson}")


def printed() -> None:
    """The lessons on one page, as a file."""
    st.download_button(
        "One page to print", summary, "quantlens-lessons.html", "text/html", icon=":material/print:",
        on_click="ignore", help="What to keep in mind of every lesson, in one file to print.",
    )  # fmt: skip
