"""The one door to everything below: what pages and the command line use, free of torch.

A workspace joins three things: jobs (ask, watch, cancel), what they left in the store (results, score tables,
recipes), and decisions made from that at once (budget to recipe, Pareto front, prices).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, overload

from quant_core import columns, costs, recipes, schema, targets
from quant_core.allocation import (
    calibration,
    choose,
    moves,
    needs,
    neighbours,
    problem,
    references,
    solution,
)
from quant_core.allocation.calibration import Calibration, Interval
from quant_core.allocation.neighbours import Trade
from quant_core.allocation.references import Reference
from quant_core.allocation.usage import Usage
from quant_core.errors import BudgetError, Cancelled, FormatError, JobError, ModelError, QuantError
from quant_core.jobs.client import Client
from quant_core.kv_cache import kv_bits
from quant_core.names import parse_format
from quant_core.schema import (
    Budget,
    Catalog,
    Evaluation,
    FamilyInfo,
    FormatSpec,
    Generation,
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
    Request,
    Result,
    ScoreName,
    ScoreTable,
    Setup,
    Solution,
    Terms,
    TokenEvent,
    Training,
    Unit,
    WeightsRequest,
    WeightStatistics,
)
from quant_core.store import default_home
from quant_core.store.keys import folder_signature
from quant_core.store.results import SavedRecipe
from quant_core.targets import TARGETS, Target, hardware
from quant_core.targets.hardware import Hardware

DEFAULT_FORMATS = ("int2", "int3", "int4", "int5", "int6", "int8", "nf4")
"""Families that layers are scored in unless others are asked for."""
CATALOG = Path(__file__).with_name("catalog.json")

Watch = Callable[[Job], None]


def hub_cache() -> Path:
    """Where the Hugging Face libraries keep downloaded models."""
    if chosen := os.environ.get("HF_HUB_CACHE"):
        return Path(chosen).expanduser()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.environ.get("HF_HOME") or caches / "huggingface").expanduser() / "hub"


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
        bits = info.other_bits
        for unit in info.units:
            bits += self.stored_bits(unit, form) if unit.decided else unit.parameters * unit.bits
        return bits / 8

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
    def result(self, request: schema.CatalogRequest) -> Catalog | None: ...
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
    def run(self, request: schema.CatalogRequest, on_progress: Watch | None = None) -> Catalog: ...
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
        changed = tuple(
            {unit: form for unit, form in one.items() if form != schema.ORIGINAL} for one in assignments
        )
        roots = tuple(map(str, self._roots))
        return schema.ProveRequest(
            info.ref, info.fingerprint, changed, text, tokens, setup=setup, roots=roots
        )

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

    def references(
        self, info: ModelInfo, table: ScoreTable, average_bits: float, score: ScoreName = "fisher"
    ) -> list[Reference]:
        """Recipes by rule to compare with: uniform ones, better edges at a size, llama.cpp's Q4_K_M."""
        return references.references(info, table, average_bits, score)

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
