"""Results as runs: with what was asked, what they were made with and the user's note; in a list, deleted, described.

A run is a result that somebody waited for. Opened models, layers that were looked at and the catalog are none.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path

from quant_core.errors import QuantError
from quant_core.schema import (
    Belongings,
    Check,
    ChoiceScores,
    Evaluation,
    ExportRequest,
    Finding,
    Generation,
    ImportRequest,
    KlTails,
    ModelInfo,
    ModelRef,
    Origin,
    PromptTexts,
    Proof,
    QuantizedCheckpoint,
    Reproduction,
    Request,
    Result,
    Run,
    RunLine,
    RuntimeSpeeds,
    ScoreTable,
    ServedText,
    Speeds,
    Training,
    dump,
    load,
)
from quant_core.store.arrays import FOLDER, SUFFIX, ArrayKind, array_file
from quant_core.store.database import Database
from quant_core.store.kinds import load_request, model_name, model_of
from quant_core.store.results import ResultTable

KINDS = (
    "sensitivity", "evaluate", "prove", "generate", "train", "prompts", "choices", "tails", "speed",
    "runtime_speed",
    "import",
    "check", "served",
)  # fmt: skip
"""Kinds of jobs whose results are runs."""
TITLES = {
    "sensitivity": "Scores",
    "measured": "Measured sweep",
    "evaluate": "Recipe evaluation",
    "prove": "Proof",
    "generate": "Generation",
    "train": "Training",
    "prompts": "Prompt set",
    "choices": "Multiple choice",
    "tails": "Spread of KL",
    "speed": "Speed",
    "runtime_speed": "Speed in a runtime",
    "import": "Quantized checkpoint",
    "check": "Check of a served model",
    "served": "Text of a served model",
}
"""What runs are called, a measured sweep by a name of its own."""
LONGEST_NOTE = 2000
"""Characters."""

_MARKS = ", ".join("?" for _ in KINDS)


class RunTable:
    """The runs in ``database``, with the arrays that belong to them under ``home``."""

    def __init__(self, database: Database, results: ResultTable, home: Path) -> None:
        self._database = database
        self._results = results
        self.folder = home / FOLDER
        self._lines: dict[tuple[str, float], RunLine] = {}
        self._newest: dict[tuple[str, float], Run] = {}
        """What ``newest`` gave last, for a page that is drawn again; without later notes."""
        self._lock = threading.Lock()

    # --- looking

    def lines(self) -> list[RunLine]:
        """All runs, the newest first; those that an older QuantLens wrote in another shape are left out."""
        rows = self._database.query(
            f"""SELECT key, created, COALESCE(note, '') AS note FROM results LEFT JOIN runs USING (key)
                WHERE kind IN ({_MARKS}) ORDER BY created DESC, results.rowid DESC""",
            KINDS,
        )
        found = [self._line(row["key"], row["created"], row["note"]) for row in rows]
        return [line for line in found if line is not None]

    def get(self, key: str) -> Run:
        """The run with a key; ``QuantError`` if there is none."""
        rows = self._database.query(
            f"""SELECT kind, fingerprint, created, request, origin, note FROM results LEFT JOIN runs USING (key)
                WHERE key = ? AND kind IN ({_MARKS}, 'rescore', 'export')""",
            (key, *KINDS),
        )
        result = self._results.get(key) if rows else None
        if result is None:
            raise QuantError(
                f"There is no run {key!r} here.", "It was deleted, or is in another home folder."
            )
        row = rows[0]
        return Run(
            key=key,
            kind=row["kind"],
            fingerprint=row["fingerprint"],
            created=row["created"],
            request=_request(row["kind"], row["request"]),
            result=result,
            origin=_origin(row["origin"]),
            note=row["note"] or "",
        )

    def of_model(self, fingerprint: str) -> list[Run]:
        """All runs of a model and what was exported of it, the oldest first; unreadable ones are left out."""
        rows = self._database.query(
            f"""SELECT key FROM results WHERE fingerprint = ? AND kind IN ({_MARKS}, 'rescore', 'export')
                ORDER BY created, key""",
            (fingerprint, *KINDS),
        )
        found = []
        for row in rows:
            with contextlib.suppress(QuantError):  # an older QuantLens wrote it in another shape
                found.append(self.get(row["key"]))
        return found

    def exports(self, fingerprint: str) -> list[ExportRequest]:
        """What exports of a model were asked, the newest first; their folders may be gone."""
        rows = self._database.query(
            """SELECT kind, request FROM results JOIN runs USING (key)
                WHERE fingerprint = ? AND kind = 'export' ORDER BY created DESC, results.rowid DESC""",
            (fingerprint,),
        )
        found = [_request(row["kind"], row["request"]) for row in rows]
        return [request for request in found if isinstance(request, ExportRequest)]

    def newest(self, kind: str, fingerprint: str, limit: int) -> list[Run]:
        """The newest runs of a kind about a model, the oldest of them first; unreadable ones are left out."""
        rows = self._database.query(
            """SELECT key, created FROM results WHERE kind = ? AND fingerprint = ?
                ORDER BY created DESC, rowid DESC LIMIT ?""",
            (kind, fingerprint, limit),
        )
        places = [(row["key"], row["created"]) for row in reversed(rows)]
        with self._lock:
            known = {place: self._newest[place] for place in places if place in self._newest}
        for key, created in places:
            if (key, created) not in known:
                with contextlib.suppress(QuantError):  # an older QuantLens wrote it in another shape
                    known[key, created] = self.get(key)
        with self._lock:
            self._newest = known
        return [known[place] for place in places if place in known]

    def model(self, fingerprint: str) -> ModelInfo | None:
        """What a model is that was opened here or came with a run; None if it is not known."""
        for info in self._results.of_kind("inspect", fingerprint):
            if isinstance(info, ModelInfo):
                return info
        rows = self._database.query("SELECT data FROM models WHERE fingerprint = ?", (fingerprint,))
        try:
            return load(ModelInfo, json.loads(rows[0]["data"])) if rows else None
        except ValueError:
            return None

    def _line(self, key: str, created: float, note: str) -> RunLine | None:
        with self._lock:
            line = self._lines.get((key, created))
        if line is None or line.note != note:
            try:
                line = line_of(self.get(key))
            except QuantError:
                return None
            with self._lock:
                self._lines[key, created] = line
        return line

    # --- changing

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """The database's: all changes inside it are stored, or none."""
        return self._database.transaction()

    def set_note(self, key: str, note: str) -> None:
        """Keep the user's words with a run; ``QuantError`` if they are too many or there is no such run."""
        if len(note) > LONGEST_NOTE:
            raise QuantError(f"The note has {len(note):,} characters.", f"Keep it to {LONGEST_NOTE:,}.")
        self.get(key)
        with self._database.transaction() as connection:
            connection.execute(
                """INSERT INTO runs (key, request, note) VALUES (?, '', ?)
                    ON CONFLICT (key) DO UPDATE SET note = excluded.note""",
                (key, note),
            )

    def reproduction(self, key: str) -> Reproduction | None:
        """How a run came out when it was last worked out anew; None if it never was."""
        rows = self._database.query("SELECT data FROM reproductions WHERE key = ?", (key,))
        try:
            return load(Reproduction, json.loads(rows[0]["data"])) if rows else None
        except ValueError:  # an older QuantLens wrote it
            return None

    def put_reproduction(self, found: Reproduction) -> None:
        """Keep how a run came out anew, in place of what was kept before."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO reproductions VALUES (?, ?)", (found.key, json.dumps(dump(found)))
            )

    def belongings(self, key: str) -> Belongings:
        """What would go with a run; ``QuantError`` if there is no such run."""
        run = self.get(key)
        files = self._files(run)
        return Belongings(
            tuple(path.name for path in files),
            sum(path.stat().st_size for path in files),
            len(self.added(run)),
        )

    def delete(self, key: str) -> None:
        """Remove a run for good: answer, request, note, ended jobs, and the arrays that are its alone."""
        run = self.get(key)
        files = self._files(run)
        with self._database.transaction() as connection:
            for gone in (key, *self.added(run)):
                for statement in (
                    "DELETE FROM results WHERE key = ?",
                    "DELETE FROM runs WHERE key = ?",
                    "DELETE FROM votes WHERE run = ?",
                    "DELETE FROM votes_ended WHERE run = ?",
                    "DELETE FROM reproductions WHERE key = ?",
                    "DELETE FROM jobs WHERE key = ? AND state NOT IN ('queued', 'running')",
                ):
                    connection.execute(statement, (gone,))
        for path in files:
            path.unlink(missing_ok=True)

    def array_bytes(self) -> int:
        """What all arrays take."""
        return sum(path.stat().st_size for path in self.folder.glob(f"*{SUFFIX}"))

    def put_model(self, info: ModelInfo) -> None:
        """Keep what a model is, for runs that came without it; it is not opened by that."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO models VALUES (?, ?)", (info.fingerprint, json.dumps(dump(info)))
            )

    def added(self, run: Run) -> list[str]:
        """Keys of the score tables of further formats that rest on a sweep's state, which no other sweep shares."""
        if not isinstance(run.result, ScoreTable) or not run.result.state or self._shares(run):
            return []
        return self._naming("rescore", "state", run.result.state)

    def kept_arrays(self, run: Run) -> list[Path]:
        """The arrays that a run's answer names, as far as they are still there."""
        named: list[tuple[ArrayKind, str]] = []
        if isinstance(run.result, ScoreTable) and run.result.state:
            named.append(("state", run.result.state))
        if isinstance(run.result, Training):
            named.append(("trained", run.result.key))
        return [path for kind, key in named if (path := array_file(self.folder, kind, key)).is_file()]

    def lend(self, trained: Iterable[str], other: RunTable) -> None:
        """Copy trained weights to another home; ``QuantError`` if some are gone."""
        for key in trained:
            path = array_file(self.folder, "trained", key)
            if not path.is_file():
                raise QuantError(f"The trained weights {key[:8]} are not here any more.", "Train them again.")
            other.folder.mkdir(exist_ok=True)
            shutil.copyfile(path, other.folder / path.name)

    def _files(self, run: Run) -> list[Path]:
        """The arrays that are a run's alone: those its answer names, and what a stopped attempt at it left."""
        kept = [] if self._shares(run) else self.kept_arrays(run)
        half: tuple[ArrayKind, ...] = ("fisher", "measured", "training")
        return kept + [path for kind in half if (path := array_file(self.folder, kind, run.key)).is_file()]

    def _shares(self, run: Run) -> bool:
        """Whether another run names the same arrays."""
        if not isinstance(run.result, ScoreTable | Training):
            return False
        if isinstance(run.result, ScoreTable):
            others = self._naming(run.kind, "state", run.result.state) if run.result.state else []
        else:
            others = self._naming(run.kind, "key", run.result.key)
        return any(key != run.key for key in others)

    def _naming(self, kind: str, field: str, value: str) -> list[str]:
        """Keys of the answers of a kind that name ``value``; looked for as text first, which is fast."""
        rows = self._database.query(
            f"""SELECT key FROM results WHERE kind = ? AND instr(data, ?)
                AND json_extract(data, '$.{field}') = ?""",
            (kind, value, value),
        )
        return [row["key"] for row in rows]


def line_of(run: Run) -> RunLine:
    """A run as a list shows it."""
    ref = model_of(run.request) if run.request is not None else None
    measured = isinstance(run.result, ScoreTable) and not run.result.fisher and bool(run.result.measured)
    return RunLine(
        key=run.key,
        kind=run.kind,
        title=TITLES["measured" if measured else run.kind],
        model=_model(run.request, ref, run.fingerprint),
        fingerprint=run.fingerprint,
        created=run.created,
        seconds=seconds_of(run.result),
        finding=finding(run.result),
        note=run.note,
        recorded=run.request is not None,
    )


def _model(request: Request | None, ref: ModelRef | None, fingerprint: str) -> str:
    """What to call what a run is about."""
    if isinstance(request, ImportRequest):
        return model_name(request.checkpoint)
    return model_name(ref.source) if ref else f"model {fingerprint[:8]}"


def seconds_of(result: Result) -> float:
    """How long the answer took; 0 where it does not tell."""
    return float(getattr(result, "seconds", 0.0))


def finding(result: Result) -> Finding:
    """What an answer found, in one number."""
    match result:
        case ScoreTable():
            values = [value for row in (result.fisher or result.measured) for value in row]
            if values:
                return Finding("largest KL of a layer", max(values), "nats/token")
            errors = [value for row in (result.output or result.weight) for value in row]
            return Finding("largest relative error of a layer", max(errors, default=0.0), "of its square")
        case Evaluation():
            return Finding("measured KL", result.kl_mean, "nats/token")
        case Proof():
            means = [sum(row) / len(row) for row in result.kl if row]
            return Finding("least measured KL", min(means, default=0.0), "nats/token")
        case Training():
            return Finding("held-out KL after", result.kl_after, "nats/token")
        case Generation(recipe=()):
            return Finding("written", len(result.original), "tokens")
        case Generation():
            alike = result.divergence if result.divergence >= 0 else len(result.original)
            return Finding("same from the start", alike, "tokens")
        case PromptTexts():
            return Finding("written from", len(result.texts), "prompts")
        case ChoiceScores():
            return Finding("scored", len(result.recipe), "questions")
        case KlTails():
            return Finding("KL, 99.9th percentile", result.p999, "nats/token")
        case QuantizedCheckpoint():
            if result.error is None:
                return Finding("stored", result.bits_per_weight, "bits a quantized weight")
            return Finding("error against the original", result.error, "of the weights' size")
        case Speeds():
            return Finding("written by the original", result.variants[0].decode[0], "tokens/s")
        case RuntimeSpeeds():
            return Finding(f"written in {result.runtime}", result.recipe.decode[0], "tokens/s")
        case Check():
            return Finding("served, KL to the approved", result.approved.mean, "nats/token")
        case ServedText():
            return Finding("written by the server", result.written, "tokens")
        case _:
            raise TypeError(f"{type(result).__name__} is the answer of no run")


def _request(kind: str, text: str | None) -> Request | None:
    try:
        return load_request(kind, json.loads(text)) if text else None
    except ValueError:  # an older QuantLens wrote it
        return None


def _origin(text: str | None) -> Origin | None:
    try:
        return load(Origin, json.loads(text)) if text else None
    except ValueError:
        return None
