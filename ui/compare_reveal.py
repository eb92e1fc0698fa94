"""The blind vote's end: who wrote which, what was preferred, and whether that could be chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from quant_core.ballots import tally, verdict
from quant_core.schema import PromptsRequest, PromptTexts
from quant_core.store.votes import Vote
from ui import words


def show(request: PromptsRequest, result: PromptTexts, votes: Sequence[Vote]) -> None:
    """The outcome, and every prompt with its votes and texts."""
    if not any(first != second for first, second in result.texts):
        st.info("Both variants wrote the same texts, letter for letter: there is nothing to vote on.")
        return
    if not votes:
        st.info("Nobody has voted on these texts yet.", icon=":material/how_to_vote:")
    first, second = (spec.label or f"Variant {place}" for place, spec in enumerate(request.variants, 1))
    found = tally(votes)
    st.subheader("Who wrote which", anchor=False)
    if votes:
        st.markdown(verdict(found, (first, second)))
        total = len(votes)
        undecided = len({vote.prompt for vote in votes}) - found.first_prompts - found.second_prompts
        rows = [
            (first, found.first, found.first_prompts),
            (second, found.second, found.second_prompts),
            ("No difference", found.same, undecided),
        ]
        frame = pd.DataFrame(
            [
                (name, f"{count:,}", words.share(count / total), f"{prompts:,}")
                for name, count, prompts in rows
            ],
            columns=["Preferred", "Votes", "Share of votes", "Prompts by majority"],
        )
        st.table(frame.set_index("Preferred"), border="horizontal")
        who = "1 voter" if found.voters == 1 else f"{found.voters:,} voters"
        st.caption(
            f"{total:,} votes of {who}; the test counts prompts, since votes on one prompt are not independent. Of "
            "what a voter said of a prompt, the newest counts."
        )
    frame = prompts_frame(request, result, votes, (first, second))
    st.dataframe(frame, hide_index=True, alt="Every prompt with its votes and both texts")


def prompts_frame(
    request: PromptsRequest, result: PromptTexts, votes: Sequence[Vote], names: tuple[str, str]
) -> pd.DataFrame:
    """A row a prompt: votes for each, and what each wrote."""
    counts = Counter((vote.prompt, vote.choice) for vote in votes)
    return pd.DataFrame(
        [
            (prompt, counts[place, 0], counts[place, 1], counts[place, -1], *result.texts[place])
            for place, prompt in enumerate(request.prompts)
        ],
        columns=[
            "Prompt", f"Votes for {names[0]}", f"Votes for {names[1]}", "No difference", f"{names[0]} wrote",
            f"{names[1]} wrote",
        ],
    )  # fmt: skip
