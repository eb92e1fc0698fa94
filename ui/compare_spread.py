"""How the recipe's KL is spread over tokens: the histogram, the tail in numbers, and the worst tokens as text."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from quant_core import plots
from quant_core.schema import Guess, KlTails, ModelInfo, Recipe, TailsRequest
from ui import setup, theme, words
from ui.compare_variants import roots
from ui.jobs import request_result
from ui.runs_words import plain
from ui.widgets import Figure, figures, notes


def spread_request(info: ModelInfo, recipe: Recipe) -> TailsRequest:
    """The measurement on the bundled evaluation text."""
    return TailsRequest(
        info.ref, info.fingerprint, recipe.assignment(), setup=setup.current(info), roots=roots(info)
    )


def show(info: ModelInfo, recipe: Recipe) -> None:
    """The spread, or the button that measures it."""
    st.subheader("How the KL is spread", anchor=False)
    found = request_result(
        spread_request(info, recipe), start="Measure every token",
        why="A mean hides the few tokens that a recipe gets badly wrong. This keeps every token's KL on the same text: "
        "its histogram, its tail, and the worst tokens with what both models said.",
    )  # fmt: skip
    if found is None:
        return
    measured = f"Measured on {found.tokens:,} tokens of {found.text_label}."
    figures(
        [
            Figure(
                "Median",
                f"{words.significant(found.median)} nats",
                f"Half of the tokens moved less. {measured}",
            ),
            Figure(
                "90 % below",
                f"{words.significant(found.p90)} nats",
                f"One token in 10 moved more. {measured}",
            ),
            Figure(
                "99 % below",
                f"{words.significant(found.p99)} nats",
                f"One token in 100 moved more. {measured}",
            ),
            Figure(
                "99.9 % below",
                f"{words.significant(found.p999)} nats",
                f"One token in 1,000 moved more. {measured}",
            ),
            Figure("Largest", f"{words.significant(found.maximum)} nats", f"The worst token. {measured}"),
            Figure(
                "Over 0.1 nats",
                words.share(found.over),
                f"Share of tokens that moved more than that. {measured}",
            ),
        ]
    )
    theme.chart(
        plots.draw_kl_spread(plots.kl_spread(found), theme.palette()),
        "kl-spread",
        f"Histogram of KL over tokens: mean {words.nats(found.mean)}, median {words.nats(found.median)}, "
        f"99.9 % below {words.nats(found.p999)}, at most {words.nats(found.maximum)}.",
    )
    st.caption(
        f"{found.tokens:,} tokens of {found.text_label} (hash {words.fingerprint(found.text_hash)}), in "
        f"{words.duration(found.seconds)}; mean {words.nats(found.mean)}."
    )
    with st.expander(f"The {len(found.worst)} worst tokens", icon=":material/priority_high:"):
        st.table(worst_frame(found).set_index("KL (nats)"), border="horizontal")
        st.caption(
            "The last token, in bold, is the one that was predicted. Beside it the likeliest tokens of each model, and "
            "the probability that it gave to the text's own."
        )
    notes(found.notes, "spread")


def worst_frame(found: KlTails) -> pd.DataFrame:
    """The worst tokens: the text with what stands there, and what each model found likeliest; in Markdown."""
    return pd.DataFrame(
        [
            (
                words.significant(one.kl),
                _marked(one.before, one.token),
                _said(one.original, one.original_chance),
                _said(one.recipe, one.recipe_chance),
            )
            for one in found.worst
        ],
        columns=["KL (nats)", "Text up to the token", "Original", "Recipe"],
    )


def _marked(before: str, token: str) -> str:
    """Text with the token behind it in bold; what is only white space is shown as a sign."""
    bare = token.strip()
    gap = token[: len(token) - len(token.lstrip())] if bare else ""
    return f"… {plain(before)}{plain(gap)}**{plain(bare) or '␣'}**"


def _said(guesses: Sequence[Guess], there: float) -> str:
    likely = ", ".join(f"{plain(one.text.strip()) or '␣'} {words.share(one.probability)}" for one in guesses)
    return f"{likely}  \nthe text's: {words.share(there)}"
