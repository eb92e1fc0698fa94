"""Blind votes, prompt by prompt. Rows are only ever added; of what a voter says of a prompt, the newest counts."""

from __future__ import annotations

import time
from typing import Literal, NamedTuple, cast

from quant_core.store.database import Database

Choice = Literal[0, 1, -1]
"""Index of the preferred variant; -1 for no difference."""


class Vote(NamedTuple):
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

    def of(self, run: str) -> list[Vote]:
        """The votes that count, of all voters, in the order in which they were given."""
        rows = self._database.query(
            """SELECT voter, prompt, choice FROM votes WHERE number IN
                (SELECT MAX(number) FROM votes WHERE run = ? GROUP BY voter, prompt) ORDER BY number""",
            (run,),
        )
        return [Vote(row["voter"], row["prompt"], cast(Choice, row["choice"])) for row in rows]
