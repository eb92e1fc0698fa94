"""Blind votes, prompt by prompt. Rows are only ever added; of what a voter says of a prompt, the newest counts."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

from quant_core.store.database import Database

Choice = Literal[0, 1, -1]
"""Index of the preferred variant; -1 for no difference."""


@dataclass(frozen=True)
class Vote:
    """What one voter says of one prompt."""

    voter: str
    prompt: int
    choice: Choice


class VoteTable:
    """The votes in ``database``, each about a run by its key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, run: str, voter: str, prompt: int, choice: Choice) -> None:
        """Keep a vote."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO votes (run, voter, prompt, choice, created) VALUES (?, ?, ?, ?, ?)",
                (run, voter, prompt, choice, time.time()),
            )

    def bring(self, run: str, votes: Iterable[Vote]) -> int:
        """Keep votes given elsewhere; what a voter said here of a prompt stays. Gives how many were new."""
        here = {(vote.voter, vote.prompt) for vote in self.of(run)}
        new = [vote for vote in votes if (vote.voter, vote.prompt) not in here]
        with self._database.transaction():
            for vote in new:
                self.add(run, vote.voter, vote.prompt, vote.choice)
        return len(new)

    def end(self, run: str, voter: str) -> None:
        """Keep that a voter asked for the result: from then on they know who wrote which."""
        with self._database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO votes_ended VALUES (?, ?)", (run, voter))

    def has_ended(self, run: str, voter: str) -> bool:
        """Whether a voter asked for the result."""
        return bool(
            self._database.query("SELECT 1 FROM votes_ended WHERE run = ? AND voter = ?", (run, voter))
        )

    def of(self, run: str) -> list[Vote]:
        """The votes that count, of all voters, in the order in which they were given."""
        rows = self._database.query(
            """SELECT voter, prompt, choice FROM votes WHERE number IN
                (SELECT MAX(number) FROM votes WHERE run = ? GROUP BY voter, prompt) ORDER BY number""",
            (run,),
        )
        return [Vote(row["voter"], row["prompt"], cast(Choice, row["choice"])) for row in rows]
