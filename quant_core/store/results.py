"""Answers by content key, and recipes by their own content."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import OrderedDict
from typing import NamedTuple

from quant_core.errors import RecipeError
from quant_core.schema import Origin, Recipe, Request, Result, digest, dump, load
from quant_core.store.database import Database
from quant_core.store.keys import request_key
from quant_core.store.kinds import fingerprint_of, kind_of, load_result

REMEMBERED = 32
"""Answers kept as objects, so that a page that is drawn again does not parse them again."""

FEW_RECIPES = 8
"""Recipes kept likewise."""


class ResultTable:
    """The results in ``database``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._objects: OrderedDict[tuple[str, float], Result] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Result | None:
        """The answer with a content key; None if there is none or an older QuantLens wrote it differently."""
        rows = self._database.query("SELECT key, kind, created FROM results WHERE key = ?", (key,))
        return self._load(rows[0]) if rows else None

    def put(
        self,
        request: Request,
        result: Result,
        key: str = "",
        origin: Origin | None = None,
        created: float = 0.0,
    ) -> None:
        """Store the answer to ``request``, what was asked, and what it was made with.

        Args:
            request: What was asked.
            result: The answer.
            key: The content key as it was when the job was made; by default as it is now.
            origin: What it was made with, if that is known.
            created: When, in seconds since the epoch; now by default.
        """
        key = key or request_key(request)
        now = time.time()
        data = json.dumps(dump(result))
        fingerprint = fingerprint_of(request) or getattr(result, "fingerprint", "")
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?)",
                (key, kind_of(request).name, fingerprint, data, created or now, now),
            )
            connection.execute(
                """INSERT INTO runs (key, request, origin) VALUES (?, ?, ?) ON CONFLICT (key)
                    DO UPDATE SET request = excluded.request, origin = excluded.origin""",
                (key, json.dumps(dump(request)), json.dumps(dump(origin)) if origin else ""),
            )

    def touch(self, key: str) -> None:
        """Note that the answer was asked for again."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE results SET used = ? WHERE key = ?", (time.time(), key))

    def forget(self, request: Request) -> None:
        """Remove the answer to ``request``, if there is one."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM results WHERE key = ?", (request_key(request),))

    def of_kind(self, kind: str, fingerprint: str | None = None) -> list[Result]:
        """All answers of a kind, of one model or of all, the last used first."""
        rows = self._database.query(
            """SELECT key, kind, created FROM results
                WHERE kind = ? AND fingerprint = COALESCE(?, fingerprint) ORDER BY used DESC, rowid DESC""",
            (kind, fingerprint),
        )
        return [result for result in map(self._load, rows) if result is not None]

    def counts(self, fingerprint: str) -> dict[str, int]:
        """How many answers of each kind there are about a model."""
        rows = self._database.query(
            "SELECT kind, COUNT(*) AS number FROM results WHERE fingerprint = ? GROUP BY kind", (fingerprint,)
        )
        return {row["kind"]: row["number"] for row in rows}

    def _load(self, row: sqlite3.Row) -> Result | None:
        place = (row["key"], row["created"])
        with self._lock:
            if place in self._objects:
                self._objects.move_to_end(place)
                return self._objects[place]
        data = self._database.query("SELECT data FROM results WHERE key = ?", (row["key"],))
        if not data:
            return None
        try:
            result = load_result(row["kind"], json.loads(data[0]["data"]))
        except ValueError:
            return None
        with self._lock:
            self._objects[place] = result
            if len(self._objects) > REMEMBERED:
                self._objects.popitem(last=False)
        return result


class SavedRecipe(NamedTuple):
    """A saved recipe in short."""

    id: str
    bytes: float
    """Of all weights."""
    average_bits: float
    predicted_kl: float | None
    """In nats a token."""


class RecipeTable:
    """The saved recipes in ``database``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._short: dict[str, tuple[str, SavedRecipe]] = {}
        """Fingerprint and figures by id, which stands for the content: they never change."""
        self._recent: OrderedDict[str, Recipe] = OrderedDict()

    def save(self, recipe: Recipe) -> str:
        """Keep ``recipe`` and return its id; the same recipe has the same id."""
        recipe_id = digest(recipe)[:12]
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO recipes VALUES (?, ?, ?)",
                (recipe_id, json.dumps(dump(recipe)), time.time()),
            )
        return recipe_id

    def newest(self, fingerprint: str, limit: int) -> list[SavedRecipe]:
        """The newest recipes of a model, without reading all of each."""
        found: list[SavedRecipe] = []
        for row in self._database.query("SELECT id FROM recipes ORDER BY created DESC, rowid DESC"):
            if len(found) == limit:
                break
            model, short = self._shortened(row["id"])
            if model == fingerprint:
                found.append(short)
        return found

    def _shortened(self, recipe_id: str) -> tuple[str, SavedRecipe]:
        """A recipe's model and figures; reading them out of one of tens of thousands of units takes a while."""
        if recipe_id not in self._short:
            ((model, *figures),) = self._database.query(
                """SELECT json_extract(data, '$.fingerprint'), json_extract(data, '$.total_bytes'),
                    json_extract(data, '$.average_bits'), json_extract(data, '$.predicted_kl')
                    FROM recipes WHERE id = ?""",
                (recipe_id,),
            )
            self._short[recipe_id] = (model, SavedRecipe(recipe_id, *figures))
        return self._short[recipe_id]

    def get(self, recipe_id: str) -> Recipe:
        """The recipe with an id; ``RecipeError`` if there is none that can be read."""
        known = self._recent.get(recipe_id)
        if known is not None:
            return known
        rows = self._database.query("SELECT data FROM recipes WHERE id = ?", (recipe_id,))
        if not rows:
            raise RecipeError(f"There is no saved recipe {recipe_id!r}.", "Make it again, or open its file.")
        try:
            recipe = load(Recipe, json.loads(rows[0]["data"]))
        except ValueError as error:
            raise RecipeError(
                f"The saved recipe {recipe_id!r} comes from another version of QuantLens.",
                "Make it again, or open its file.",
            ) from error
        self._recent[recipe_id] = recipe
        while len(self._recent) > FEW_RECIPES:
            self._recent.popitem(last=False)
        return recipe
