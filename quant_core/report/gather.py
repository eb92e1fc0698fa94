"""Everything that the store holds of one recipe: found by what was asked, not by what it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from quant_core.allocation import calibration, choose, problem, solution
from quant_core.allocation.calibration import Interval
from quant_core.allocation.contenders import to_measure
from quant_core.columns import joined
from quant_core.contrast import main_score
from quant_core.errors import QuantError
from quant_core.recipes import public_name
from quant_core.report.commands import (
    evaluate_command,
    file_name,
    generate_command,
    is_solved,
    recipe_command,
)
from quant_core.report.facts import Report
from quant_core.schema import (
    ORIGINAL,
    ChoicesRequest,
    EvaluateRequest,
    ExportRequest,
    GenerateRequest,
    HubModel,
    ModelInfo,
    ParetoPoint,
    PromptsRequest,
    Proof,
    ProveRequest,
    Recipe,
    RescoreRequest,
    Run,
    RuntimeSpeedRequest,
    ScoreTable,
    Setup,
    SpeedRequest,
    TailsRequest,
    Training,
    TrainRequest,
    replace,
)
from quant_core.store import Store
from quant_core.store.keys import ASSETS

LONGEST_CARD = 1 << 20
"""Bytes of a model's card that are read for its licence."""


def gather(
    store: Store, info: ModelInfo, recipe: Recipe, version: str, usual: Sequence[str], file: str = ""
) -> Report:
    """The report of a recipe.

    Args:
        store: Where results are.
        info: The model as the recipe's rewrites leave it.
        recipe: What is reported of.
        version: Of QuantLens.
        usual: Full names of the formats that are scored unless told; see ``commands.recipe_command``.
        file: What the recipe's file is called in commands; by default as pages call it.
    """
    runs = store.runs.of_model(info.fingerprint)
    mine = [run for run in runs if _is_about(run, recipe)]
    scored, table = _behind(info, recipe, runs)
    found: dict[str, tuple[float, float]] = {}
    interval: Interval | None = None
    front: tuple[ParetoPoint, ...] = ()
    if table is not None:
        found = _unit_scores(table, recipe)
        interval, calibrated = _interval(info, recipe, table, runs)
        front = _front(info, recipe, table)
        mine = [*scored, *[run for run in calibrated if run not in mine], *mine]
    file = file or f"{file_name(info, recipe)}.json"
    shown = replace(info, ref=replace(info.ref, source=public_name(info.ref.source) or info.title))
    asked = [run.request.tokens for run in mine if isinstance(run.request, EvaluateRequest)]
    commands = [evaluate_command(shown, file, asked[-1] if asked else EvaluateRequest.tokens)]
    solved = table is not None and is_solved(info, table, recipe)
    if table is not None and solved:
        commands.insert(0, recipe_command(shown, table, recipe, file, usual))
    written = [run.request for run in mine if isinstance(run.request, GenerateRequest)]
    commands += [generate_command(shown, file, request) for request in written[-1:]]
    return Report(
        version=version,
        info=info,
        recipe=recipe,
        licence=_licence(store, info),
        table=table,
        scores=found,
        interval=interval,
        front=front,
        votes={
            run.key: tuple(store.votes.of(run.key)) for run in mine if isinstance(run.request, PromptsRequest)
        },
        runs=tuple(mine),
        solved=solved,
        commands=tuple(commands),
    )


def _is_about(run: Run, recipe: Recipe) -> bool:
    """Whether a run measured, wrote with or exported this recipe."""

    def same(assignment: Mapping[str, str] | None, setup: Setup) -> bool:
        changed = {unit: form for unit, form in (assignment or {}).items() if form != ORIGINAL}
        return changed == recipe.assignment() and setup == recipe.setup

    match run.request:
        case (
            EvaluateRequest()
            | ChoicesRequest()
            | TailsRequest()
            | GenerateRequest()
            | RuntimeSpeedRequest() as asked
        ):
            return same(asked.assignment, asked.setup)
        case ProveRequest() as asked:
            return any(same(one, asked.setup) for one in asked.assignments)
        case SpeedRequest() | PromptsRequest() as asked:
            return any(same(one.assignment, one.setup) for one in asked.variants)
        case TrainRequest() as asked:
            learned = isinstance(run.result, Training) and run.result.key == recipe.setup.trained
            return learned or same(asked.assignment, asked.setup)
        case ExportRequest() as asked:
            return same(asked.recipe.assignment(), asked.recipe.setup)
        case _:
            return False


def _behind(info: ModelInfo, recipe: Recipe, runs: Sequence[Run]) -> tuple[list[Run], ScoreTable | None]:
    """The scores that predict what the recipe says it is predicted to do, with the runs that made them."""
    wanted = set(recipe.assignment().values())
    for run in reversed(runs):
        table = run.result
        if not isinstance(table, ScoreTable) or run.kind != "sensitivity" or not _fits(table, recipe):
            continue
        used = [run]
        for more in runs:
            if (
                isinstance(more.request, RescoreRequest)
                and isinstance(more.result, ScoreTable)
                and more.request.state == table.state
                and wanted & set(more.result.formats) - set(table.formats)
                and more.result.units == table.units
            ):
                table = joined(table, [more.result])
                used.append(more)
        try:
            priced = solution.price(info, table, _decided(table, recipe), main_score(table))
        except QuantError:
            continue
        if recipe.predicted_kl is not None and abs(priced.predicted_kl - recipe.predicted_kl) <= 1e-9:
            return used, table
    return [], None


def _fits(table: ScoreTable, recipe: Recipe) -> bool:
    same = (table.text_hash, table.seed, table.transforms)
    return same == (recipe.calibration_hash, recipe.seed, recipe.setup.transforms)


def _decided(table: ScoreTable, recipe: Recipe) -> dict[str, str]:
    known = set(table.units)
    return {unit: entry.format for unit, entry in recipe.units.items() if unit in known}


def _unit_scores(table: ScoreTable, recipe: Recipe) -> dict[str, tuple[float, float]]:
    score = main_score(table)
    errors = table.fisher_stderr if score == "fisher" else table.measured_stderr
    found = {}
    for row, unit in enumerate(table.units):
        form = recipe.units[unit].format if unit in recipe.units else ORIGINAL
        if form in table.formats:
            column = table.formats.index(form)
            found[unit] = (table.scores(score)[row][column], errors[row][column] if errors else 0.0)
    return found


def _interval(
    info: ModelInfo, recipe: Recipe, table: ScoreTable, runs: Sequence[Run]
) -> tuple[Interval | None, list[Run]]:
    """The calibrated prediction with the run that it was learned from, the newest of several."""
    named = problem.build_problem(info, table, main_score(table))
    asked = to_measure(calibration.design(named))
    for run in reversed(runs):
        request, proof = run.request, run.result
        if not isinstance(request, ProveRequest) or not isinstance(proof, Proof):
            continue
        if request.assignments == asked and request.setup == recipe.setup:
            try:
                learned = calibration.learned(named, asked, proof.kl)
            except QuantError:  # too few of them do any damage
                continue
            return learned.interval(calibration.parts(named, _decided(table, recipe))), [run]
    return None, []


def _front(info: ModelInfo, recipe: Recipe, table: ScoreTable) -> tuple[ParetoPoint, ...]:
    try:
        named = problem.build_problem(info, table, main_score(table), recipe.pins, terms=recipe.terms)
        found = choose.curve(named)
    except QuantError:  # pins or limits that these scores cannot meet
        return ()
    return tuple(
        ParetoPoint(named.problem.average_bits(bits), named.problem.total_bytes(bits), cost)
        for bits, cost in zip(found.bits.tolist(), found.cost.tolist(), strict=True)
    )


def _licence(store: Store, info: ModelInfo) -> str:
    """As the card in the model's folder or what was looked up on the hub states it."""
    source = info.ref.source
    folder = ASSETS / "demo-model" if source == "bundled" else Path(source)
    if folder.is_absolute():
        return licence_in(folder / "README.md")
    looked = [found for found in store.results.of_kind("look") if isinstance(found, HubModel)]
    return next((found.licence for found in looked if found.source == source), "")


def licence_in(card: Path) -> str:
    """The licence in the front matter of a model card; empty if there is none."""
    try:
        with card.open(encoding="utf-8", errors="replace") as file:
            text = file.read(LONGEST_CARD)
    except OSError:
        return ""
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return ""
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return ""
    licence = head.get("license", "") if isinstance(head, dict) else ""
    return licence if isinstance(licence, str) else ""
