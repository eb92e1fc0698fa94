"""Multiple choice: questions that the user brings, answered by original and recipe."""

from __future__ import annotations

from typing import cast

import pandas as pd
import streamlit as st

from quant_core.errors import QuantError
from quant_core.question_files import Questions, read_questions
from quant_core.schema import ChoiceScores, ChoicesRequest, ModelInfo, Recipe
from quant_core.significance import Paired, paired, picks
from quant_core.store.keys import request_key
from ui import setup, state, words
from ui.compare_variants import leave, named, roots, start
from ui.jobs import show_error
from ui.widgets import empty_state, notes

SCORED = state.text_param("scored", "the scored questions", pattern=r"[0-9a-f]{0,24}")
"""Content key of scored questions."""
_RATED = {"Likeliest choice (acc)": False, "Likeliest per byte (acc_norm)": True}
_EXAMPLE = """{"question": "The dog saw the cat and began to", "choices": ["bark.", "read a book."], "answer": 0}
{"question": "It was raining, so she took her", "choices": ["umbrella.", "piano."], "answer": 0}"""
_MOST_BYTES = 5_000_000


def show(info: ModelInfo, recipe: Recipe | None) -> None:
    """The questions that the address names with their outcome, else the form to bring some."""
    if SCORED.get():
        found = named(SCORED, info, "Bring other questions")
        if found is not None and isinstance(found.request, ChoicesRequest):
            outcome(found.request, cast(ChoiceScores, found.result))
            leave(SCORED, "Bring other questions")
        return
    if recipe is None:
        empty_state("There is no recipe yet to compare with the original.", "recipe", "Make a recipe")
        return
    st.markdown(
        "Bring a file of questions with choices. Each choice is scored by how likely the model finds it behind the "
        "question; the likeliest is its answer."
    )
    brought = _questions()
    if brought is None:
        return
    if brought.left_out:
        st.warning(brought.left_out, icon=":material/playlist_remove:")
    count = len(brought.questions)
    request = ChoicesRequest(
        info.ref, info.fingerprint, brought.questions, recipe.assignment(), setup.current(info), roots(info)
    )
    st.button(
        f"Score {count:,} question{'s' if count > 1 else ''}", type="primary", key="choices:start", on_click=start,
        args=(request, SCORED, request_key(request)),
    )  # fmt: skip


def _questions() -> Questions | None:
    file = st.file_uploader(
        "Questions as JSON lines (UTF-8, up to 5 MB, 2,000 questions)", type=["jsonl", "json", "txt"],
        key="choices:file",
    )  # fmt: skip
    text = st.text_area(
        "or paste them", height=120, key="choices:paste", persist_state="session", placeholder=_EXAMPLE,
        help="An object a line. Other names are taken too: context, query, prompt, ctx; options, endings; gold, label, "
        "answerKey. The answer is an index from 0, a letter, or the text of a choice.",
    )  # fmt: skip
    try:
        if file is not None:
            text = file.getvalue()[:_MOST_BYTES].decode("utf-8-sig")
        return read_questions(text) if text and text.strip() else None
    except UnicodeDecodeError:
        st.error("The file is no UTF-8 text. Save it as UTF-8 and upload it again.", icon=":material/error:")
    except QuantError as error:
        show_error(error)
    return None


def outcome(request: ChoicesRequest, result: ChoiceScores) -> None:
    """Accuracy of both, whether the difference could be chance, and the questions that they answer differently."""
    asked = request.questions
    found = {name: paired(asked, result.original, result.recipe, each) for name, each in _RATED.items()}
    st.table(accuracy_frame(found).set_index("Accuracy"), border="horizontal")
    st.markdown(meaning(found["Likeliest per byte (acc_norm)"]))
    guess = sum(1 / len(question.choices) for question in asked) / len(asked)
    cut = (
        f" {result.cut:,} questions were too long for the model and lost their beginning."
        if result.cut
        else ""
    )
    st.caption(
        f"{len(asked):,} questions in {words.duration(result.seconds)}; guessing would get {words.share(guess)}. In "
        f"brackets the 95 % interval (Wilson).{cut} Scored as lm-evaluation-harness does: log-likelihood of a choice "
        "behind the question, once as it is and once divided by its bytes."
    )
    frame = differing(request, result)
    if len(frame):
        with st.expander(
            f"{len(frame):,} of {len(asked):,} answers differ (per byte)", icon=":material/table:"
        ):
            st.dataframe(frame, hide_index=True, alt="Questions that original and recipe answer differently")
    notes(result.notes, "choices")


def accuracy_frame(found: dict[str, Paired]) -> pd.DataFrame:
    """Accuracy by both rules, with intervals and the paired difference."""
    rows = []
    for name, pair in found.items():
        shares = [
            f"{words.share(one.share)} ({' to '.join(words.share(end) for end in one.interval)})"
            for one in (pair.original, pair.recipe)
        ]
        points = 100 * (pair.recipe.share - pair.original.share)
        rows.append((name, *shares, f"{points:+.1f} points", f"{pair.p:.2g}"))
    return pd.DataFrame(rows, columns=["Accuracy", "Original", "Recipe", "Difference", "p (McNemar)"])


def meaning(pair: Paired) -> str:
    """Whether the recipe costs answers, in words."""
    moved = (
        f"Right answers of the original that the recipe loses: {pair.lost:,}; that it gains: {pair.won:,}."
    )
    if pair.lost == pair.won:
        return f"{moved} That is no difference."
    if pair.p < 0.05:
        return f"{moved} Hardly chance (McNemar's exact test, p = {pair.p:.2g})."
    return f"{moved} It could be chance (McNemar's exact test, p = {pair.p:.2g})."


def differing(request: ChoicesRequest, result: ChoiceScores) -> pd.DataFrame:
    """Questions whose answers differ, with both and the right one."""
    before, after = (
        picks(request.questions, scores, per_byte=True) for scores in (result.original, result.recipe)
    )
    return pd.DataFrame(
        [
            (
                question.context,
                question.choices[question.answer],
                question.choices[first],
                question.choices[second],
            )
            for question, first, second in zip(request.questions, before, after, strict=True)
            if first != second
        ],
        columns=["Question", "Right", "Original", "Recipe"],
    )
