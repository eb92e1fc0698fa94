"""What blind votes say: who was preferred, and whether that could be chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from quant_core.significance import sign_test
from quant_core.store.votes import Vote


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
