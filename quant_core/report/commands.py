"""The command lines that lead to a recipe and to what was measured of it; what is the default is left out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from quant_core.allocation import choose, problem, solution
from quant_core.contrast import main_score
from quant_core.errors import QuantError
from quant_core.schema import (
    EvaluateRequest,
    GenerateRequest,
    ModelInfo,
    Recipe,
    ScoreTable,
    SensitivityRequest,
    Terms,
    Use,
)


def file_name(info: ModelInfo, recipe: Recipe) -> str:
    """``demo-model-4.50-bits``: what the file is called, safe on every system."""
    title = re.sub(r"[^A-Za-z0-9.-]+", "-", info.title).strip("-.") or "model"
    return f"{title.lower()}-{recipe.average_bits:.2f}-bits"


def is_solved(info: ModelInfo, table: ScoreTable, recipe: Recipe) -> bool:
    """Whether a recipe is what the solver answers to its budget, pins and terms."""
    if recipe.budget is None:
        return False
    try:
        named = problem.build_problem(info, table, main_score(table), recipe.pins, terms=recipe.terms)
        best = choose.best(named, problem.limit_bits(named.problem, recipe.budget))
    except QuantError:
        return False
    found = solution.solution(named, best.choice).assignment
    return all(recipe.units[unit].format == name for unit, name in found.items() if unit in recipe.units)


def _line(verb: str, info: ModelInfo, options: Sequence[tuple[str, str]]) -> str:
    """One command; an option whose value is empty is a switch."""
    ref = info.ref
    where = [
        ("--revision", ref.revision),
        ("--dtype", ref.dtype.replace("auto", "")),
        ("--device", ref.device.replace("auto", "")),
    ]
    parts = [item for item in where if item[1]] + list(options)
    shown = [f"{name} {shlex.quote(value)}" if value else name for name, value in parts]
    return " ".join(["python -m quant_core", verb, shlex.quote(ref.source), *shown])


def recipe_command(
    info: ModelInfo, table: ScoreTable, recipe: Recipe, file: str, usual: Sequence[str]
) -> str:
    """The command that makes a recipe from its budget; ``usual`` are the formats that it scores unless told."""
    options = [*_limit_options(recipe), *_term_options(recipe.terms)]
    if table.formats != tuple(usual):
        options.append(("--formats", ",".join(table.formats)))
    if table.tokens != SensitivityRequest.tokens:
        options.append(("--tokens", str(table.tokens)))
    if main_score(table) != "fisher":
        options.append(("--score", main_score(table)))
    if table.precision:
        options.append(("--precision", f"{table.precision:g}"))
    if table.seed:
        options.append(("--seed", str(table.seed)))
    scored = set(table.units)
    if any(not unit.decided for unit in info.units if unit.name in scored):
        options.append(("--include", "embeddings"))
    options += [("--transform", text) for text in recipe.setup.transforms]
    options += [
        (name, text)
        for name, text in (("--activations", recipe.setup.activations), ("--kv-cache", recipe.setup.kv_cache))
        if text
    ]
    options += [("--pin", f"{unit}={name}") for unit, name in recipe.pins.items()]
    return _line("recipe", info, [*options, ("--out", file)])


def _limit_options(recipe: Recipe) -> list[tuple[str, str]]:
    """The budget and all other limits; of two of a kind the tighter one."""
    limits, budget = recipe.terms.limits, recipe.budget
    bits = [limits.bits] if limits.bits else []
    size = [limits.bytes] if limits.bytes else []
    if budget is not None:
        (bits if budget.kind == "bits" else size).append(budget.value)
    found = {
        "--bits": min(bits, default=0.0),
        "--megabytes": min(size, default=0.0) / 1e6,
        "--memory": limits.memory / 1e6,
        "--active": limits.active / 1e6,
        "--milliseconds": limits.milliseconds,
    }
    return [(name, f"{value:.10g}") for name, value in found.items() if value]


def _term_options(terms: Terms) -> list[tuple[str, str]]:
    """Target, rules, and how the model is to run, as far as they are not the defaults."""
    found = [("--target", terms.target)] if terms.target != "any" else []
    for rule in terms.rules:
        found += [("--never-below", f"{rule.pattern}={rule.least_bits:g}")] if rule.least_bits else []
        found += [("--only", f"{rule.pattern}={','.join(rule.families)}")] if rule.families else []
    use, usual = terms.use, Use()
    found += [("--context", str(use.context))] if use.context != usual.context else []
    found += [("--batch", str(use.batch))] if use.batch != usual.batch else []
    found += [("--hardware", use.hardware)] if use.hardware else []
    return found


def evaluate_command(info: ModelInfo, file: str, tokens: int = EvaluateRequest.tokens) -> str:
    """The command that measures a recipe's file on so many tokens."""
    more = [("--tokens", str(tokens))] if tokens != EvaluateRequest.tokens else []
    return _line("evaluate", info, [("--recipe", file), *more])


def generate_command(info: ModelInfo, file: str, request: GenerateRequest) -> str:
    """The command that writes what ``request`` asks for with a recipe's file."""
    options = [
        ("--recipe", file),
        ("--prompt", request.prompt),
        ("--seed", str(request.seed)),
        ("--tokens", str(request.tokens)),
        ("--temperature", f"{request.temperature:g}"),
    ]
    if info.chat:
        options.append(("--chat" if request.chat else "--no-chat", ""))
    return _line("generate", info, options)
