"""The one door to everything below: what pages and the command line use, free of torch.

A workspace joins three things: jobs (ask, watch, cancel), what they left in the store (results, score tables,
recipes), and decisions made from that at once (budget to recipe, Pareto front, prices).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal, overload

import psutil

from quant_core import columns, costs, folders, recipes, report, schema, targets
from quant_core.allocation import (
    calibration,
    choose,
    contenders,
    fits,
    moves,
    needs,
    neighbours,
    problem,
    references,
    solution,
    usage,
)
from quant_core.allocation.calibration import Calibration, Interval
from quant_core.allocation.neighbours import Trade
from quant_core.allocation.references import Reference
from quant_core.allocation.usage import Usage
from quant_core.errors import BudgetError, Cancelled, FormatError, JobError, ModelError, QuantError
from quant_core.hub_files import bytes_here, hub_cache
from quant_core.jobs.client import Client
from quant_core.kv_cache import kv_bits
from quant_core.names import parse_format
from quant_core.report.commands import file_name
from quant_core.reproduction import TOLERANCE, changes, compare
from quant_core.reproduction import verdict as agreement
from quant_core.runtimes import RUNTIMES, Runtime
from quant_core.schema import (
    Belongings,
    Budget,
    Catalog,
    Evaluation,
    FamilyInfo,
    FormatSpec,
    Generation,
    Imported,
    InspectRequest,
    Job,
    LayerView,
    LossEvent,
    MethodInfo,
    ModelInfo,
    ModelRef,
    ParetoPoint,
    Proof,
    Recipe,
    Reproduction,
    Request,
    Result,
    Run,
    RunLine,
    ScoreName,
    ScoreTable,
    Setup,
    Solution,
    Terms,
    TokenEvent,
    Training,
    Unit,
    Use,
    WeightsRequest,
    WeightStatistics,
)
from quant_core.store import default_home
from quant_core.store.exchange import read_runs, write_runs
from quant_core.store.keys import checkpoint_signature, folder_signature, request_key
from quant_core.store.kinds import Modelless, model_name, trained_by, without_paths
from quant_core.store.results import SavedRecipe
from quant_core.store.runs import line_of
from quant_core.store.votes import Choice, Vote
from quant_core.targets import TARGETS, Target, hardware
from quant_core.targets.energy import token_joules
from quant_core.targets.hardware import Hardware

DEFAULT_FORMATS = ("int2", "int3", "int4", "int5", "int6", "int8", "nf4")
"""Families that layers are scored in unless others are asked for."""
CATALOG = Path(__file__).with_name("catalog.json")

JOIN = "int4/g64/asym"
"""Embedding and head join a recommendation where the budget leaves less than this for every layer."""

Watch = Callable[[Job], None]


@dataclass(frozen=True)
class Finished:
    """What is there about a model: numbers of results, and its newest recipes."""

    sweeps: int
    proofs: int
    evaluations: int
    trainings: int
    recipes: tuple[SavedRecipe, ...]


@dataclass(frozen=True)
class Room:
    """What a model on the hub meets here, in bytes."""

    here: int
    """Of its files that are in the cache."""
    disk: int
    """Free on the cache's disk."""
    memory: int
    """Free."""


def browser_roots() -> tuple[Path, ...]:
    """Folders from which the dashboard may open models: the working one, the hub cache, $QUANTLENS_MODEL_ROOTS."""
    further = os.environ.get("QUANTLENS_MODEL_ROOTS", "").split(os.pathsep)
    return (Path.cwd(), hub_cache(), *(Path(root).expanduser().absolute() for root in further if root))


class Workspace:
    """Jobs, results and recipes of one home folder.

    Args:
        home: Folder of the store; by default ``$QUANTLENS_HOME`` or a folder among the user's caches.
        roots: Folders in which local models must lie; empty allows any.
        jobs: Other job functions for workers started from here, as ``module:NAME`` (for tests and extensions).

    Raises:
        QuantError: The home folder cannot be used.
    """

    def __init__(self, home: Path | None = None, roots: Sequence[Path] = (), *, jobs: str = "") -> None:
        self._client = Client(home or default_home(), jobs)
        self._roots = tuple(root.resolve() for root in roots)

    @property
    def home(self) -> Path:
        """Folder of the store."""
        return self._client.home

    def close(self) -> None:
        """Close the store; a running job goes on."""
        self._client.close()

    # --- formats

    @cached_property
    def catalog(self) -> Catalog:
        """What the registries offer, as ``python -m quant_core catalog`` last wrote it."""
        try:
            return schema.load(Catalog, json.loads(CATALOG.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise QuantError(
                f"The catalog {CATALOG} cannot be read.", "Write it anew: python -m quant_core catalog"
            ) from error

    def parse_format(self, text: str, group: int = 64) -> FormatSpec:
        """The number format that ``text`` names, with ``group`` where it leaves the group size open."""
        return parse_format(text, self._families, group, self._methods)

    @cached_property
    def _families(self) -> dict[str, FamilyInfo]:
        return {family.name: family for family in self.catalog.families}

    @cached_property
    def _methods(self) -> dict[str, MethodInfo]:
        return {method.name: method for method in self.catalog.methods}

    def weight_bytes(self, info: ModelInfo, form: str) -> float:
        """What all the model's weights take with every decided unit in the format of full name ``form``."""
        return self.assigned_bytes(info, {unit.name: form for unit in info.units if unit.decided})

    def assigned_bytes(self, info: ModelInfo, assignment: Mapping[str, str]) -> float:
        """What all the model's weights take under an assignment; units it does not name keep the original weights."""
        return (info.other_bits + sum(self.assigned_bits(info, assignment).values())) / 8

    def assigned_bits(self, info: ModelInfo, assignment: Mapping[str, str]) -> dict[str, int]:
        """All bits that each unit takes under an assignment; units it does not name keep the original weights."""
        found: dict[str, int] = {}
        known: dict[tuple[int, int, int, str], int] = {}
        for unit in info.units:
            form = assignment.get(unit.name, schema.ORIGINAL)
            alike = (unit.rows, unit.columns, unit.bits, form)
            if alike not in known:
                original = form == schema.ORIGINAL
                known[alike] = unit.parameters * unit.bits if original else self.stored_bits(unit, form)
            found[unit.name] = known[alike]
        return found

    def rewritten(self, info: ModelInfo, transforms: Sequence[str]) -> ModelInfo:
        """The model as ``transforms`` leave it: some make a tied head a weight of its own."""
        unties = any(text.split(":", maxsplit=1)[0] in self._untying for text in transforms)
        return costs.untied(info) if unties else info

    @cached_property
    def _untying(self) -> set[str]:
        return {method.name for method in self.catalog.transforms if method.unties}

    def stored_bits(self, unit: Unit, form: str) -> int:
        """All bits that a unit takes in the format of full name ``form``, scales and padding included."""
        spec = self.parse_format(form)
        return costs.storage(self._families[spec.family], spec, unit.rows, unit.columns, unit.bits).total

    # --- jobs

    def submit(self, request: Request) -> Job:
        """Ask for an answer: the job that gives it, gave it, or is about to; starts the worker if none lives."""
        return self._client.submit(request)

    def job(self, job_id: str) -> Job:
        """The job as it is now; ``JobError`` if there is none with that id."""
        return self._client.job(job_id)

    def jobs(self, limit: int = 20) -> list[Job]:
        """The newest jobs first, as they are now."""
        return self._client.jobs(limit)

    def cancel(self, job_id: str) -> None:
        """Have a job stop: a queued one ends at once, a running one at its next step."""
        self._client.cancel(job_id)

    def retry(self, job_id: str) -> Job:
        """Ask again for what a job was asked."""
        return self._client.retry(job_id)

    def events(self, job_id: str, after: int = -1) -> list[TokenEvent]:
        """The tokens a job streamed behind position ``after``; the first event has position 0."""
        return self._client.events(job_id, after)

    def readings(self, job_id: str) -> dict[schema.Side, schema.TokenReading]:
        """What a running generation measured of the texts that have ended."""
        return self._client.readings(job_id)

    def losses(self, job_id: str, after: int = -1) -> list[LossEvent]:
        """The losses a training streamed behind position ``after``; the first event has position 0."""
        return self._client.losses(job_id, after)

    def scores_so_far(self, job_id: str) -> tuple[int, ScoreTable] | None:
        """The newest table that a running sweep streamed, with its number, which grows; None if there is none yet."""
        return self._client.scores_so_far(job_id)

    def wait(self, job: Job, on_progress: Watch | None = None, poll: float = 0.1) -> Result:
        """The answer of a job, once it is there.

        Args:
            job: From ``submit`` or ``retry``.
            on_progress: Called with the job whenever it changed.
            poll: Seconds between looks.

        Raises:
            Cancelled: Somebody cancelled the job.
            JobError: It failed, with its message and hint.
        """
        seen = None
        while True:
            job = self.job(job.id)
            if on_progress and job != seen:
                on_progress(job)
            if not job.active:
                break
            seen = job
            time.sleep(poll)
        if job.state == "cancelled":
            raise Cancelled(f"{job.title}: cancelled.")
        if job.state == "failed":
            raise JobError(job.error, job.hint)
        result = self._client.store.results.get(job.key)
        if result is None:
            raise JobError(f"The result of {job.title!r} is no longer stored.", "Start it again.")
        return result

    @overload
    def result(self, request: InspectRequest) -> ModelInfo | None: ...
    @overload
    def result(self, request: schema.SensitivityRequest) -> ScoreTable | None: ...
    @overload
    def result(self, request: schema.RescoreRequest) -> ScoreTable | None: ...
    @overload
    def result(self, request: schema.LayerRequest) -> LayerView | None: ...
    @overload
    def result(self, request: schema.WindowRequest) -> schema.Window | None: ...
    @overload
    def result(self, request: schema.ChannelsRequest) -> schema.ChannelRanges | None: ...
    @overload
    def result(self, request: schema.InputsRequest) -> schema.LayerInputs | None: ...
    @overload
    def result(self, request: schema.ClipRequest) -> schema.ClipSweep | None: ...
    @overload
    def result(self, request: WeightsRequest) -> WeightStatistics | None: ...
    @overload
    def result(self, request: schema.EvaluateRequest) -> Evaluation | None: ...
    @overload
    def result(self, request: schema.ProveRequest) -> Proof | None: ...
    @overload
    def result(self, request: schema.GenerateRequest) -> Generation | None: ...
    @overload
    def result(self, request: schema.AttributionRequest) -> schema.Attribution | None: ...
    @overload
    def result(self, request: schema.TrainRequest) -> Training | None: ...
    @overload
    def result(self, request: schema.RecommendRequest) -> schema.Recommendation | None: ...
    @overload
    def result(self, request: schema.PromptsRequest) -> schema.PromptTexts | None: ...
    @overload
    def result(self, request: schema.ChoicesRequest) -> schema.ChoiceScores | None: ...
    @overload
    def result(self, request: schema.TailsRequest) -> schema.KlTails | None: ...
    @overload
    def result(self, request: schema.SpeedRequest) -> schema.Speeds | None: ...
    @overload
    def result(self, request: schema.LookRequest) -> schema.HubModel | None: ...
    @overload
    def result(self, request: schema.DownloadRequest) -> schema.Downloaded | None: ...
    @overload
    def result(self, request: schema.CatalogRequest) -> Catalog | None: ...
    @overload
    def result(self, request: schema.ExportRequest) -> schema.Exported | None: ...
    @overload
    def result(self, request: schema.RuntimeSpeedRequest) -> schema.RuntimeSpeeds | None: ...
    @overload
    def result(self, request: schema.ImportRequest) -> schema.QuantizedCheckpoint | None: ...
    @overload
    def result(self, request: schema.CheckRequest) -> schema.Check | None: ...
    @overload
    def result(self, request: schema.ServedRequest) -> schema.ServedText | None: ...
    def result(self, request: Request) -> Result | None:
        """The stored answer to ``request``; None if there is none yet."""
        return self._client.result(request)

    @overload
    def run(self, request: InspectRequest, on_progress: Watch | None = None) -> ModelInfo: ...
    @overload
    def run(self, request: schema.SensitivityRequest, on_progress: Watch | None = None) -> ScoreTable: ...
    @overload
    def run(self, request: schema.RescoreRequest, on_progress: Watch | None = None) -> ScoreTable: ...
    @overload
    def run(self, request: schema.LayerRequest, on_progress: Watch | None = None) -> LayerView: ...
    @overload
    def run(self, request: schema.WindowRequest, on_progress: Watch | None = None) -> schema.Window: ...
    @overload
    def run(
        self, request: schema.ChannelsRequest, on_progress: Watch | None = None
    ) -> schema.ChannelRanges: ...
    @overload
    def run(self, request: schema.InputsRequest, on_progress: Watch | None = None) -> schema.LayerInputs: ...
    @overload
    def run(self, request: schema.ClipRequest, on_progress: Watch | None = None) -> schema.ClipSweep: ...
    @overload
    def run(self, request: WeightsRequest, on_progress: Watch | None = None) -> WeightStatistics: ...
    @overload
    def run(self, request: schema.EvaluateRequest, on_progress: Watch | None = None) -> Evaluation: ...
    @overload
    def run(self, request: schema.ProveRequest, on_progress: Watch | None = None) -> Proof: ...
    @overload
    def run(self, request: schema.GenerateRequest, on_progress: Watch | None = None) -> Generation: ...
    @overload
    def run(
        self, request: schema.AttributionRequest, on_progress: Watch | None = None
    ) -> schema.Attribution: ...
    @overload
    def run(self, request: schema.TrainRequest, on_progress: Watch | None = None) -> Training: ...
    @overload
    def run(
        self, request: schema.RecommendRequest, on_progress: Watch | None = None
    ) -> schema.Recommendation: ...
    @overload
    def run(self, request: schema.PromptsRequest, on_progress: Watch | None = None) -> schema.PromptTexts: ...
    @overload
    def run(
        self, request: schema.ChoicesRequest, on_progress: Watch | None = None
    ) -> schema.ChoiceScores: ...
    @overload
    def run(self, request: schema.TailsRequest, on_progress: Watch | None = None) -> schema.KlTails: ...
    @overload
    def run(self, request: schema.SpeedRequest, on_progress: Watch | None = None) -> schema.Speeds: ...
    @overload
    def run(self, request: schema.LookRequest, on_progress: Watch | None = None) -> schema.HubModel: ...
    @overload
    def run(self, request: schema.DownloadRequest, on_progress: Watch | None = None) -> schema.Downloaded: ...
    @overload
    def run(self, request: schema.CatalogRequest, on_progress: Watch | None = None) -> Catalog: ...
    @overload
    def run(self, request: schema.ExportRequest, on_progress: Watch | None = None) -> schema.Exported: ...
    @overload
    def run(
        self, request: schema.RuntimeSpeedRequest, on_progress: Watch | None = None
    ) -> schema.RuntimeSpeeds: ...
    @overload
    def run(
        self, request: schema.ImportRequest, on_progress: Watch | None = None
    ) -> schema.QuantizedCheckpoint: ...
    @overload
    def run(self, request: schema.CheckRequest, on_progress: Watch | None = None) -> schema.Check: ...
    @overload
    def run(self, request: schema.ServedRequest, on_progress: Watch | None = None) -> schema.ServedText: ...
    def run(self, request: Request, on_progress: Watch | None = None) -> Result:
        """Ask and wait; raises like ``wait``."""
        return self.wait(self.submit(request), on_progress)

    def tables(self, fingerprint: str) -> list[ScoreTable]:
        """The stored score tables of a model, the last used first."""
        found = self._client.store.results.of_kind("sensitivity", fingerprint)
        return [table for table in found if isinstance(table, ScoreTable)]

    def with_columns(self, table: ScoreTable, more: Sequence[ScoreTable]) -> ScoreTable:
        """A sweep's table with the columns of others, scored from its state; ``QuantError`` if they do not fit."""
        return columns.joined(table, more)

    def trainings(self, fingerprint: str) -> list[Training]:
        """The stored trainings of a model, the last used first."""
        found = self._client.store.results.of_kind("train", fingerprint)
        return [training for training in found if isinstance(training, Training)]

    # --- runs

    def runs(self) -> list[RunLine]:
        """Everything that was scored, measured, written or trained and is still stored, the newest first."""
        return self._client.store.runs.lines()

    def stored_run(self, key: str) -> Run:
        """A run with its answer and what it comes from; ``QuantError`` if there is none with that key."""
        return self._client.store.runs.get(key)

    def checks(self, fingerprint: str, limit: int = 200) -> list[Run]:
        """The newest checks of what is served of a model, the oldest of them first."""
        return self._client.store.runs.newest("check", fingerprint, limit)

    def set_note(self, key: str, note: str) -> None:
        """Keep the user's words with a run; ``QuantError`` if they are too many."""
        self._client.store.runs.set_note(key, note)

    def belongings(self, key: str) -> Belongings:
        """What would go with a run if it were deleted."""
        return self._client.store.runs.belongings(key)

    def array_bytes(self) -> int:
        """What the arrays of all runs take, those of half-done ones included."""
        return self._client.store.runs.array_bytes()

    def delete_run(self, key: str) -> None:
        """Remove a run and all that is its alone, for good."""
        self._client.store.runs.delete(key)

    def known_model(self, fingerprint: str) -> ModelInfo | None:
        """What a model is that was opened here, or that came with an imported run; None if it is not known."""
        return self._client.store.runs.model(fingerprint)

    def export_runs(self, keys: Iterable[str], file: BinaryIO) -> None:
        """Write runs with their models, arrays and blind votes as one zip file.

        Folders of this machine are left out; a text of the user's own is in it, since the run's key is of that text.

        Raises:
            QuantError: There is no such run, or what it was asked was not recorded.
        """
        runs = self._client.store.runs
        chosen = {key: runs.get(key) for key in keys}
        chosen |= {key: runs.get(key) for run in list(chosen.values()) for key in runs.added(run)}
        models = {run.fingerprint: runs.model(run.fingerprint) for run in chosen.values()}
        arrays = {path: None for run in chosen.values() for path in runs.kept_arrays(run)}
        write_runs(
            file,
            [(run, _public(run)) for run in chosen.values()],
            [schema.replace(info, ref=_public_ref(info.ref)) for info in models.values() if info is not None],
            list(arrays),
            {key: self.votes(key) for key in chosen},
        )

    def import_runs(self, file: BinaryIO) -> Imported:
        """Store the runs of a file that ``export_runs`` wrote; what is here already stays as it is.

        Raises:
            QuantError: The file is another, damaged, or was changed; then nothing is stored.
        """
        store = self._client.store
        return read_runs(file, store.results, store.runs, store.votes, self._is_format)

    def reproduction(self, key: str) -> Reproduction | None:
        """How a run came out when it was last worked out anew; None if it never was."""
        return self._client.store.runs.reproduction(key)

    def reproduce(
        self, key: str, source: str = "", tolerance: float = TOLERANCE, on_progress: Watch | None = None
    ) -> Reproduction:
        """Work a run out anew, in a home folder of its own that knows no answers, and compare.

        Args:
            key: The run's, of this home folder.
            source: Where its model is now, if that is not what the run recorded.
            tolerance: Share of a figure by which it may differ and still be close.
            on_progress: Called with the job whenever it changed.

        Raises:
            QuantError: What was asked was not recorded, a speed was, or the model or trained weights are gone.
            JobError: The job failed, for one because the text is gone.
        """
        run, runs = self.stored_run(key), self._client.store.runs
        request = _repeatable(run, source)
        with tempfile.TemporaryDirectory(prefix="quantlens-", ignore_cleanup_errors=True) as folder:
            other = Workspace(Path(folder), self._roots, jobs=self._client.jobs_place)
            try:
                runs.lend(trained_by(request), other._client.store.runs)
                job = other.submit(schema.replace(request, roots=tuple(map(str, self._roots))))
                try:
                    now = other.wait(job, on_progress)
                except KeyboardInterrupt:
                    other.cancel(job.id)
                    raise
                origin = other.stored_run(job.key).origin
            finally:
                other._client.dismiss()
                other.close()
        assert origin is not None  # every worker records it
        changed = changes(run.origin, origin)
        if job.key != run.key:
            changed = ("The bundled text or the way of measuring: the request has another key now.", *changed)
        pairs = compare(run.result, now, tolerance)
        found = Reproduction(
            run.key, line_of(run).title, agreement(pairs), tolerance, pairs, changed, origin, time.time()
        )
        runs.put_reproduction(found)
        return found

    @property
    def usual_formats(self) -> tuple[str, ...]:
        """Full names of the formats that are scored unless others are asked for."""
        return tuple(self.parse_format(family).name for family in DEFAULT_FORMATS)

    def report(self, info: ModelInfo, recipe: Recipe, file: str = "") -> report.Report:
        """A recipe with all that is stored of it; commands call its file ``file``."""
        whole = self.rewritten(info, recipe.setup.transforms)
        version = recipes.library_versions().get("quantlens", "")
        return report.gather(self._client.store, whole, recipe, version, self.usual_formats, file)

    def _is_format(self, name: str) -> bool:
        try:
            return self.parse_format(name).name == name
        except FormatError:
            return False

    # --- blind votes

    def vote(self, key: str, voter: str, prompt: int, choice: Choice) -> None:
        """Keep what a voter says of a prompt; what they said of it before no longer counts."""
        self._client.store.votes.add(key, voter, prompt, choice)

    def votes(self, key: str) -> list[Vote]:
        """The votes of all voters on the texts under a key."""
        return self._client.store.votes.of(key)

    def end_vote(self, key: str, voter: str) -> None:
        """Keep that a voter has seen the result."""
        self._client.store.votes.end(key, voter)

    def has_ended_vote(self, key: str, voter: str) -> bool:
        """Whether a voter has asked for the result."""
        return self._client.store.votes.has_ended(key, voter)

    # --- models

    def inspect_request(self, ref: ModelRef) -> InspectRequest:
        """The request that opens a model: a folder by its full path, with what tells whether its files changed."""
        source = ref.source.strip()
        if not source:
            raise ModelError("No model is named.", "Give 'bundled', a folder, or a hub id such as org/name.")
        if source != "bundled" and (folder := _folder(source)):
            source = str(folder)
        ref = schema.replace(ref, source=source)
        return InspectRequest(ref, tuple(map(str, self._roots)), folder_signature(source))

    def weights_request(self, ref: ModelRef) -> WeightsRequest:
        """The request that reads statistics of a model's weights; how it would compute makes no difference."""
        asked = self.inspect_request(ModelRef(ref.source, ref.revision))
        return WeightsRequest(asked.model, asked.roots, asked.signature)

    def recent(self) -> list[ModelInfo]:
        """Models opened before that may still be opened here, the last used first."""
        found: dict[ModelRef, ModelInfo] = {}
        for info in self._client.store.results.of_kind("inspect"):
            if isinstance(info, ModelInfo) and self._may_open(info.ref.source):
                found.setdefault(info.ref, info)
        return list(found.values())

    def finished(self, fingerprint: str, recipes: int = 4) -> Finished:
        """What has been worked out about a model, with its newest ``recipes``."""
        counts = self._client.store.results.counts(fingerprint)
        saved = self._client.store.recipes.newest(fingerprint, recipes)
        kinds = ("sensitivity", "prove", "evaluate", "train")
        sweeps, proofs, evaluations, trainings = (counts.get(kind, 0) for kind in kinds)
        return Finished(sweeps, proofs, evaluations, trainings, tuple(saved))

    def folders(self, folder: Path, *, files: bool = False) -> folders.Listing:
        """What lies in a folder, GGUF ``files`` too if asked; ``ModelError`` if it may not be read."""
        return folders.listing(folder, self._roots, files=files)

    def room(self, model: schema.HubModel) -> Room:
        """What a model on the hub meets on this machine."""
        place = hub_cache()
        while not place.is_dir() and place != place.parent:
            place = place.parent
        return Room(bytes_here(model.source, model.files), shutil.disk_usage(place).free, self.free_memory())

    def free_memory(self) -> int:
        """Bytes of this machine's memory that can be taken without pushing anything else out."""
        return int(psutil.virtual_memory().available)

    def downloaded(self) -> list[str]:
        """Hub ids of the models in the Hugging Face cache."""
        names = sorted(path.name.removeprefix("models--") for path in hub_cache().glob("models--*"))
        return [name.replace("--", "/") for name in names]

    def _may_open(self, source: str) -> bool:
        path = Path(source)
        if not path.is_absolute():
            return True
        return path.is_dir() and (
            not self._roots or any(path.resolve().is_relative_to(root) for root in self._roots)
        )

    # --- decisions

    def solve(
        self,
        info: ModelInfo,
        table: ScoreTable,
        budget: Budget,
        pins: Mapping[str, str] | None = None,
        score: ScoreName = "fisher",
        formats: Sequence[str] | None = None,
        terms: Terms | None = None,
    ) -> Solution:
        """The recipe of least predicted KL within a budget.

        Args:
            info: The model.
            table: Its scores.
            budget: Limit in average bits or in bytes.
            pins: Unit name or pattern to the full name of the format it must take.
            score: Which score predicts the KL.
            formats: Full names to choose from; all of the table's by default, and always ``original``.
            terms: Target runtime, rules and further limits, none by default.

        Raises:
            BudgetError: Nothing fits; the hint names the smallest and the largest size.
        """
        named = problem.build_problem(info, table, score, pins, formats, terms)
        found = choose.best(named, problem.limit_bits(named.problem, budget))
        return solution.solution(named, found.choice)

    def headroom(
        self,
        info: ModelInfo,
        table: ScoreTable,
        budget: Budget,
        pins: Mapping[str, str] | None = None,
        score: ScoreName = "fisher",
        formats: Sequence[str] | None = None,
        terms: Terms | None = None,
    ) -> str:
        """Why the best recipe does not fill the limit that binds it, as a sentence; empty if it does, to 0.5 %."""
        named = problem.build_problem(info, table, score, pins, formats, terms)
        found = choose.best(named, problem.limit_bits(named.problem, budget))
        limit = needs.budget_need(budget, named.problem.weights, named.problem.fixed_bits)
        return choose.headroom(named, found, limit)

    def finalists(
        self,
        info: ModelInfo,
        table: ScoreTable,
        budget: Budget,
        pins: Mapping[str, str] | None = None,
        score: ScoreName = "fisher",
        formats: Sequence[str] | None = None,
        terms: Terms | None = None,
        count: int = 4,
    ) -> list[Solution]:
        """The answer of ``solve`` and its best neighbours of nearly its size, by rising predicted KL."""
        named = problem.build_problem(info, table, score, pins, formats, terms)
        return neighbours.finalists(named, problem.limit_bits(named.problem, budget), count)

    def keeping(
        self,
        info: ModelInfo,
        table: ScoreTable,
        assignments: Sequence[Mapping[str, str]],
        budget: Budget,
        pins: Mapping[str, str] | None = None,
        score: ScoreName = "fisher",
        formats: Sequence[str] | None = None,
        terms: Terms | None = None,
    ) -> list[bool]:
        """Which recipes of the caller's own meet all that ``solve`` would be asked to meet."""
        named = problem.build_problem(info, table, score, pins, formats, terms)
        limit = problem.limit_bits(named.problem, budget)
        found = []
        for assignment in assignments:
            try:
                found.append(choose.keeps(named, limit, named.choice(assignment)))
            except (
                BudgetError,
                FormatError,
            ):  # units that share a format differ, or a format is not on offer
                found.append(False)
        return found

    # --- recipes to measure

    def prove_request(
        self,
        info: ModelInfo,
        assignments: Iterable[Mapping[str, str]],
        setup: Setup,
        text: schema.TextSource = schema.EVALUATION,
        tokens: int = schema.ProveRequest.tokens,
    ) -> schema.ProveRequest:
        """The job that measures recipes on the same tokens, each with the units that it changes."""
        changed = contenders.to_measure(assignments)
        roots = tuple(map(str, self._roots))
        return schema.ProveRequest(
            info.ref, info.fingerprint, changed, text, tokens, setup=setup, roots=roots
        )

    def contenders(
        self,
        info: ModelInfo,
        table: ScoreTable,
        budget: Budget,
        pins: Mapping[str, str] | None = None,
        score: ScoreName = "fisher",
        terms: Terms | None = None,
    ) -> dict[str, contenders.Contender]:
        """The recipes to measure side by side for a budget; see ``allocation.contenders``."""
        return contenders.contenders(info, table, budget, pins, score, terms)

    def calibration_recipes(
        self, info: ModelInfo, table: ScoreTable, score: ScoreName = "fisher"
    ) -> tuple[dict[str, str], ...]:
        """Recipes to calibrate a table's prediction on: the same ones whatever recipe is predicted."""
        return calibration.design(problem.build_problem(info, table, score))

    def calibrated(
        self, info: ModelInfo, table: ScoreTable, request: schema.ProveRequest, score: ScoreName = "fisher"
    ) -> Calibration | None:
        """What the recipes of ``request`` say about a table's prediction; None as long as they are not measured.

        Raises:
            QuantError: Too few of them have a KL above 0.
        """
        proof = self.result(request)
        if proof is None:
            return None
        named = problem.build_problem(info, table, score)
        return calibration.learned(named, request.assignments, proof.kl)

    def interval(
        self,
        info: ModelInfo,
        table: ScoreTable,
        learned: Calibration,
        assignment: Mapping[str, str],
        score: ScoreName = "fisher",
    ) -> Interval:
        """The calibrated prediction of a recipe, with the ends that hold 95 of 100 measurements."""
        return learned.interval(calibration.parts(problem.build_problem(info, table, score), assignment))

    # --- exports

    @property
    def exports(self) -> Path:
        """The folder that pages write exports into."""
        return self._client.home / "exports"

    def problems(self, info: ModelInfo, recipe: Recipe, runtime: str) -> tuple[schema.Problem, ...]:
        """Why a runtime cannot hold a recipe; empty if it can."""
        return targets.problems(targets.find(runtime), info, recipe)

    def suggested(self, info: ModelInfo, runtime: str) -> tuple[str, ...]:
        """Formats to choose from for a runtime, by full name."""
        units = [unit for unit in info.units if unit.decided]
        families = {family.name: family for family in self.catalog.families}
        return targets.suggested(targets.find(runtime), units, families)

    def export_request(
        self, info: ModelInfo, recipe: Recipe, runtime: str, folder: str
    ) -> schema.ExportRequest:
        """What the job that writes a recipe for a runtime is asked; an answer whose folder is gone is forgotten."""
        roots = tuple(map(str, self._roots))
        request = schema.ExportRequest(info.ref, info.fingerprint, recipe, runtime, folder, roots)
        if self.result(request) is not None and not Path(folder).is_dir():
            self._client.store.results.forget(request)
        return request

    @property
    def runtimes(self) -> Mapping[str, Runtime]:
        """What runs exported files, by name; each says whether it is here."""
        return RUNTIMES

    def runtime_speed_request(
        self, info: ModelInfo, recipe: Recipe, runtime: str, take: int = 1
    ) -> schema.RuntimeSpeedRequest:
        """What the job that runs a recipe in its runtime is asked; as short as the model's context asks.

        An export of the recipe that is there is run, whatever it is called; else one is written and kept. The same
        goes for the original, where the runtime does not read its checkpoint.
        """
        chosen = RUNTIMES[runtime]
        export = self._export(info, recipe, chosen.target)
        original = None
        if not chosen.reads_checkpoints:
            plain = self.measured_recipe(info, {}, None, Setup())
            original = self._export(info, plain, chosen.target)
        limit = info.context_length or 1024
        prompt = min(schema.RuntimeSpeedRequest.prompt, limit // 2)
        return schema.RuntimeSpeedRequest(
            info.ref, info.fingerprint, runtime, export, original, prompt,
            min(schema.RuntimeSpeedRequest.tokens, limit - prompt), take=take, roots=tuple(map(str, self._roots)),
        )  # fmt: skip

    def _export(self, info: ModelInfo, recipe: Recipe, target: str) -> schema.ExportRequest:
        """The export of a recipe that is there, the newest; else what writes one to a folder that is free."""
        for request in self._client.store.runs.exports(info.fingerprint):
            same = (request.runtime, request.recipe.assignment(), request.recipe.setup)
            if same == (target, recipe.assignment(), recipe.setup) and Path(request.folder).is_dir():
                return request
        name = f"{file_name(info, recipe)}-{target}"
        names = itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2)))
        free = next(path for each in names if not (path := self.exports / each).exists())
        return self.export_request(info, recipe, target, str(free))

    # --- quantized checkpoints

    def import_request(self, path: str, info: ModelInfo | None) -> schema.ImportRequest:
        """What the job that reads a quantized checkpoint is asked, beside the original ``info`` if there is one.

        Raises:
            ModelError: There is no such folder or file, or it lies where none may be read.
        """
        place = Path(path.strip()).expanduser().absolute()
        folders.confined(place if place.is_dir() else place.parent, self._roots)
        signature = checkpoint_signature(place)
        if not (path.strip() and signature):
            raise ModelError(
                f"There is no folder and no file {path.strip()!r}.",
                "Give a folder with config.json and safetensors weights, or a .gguf file.",
            )
        roots = tuple(map(str, self._roots))
        model, fingerprint = (info.ref, info.fingerprint) if info is not None else (None, "")
        request = schema.ImportRequest(str(place), signature, model, fingerprint, roots)
        if self.result(request) is not None:
            asked = self.stored_run(request_key(request)).request
            if not isinstance(asked, schema.ImportRequest) or asked.checkpoint != request.checkpoint:
                self._client.store.results.forget(request)  # it lay elsewhere, and is written with from here
        return request

    def key_of(self, request: Request) -> str:
        """The key of a request's answer, by which a link names it."""
        return request_key(request)

    def checkpoints(self, fingerprint: str) -> list[RunLine]:
        """The quantized checkpoints that were read beside a model, the newest first."""
        lines = self._client.store.runs.lines()
        return [line for line in lines if line.kind == "import" and line.fingerprint == fingerprint]

    def checkpoint(self, key: str, info: ModelInfo) -> tuple[str, schema.CheckpointRef]:
        """The checkpoint that a run read beside a model: its title, and what it is written with.

        Raises:
            QuantError: There is no such run, it is about another model, or the checkpoint is not here or may not be
                read.
        """
        run = self.stored_run(key)
        if not isinstance(run.result, schema.QuantizedCheckpoint) or not isinstance(
            run.request, schema.ImportRequest
        ):
            raise QuantError("The link names no quantized checkpoint.", "Read one on the Checkpoint page.")
        if run.fingerprint != info.fingerprint:
            raise QuantError(
                f"{run.result.title} was not read beside {info.title}.", "Read it again beside this model."
            )
        place = Path(run.request.checkpoint)
        if not place.is_absolute() or not place.exists():
            raise QuantError(
                f"{run.result.title} is not on this machine any more.", "Read it anew from its place."
            )
        folders.confined(place if place.is_dir() else place.parent, self._roots)
        return run.result.title, schema.CheckpointRef(str(place), run.result.content)

    # --- recommendations

    def least_bytes(self, info: ModelInfo, forms: Sequence[str], embeddings: bool = False) -> float:
        """Bytes of all the model's weights with every decided unit in the smallest of the formats of full names
        ``forms``, embedding and head too if asked.
        """
        bits = float(info.other_bits)
        shapes: Counter[tuple[int, int, int]] = Counter()
        alike: dict[tuple[int, int, int], Unit] = {}
        for unit in info.units:
            if unit.decided or (embeddings and unit.kind in ("embedding", "head")):
                shape = (unit.rows, unit.columns, unit.bits)
                shapes[shape] += 1
                alike.setdefault(shape, unit)
            else:
                bits += unit.parameters * unit.bits
        for shape, unit in alike.items():
            bits += shapes[shape] * min(
                unit.parameters * unit.bits, *(self.stored_bits(unit, form) for form in forms)
            )
        return bits / 8

    def weights_in_memory(self, info: ModelInfo, terms: Terms) -> float:
        """Bytes that a limit on memory leaves for the weights, beside KV cache and activations; may be below 0."""
        use = terms.use
        extra = usage.cache_bytes(info, use) + usage.activation_bytes(info, use)
        return terms.limits.memory - extra

    def recommend_request(
        self,
        info: ModelInfo,
        budget: Budget,
        terms: Terms,
        formats: Sequence[str],
        tokens: int,
        held_out_tokens: int,
    ) -> schema.RecommendRequest:
        """The job that scores, solves and measures; embedding and head join where the budget is small (``JOIN``)."""
        small = budget.kind == "bytes" and budget.value < self.least_bytes(info, [JOIN])
        roots = tuple(map(str, self._roots))
        return schema.RecommendRequest(
            info.ref,
            info.fingerprint,
            budget,
            tuple(formats),
            terms,
            tokens=tokens,
            held_out_tokens=held_out_tokens,
            embeddings=small,
            roots=roots,
        )

    # --- trade-offs

    def front(
        self,
        info: ModelInfo,
        table: ScoreTable,
        pins: Mapping[str, str] | None = None,
        score: ScoreName = "fisher",
        formats: Sequence[str] | None = None,
        terms: Terms | None = None,
    ) -> tuple[ParetoPoint, ...]:
        """The least predicted KL at every size worth having, smallest first; arguments as for ``solve``.

        Target, rules and all limits of ``terms`` hold; see ``choose.curve``.
        """
        return self.curve(info, table, pins, score, formats, terms)[0]

    def curve(
        self,
        info: ModelInfo,
        table: ScoreTable,
        pins: Mapping[str, str] | None = None,
        score: ScoreName = "fisher",
        formats: Sequence[str] | None = None,
        terms: Terms | None = None,
    ) -> tuple[tuple[ParetoPoint, ...], str]:
        """The points of ``front``, and where a limit has it begin or end, in words; empty where none does."""
        named = problem.build_problem(info, table, score, pins, formats, terms)
        found = choose.curve(named)
        points = tuple(
            ParetoPoint(named.problem.average_bits(bits), named.problem.total_bytes(bits), cost)
            for bits, cost in zip(found.bits.tolist(), found.cost.tolist(), strict=True)
        )
        return points, found.ends

    def price(
        self, info: ModelInfo, table: ScoreTable, assignment: Mapping[str, str], score: ScoreName = "fisher"
    ) -> Solution:
        """What an assignment of the caller's own costs; units it does not name keep the original weights."""
        return solution.price(info, table, assignment, score)

    def trades(
        self,
        info: ModelInfo,
        table: ScoreTable,
        assignment: Mapping[str, str],
        unit: str,
        budget: Budget,
        pins: Mapping[str, str] | None = None,
        score: ScoreName = "fisher",
        terms: Terms | None = None,
    ) -> list[Trade]:
        """What giving a unit each other format takes from the one other unit that can best make room for it."""
        named = problem.build_problem(info, table, score, pins, terms=terms)
        return neighbours.trades(named, assignment, unit, problem.limit_bits(named.problem, budget))

    def moved(
        self, info: ModelInfo, table: ScoreTable, changes: Mapping[str, str], terms: Terms
    ) -> dict[str, str]:
        """Changes made by hand with all that has to change along; ``BudgetError`` with the reason if one cannot be."""
        return moves.moved(info, table, changes, terms)

    def cache_bits(self, info: ModelInfo, setup: Setup) -> float:
        """Bits that a cached key or value takes under a setup, scales included; 16 where nothing is said."""
        if not (setup.kv_cache and info.head_size):
            return 16.0
        return kv_bits(setup.kv_cache, info.head_size, self._families)

    def together(self, info: ModelInfo, table: ScoreTable, units: Iterable[str], terms: Terms) -> list[str]:
        """Units with all that share a format with one of them under the target."""
        return moves.together(info, table, units, terms)

    def usage(self, info: ModelInfo, table: ScoreTable, assignment: Mapping[str, str], terms: Terms) -> Usage:
        """What a recipe takes while the model runs as ``terms`` say: memory, bytes read and time for a token."""
        return needs.usage_of(info, table, assignment, terms)

    def running(self, info: ModelInfo, assignment: Mapping[str, str], use: Use) -> Usage:
        """As ``usage``, of any assignment and without scores; ``info`` is the model as rewrites leave it."""
        units = {unit.name: unit for unit in info.units}
        forms = {unit: form for unit, form in assignment.items() if form != schema.ORIGINAL and unit in units}
        stored = {unit: self.stored_bits(units[unit], form) for unit, form in forms.items()}
        return needs.usage_with(info, forms, stored, use)

    def token_joules(self, info: ModelInfo, running: Usage) -> tuple[float, float]:
        """Least and most joules that a written token is estimated to take on a processor, for one sequence."""
        weights = sum(unit.parameters for unit in info.units if unit.kind != "embedding" or unit.tied)
        return token_joules(running.active + running.cache, weights)

    def references(
        self, info: ModelInfo, table: ScoreTable, average_bits: float, score: ScoreName = "fisher"
    ) -> list[Reference]:
        """Recipes by rule to compare with: uniform ones, better edges at a size, llama.cpp's Q4_K_M."""
        return references.references(info, table, average_bits, score)

    def rules(self, info: ModelInfo, table: ScoreTable, score: ScoreName = "fisher") -> list[Reference]:
        """What ``references`` chooses from for a size; see ``references.fitting``."""
        return references.by_rule(info, table, score)

    @property
    def targets(self) -> Mapping[str, Target]:
        """The runtimes that a recipe can be made for, by name; the first is any."""
        return TARGETS

    def target_summary(self, name: str, info: ModelInfo, units: Sequence[str], formats: Sequence[str]) -> str:
        """What a target rules out for a model's decided units and the scored formats, in a line; empty for any."""
        return targets.summary(targets.find(name), info, _named(info, units), formats)

    def held(self, name: str, info: ModelInfo, units: Sequence[str], formats: Sequence[str]) -> list[str]:
        """Which of the formats a target can hold for at least one of a model's units."""
        return targets.held(targets.find(name), _named(info, units), formats)

    @property
    def machines(self) -> Mapping[str, Hardware]:
        """The hardware profiles that time is predicted for, by name."""
        return hardware.machines()

    def fits(self, info: ModelInfo, weights: Mapping[str, float], use: Use) -> tuple[fits.Fit, ...]:
        """How a model lies in each machine's memory, from the bytes of its weights at each precision."""
        return fits.fits(info, weights, use, self.machines.values())

    def gguf_mix(self, info: ModelInfo, mix: str) -> dict[str, str]:
        """Full format names by unit as llama.cpp's ``mix`` (``q4_k_m``) has them; ``FormatError`` if it has no rule."""
        return recipes.gguf_mix(info, mix)

    # --- recipes

    def make_recipe(
        self,
        info: ModelInfo,
        table: ScoreTable,
        solution: Solution,
        budget: Budget | None = None,
        pins: Mapping[str, str] | None = None,
        measured: Evaluation | None = None,
        setup: Setup | None = None,
        terms: Terms | None = None,
    ) -> Recipe:
        """A solution as a recipe, with everything a reader needs to apply and to trust it."""
        return recipes.make_recipe(
            info, table, solution, self._families, budget, pins, measured, setup, terms
        )

    def measured_recipe(
        self, info: ModelInfo, assignment: Mapping[str, str], measured: Evaluation | None, setup: Setup
    ) -> Recipe:
        """An assignment that was measured as a recipe, without a prediction."""
        units = [unit for unit in info.units if unit.name in assignment]
        formats = tuple(dict.fromkeys(assignment.values()))
        sizes = tuple(tuple(self.stored_bits(unit, form) for form in formats) for unit in units)
        names = tuple(unit.name for unit in units)
        table = ScoreTable(info.fingerprint, names, formats, sizes, (), 0, 0, "", "", 0, 0.0)
        free = [unit for unit in info.units if unit.decided or unit.name in assignment]
        others = [unit for unit in info.units if not unit.decided and unit.name not in assignment]
        kept = sum(unit.parameters * unit.bits for unit in others) + info.other_bits
        size = self.assigned_bytes(info, assignment)
        average = (8 * size - kept) / (sum(unit.parameters for unit in free) or 1)
        whole = Solution(assignment, average, size, 0.0, 0.0)
        recipe = recipes.make_recipe(info, table, whole, self._families, measured=measured, setup=setup)
        return schema.replace(recipe, predicted_kl=None, predicted_stderr=None)

    def save_recipe(self, recipe: Recipe) -> str:
        """Keep a recipe in the store; its id fits into a URL and is the same for the same recipe."""
        return self._client.store.recipes.save(recipe)

    def recipe(self, recipe_id: str) -> Recipe:
        """The saved recipe with an id; ``RecipeError`` if there is none."""
        return self._client.store.recipes.get(recipe_id)

    def newest_recipes(self, fingerprint: str, limit: int = 12) -> list[SavedRecipe]:
        """The recipes of a model that were saved last, the newest first."""
        return self._client.store.recipes.newest(fingerprint, limit)

    def recipe_text(self, recipe: Recipe, kind: Literal["json", "yaml"]) -> str:
        """A recipe's file."""
        return recipes.to_text(recipe, kind)

    def read_recipe(self, text: str, info: ModelInfo) -> Recipe:
        """The recipe in a file's text for the model as it is loaded, that is not ``rewritten``.

        ``RecipeError`` if it is malformed or belongs to another model.
        """
        return recipes.from_text(text, info, self._families, self._methods, self.rewritten)

    def import_recipe(self, text: str, info: ModelInfo) -> schema.IncomingRecipe:
        """As ``read_recipe``; settings for llm-compressor, GPTQModel and llama-quantize, told by content, too."""
        content = recipes.content_of(text)
        found = recipes.read_settings(content, info, self.catalog)
        if found is None:
            assert isinstance(content, dict)  # lines of options are always read as settings
            own = recipes.from_data(content, info, self._families, self._methods, self.rewritten)
            return schema.IncomingRecipe(own)
        tool, reading = found
        whole = self.rewritten(info, reading.setup.transforms)
        return schema.IncomingRecipe(
            self.measured_recipe(whole, reading.forms, None, reading.setup), tool, reading.notes
        )


def _repeatable(run: Run, source: str) -> Request:
    """What a run was asked, with its model where it is now."""
    request = run.request
    if request is None or isinstance(request, Modelless | schema.ExportRequest):
        raise QuantError(
            f"What run {run.key[:8]} was asked was not recorded.", "An older QuantLens made it: run it again."
        )
    if isinstance(request, schema.ImportRequest):
        raise QuantError(
            "A run does not carry the checkpoint that it read.",
            "Read it again on the Checkpoint page, or with the command import.",
        )
    if isinstance(request, schema.SpeedRequest | schema.RuntimeSpeedRequest):
        raise QuantError(
            "A speed is of a machine and a moment, and no run repeats it.",
            "Measure it again on the Compare page.",
        )
    source = source or request.model.source
    if source == "bundled":
        return request
    folder = _folder(source)
    if folder is None and not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise QuantError(
            f"The model of this run, {model_name(source)} ({run.fingerprint[:8]}), is not here any more.",
            "Say where it is: --model FOLDER.",
        )
    return schema.replace(request, model=schema.replace(request.model, source=str(folder or source)))


def _public(run: Run) -> Request:
    """What a run was asked, without the folders of this machine."""
    if run.request is None or isinstance(run.request, Modelless):
        raise QuantError(
            f"An older QuantLens made run {run.key[:8]} and did not record what it was asked.",
            "Delete it and run it again to export it.",
        )
    model = run.request.model
    public = None if model is None else _public_ref(model)
    request: Request = schema.replace(without_paths(run.request), model=public, roots=())
    if isinstance(request, schema.RuntimeSpeedRequest):
        original = request.original and _public_export(request.original)
        request = schema.replace(request, export=_public_export(request.export), original=original)
    return request


def _public_export(request: schema.ExportRequest) -> schema.ExportRequest:
    folder = Path(request.folder).name
    return schema.replace(request, model=_public_ref(request.model), folder=folder, roots=())


def _public_ref(ref: ModelRef) -> ModelRef:
    return schema.replace(ref, source=recipes.public_name(ref.source))


def _named(info: ModelInfo, names: Sequence[str]) -> list[Unit]:
    wanted = set(names)
    return [unit for unit in info.units if unit.name in wanted]


def _folder(source: str) -> Path | None:
    """The folder a user means, if there is one: full path, links resolved."""
    try:
        folder = Path(source).expanduser()
        return folder.resolve() if folder.is_dir() else None
    except (OSError, RuntimeError):  # too long for a path, or a home folder that nobody has
        return None
