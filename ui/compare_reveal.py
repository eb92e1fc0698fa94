"""The blind vote's end: who wrote which, what was preferred, and whether that could be chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import streamlit as st

from quant_core.schema import PromptsRequest, PromptTexts
from quant_core.significance import sign_test
from quant_core.store.votes import Vote
from ui import words


class Tally(NamedTuple):
    """Votes of all voters, and prompts by what more votes preferred."""

    first: int
    second: int
    same: int
    voters: int
    first_prompts: int
    second_prompts: int
    p: float
    """Of the sign test over prompts."""


def tally(votes: Sequence[Vote]) -> Tally:
    """Count the votes.

    The sign test counts prompts, each for the variant that more of its votes preferred, since votes of several voters
    on one prompt are not independent; prompts without a majority are left out.
    """
    counts = Counter(vote.choice for vote in votes)
    lead = Counter[int]()
    for vote in votes:
        lead[vote.prompt] += {0: 1, 1: -1, -1: 0}[vote.choice]
    first, second = sum(lead > 0 for lead in lead.values()), sum(lead < 0 for lead in lead.values())
    return Tally(
        counts[0], counts[1], counts[-1], len({vote.voter for vote in votes}), first, second,
        sign_test(first, second),
    )  # fmt: skip


def verdict(found: Tally, names: tuple[str, str]) -> str:
    """What the votes say, in words."""
    decided = found.first_prompts + found.second_prompts
    if not decided:
        return "No prompt was decided for either: the votes see no difference."
    ahead = names[0] if found.first_prompts >= found.second_prompts else names[1]
    most = max(found.first_prompts, found.second_prompts)
    split = f"“{ahead}” is preferred in {most} of the {decided} prompts that were decided."
    chance = (
        f"a fair coin splits {decided} prompts this unevenly {_often(found.p)} (sign test, p = {found.p:.2g})"
    )
    if found.p < 0.05:
        return f"{split} Hardly chance: {chance}."
    return f"{split} It could be chance: {chance}."


def _often(p: float) -> str:
    return (
        f"{round(100 * p)} times in 100" if p >= 0.05 else f"about once in {round(1 / p):,}" if p else "never"
    )


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
