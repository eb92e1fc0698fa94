"""The commands: each takes the workspace and its parsed arguments, writes its answer, and returns the exit code."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

from quant_core import schema
from quant_core.allocation.additivity import additivity
from quant_core.cli import limits, measuring
from quant_core.cli.choices import multiple_choice
from quant_core.cli.terminal import number, say, say_json, say_table, warn
from quant_core.cli.work import (
    UsageError,
    check_writable,
    chosen_setup,
    format_name,
    open_model,
    read_file,
    read_recipe,
    read_text,
    run,
    score_model,
    write_recipe,
    write_text,
)
from quant_core.errors import BudgetError, QuantError, RecipeError
from quant_core.schema import ModelInfo
from quant_core.workspace import CATALOG, Workspace


def models(workspace: Workspace, options: argparse.Namespace) -> int:
    """List the bundled model, the ones opened before, and those in the hub's cache."""
    opened: dict[str, ModelInfo] = {}
    for info in workspace.recent():
        opened.setdefault(info.ref.source, info)
    known = [
        opened.get(name) or name for name in dict.fromkeys(["bundled", *opened, *workspace.downloaded()])
    ]
    if options.json:
        say_json({"models": [_describe(model) for model in known]})
        return 0
    rows = [
        (model, "-", "-", "not opened yet")
        if isinstance(model, str)
        else (
            model.ref.source,
            f"{model.parameters / 1e6:.1f} M",
            str(len(model.units)),
            f"{model.original_bits / 8e6:.1f} MB",
        )
        for model in known
    ]
    say_table(("model", "parameters", "weights", "size"), rows)
    return 0


def _describe(model: ModelInfo | str) -> dict[str, Any]:
    """A model for JSON; one that was not opened yet is only a name."""
    if isinstance(model, str):
        return {"model": model, "opened": False}
    return {
        "model": model.ref.source,
        "opened": True,
        "title": model.title,
        "fingerprint": model.fingerprint,
        "parameters": model.parameters,
        "units": len(model.units),
        "bytes": model.original_bits / 8,
        "dtype": model.dtype,
    }


def sensitivity(workspace: Workspace, options: argparse.Namespace) -> int:
    """Score every weight in every format."""
    info, table, _ = score_model(workspace, options)
    score: schema.ScoreName = options.score
    scores = table.scores(score)
    errors = {"fisher": table.fisher_stderr, "measured": table.measured_stderr}.get(score) or ()
    units = {unit.name: unit for unit in info.units}
    if options.json:
        rows = [
            {
                "unit": name,
                "block": units[name].block,
                "role": units[name].role,
                "format": form,
                "score": scores[row][column],
                "stderr": errors[row][column] if errors else None,
            }
            for row, name in enumerate(table.units)
            for column, form in enumerate(table.formats)
        ]
        head = {
            "model": info.ref.source,
            "fingerprint": info.fingerprint,
            "score": score,
            "tokens": table.tokens,
        }
        padded = {form: sum(row[column] for row in table.padded) for column, form in enumerate(table.formats)}
        say_json(head | {"text": table.text_label, "padded": padded, "notes": table.notes, "rows": rows})
        return 0
    say(f"{info.title}: {score} score on {table.tokens:,} tokens of {table.text_label}")
    cells = [[name, *(number(value, 3) for value in scores[row])] for row, name in enumerate(table.units)]
    say_table(("weight", *table.formats), cells)
    _say_padding(table, table.formats)
    _say_notes(table.notes)
    return 0


def _say_padding(table: schema.ScoreTable, formats: Iterable[str]) -> None:
    """Say which formats pad rows that their groups do not divide, and that sizes count it."""
    for name in formats:
        column = [row[table.formats.index(name)] for row in table.padded]
        if any(column):
            say(f"{name}: rows of {sum(map(bool, column))} weights are no whole number of groups; "
                f"{sum(column):,} padded values are counted in the sizes.")  # fmt: skip


def _say_notes(notes: Iterable[str]) -> None:
    """Say what went otherwise than asked."""
    for note in notes:
        say(f"Note: {note}")


def recipe(workspace: Workspace, options: argparse.Namespace) -> int:
    """Solve for a recipe within a budget; the scores are computed first unless they are stored."""
    check_writable(options.out)
    if options.source:
        if options.pin or options.prove or limits.given(options):
            raise UsageError("--from takes a recipe as it is: leave budgets, --pin and --prove out")
        return _taken_over(workspace, options)
    pins = {}
    for pin in options.pin:
        pattern, equals, name = pin.partition("=")  # a method's options have further ones
        if not (equals and pattern):
            raise UsageError(f"--pin {pin!r} is not PATTERN=FORMAT")
        pins[pattern] = format_name(workspace, name, options.group)
    setup = chosen_setup(workspace, options, schema.Setup())
    budget, terms = limits.read(workspace, options)
    held_out = read_text(options.held_out, schema.EVALUATION)
    info, table, formats = score_model(workspace, options, tuple(pins.values()))
    terms = limits.with_cache(workspace, info, setup, terms)
    choice = {"pins": pins, "score": options.score, "formats": formats, "terms": terms}
    try:
        solution = workspace.solve(info, table, budget, **choice)
    except BudgetError as error:
        if options.megabytes is None or options.include:
            raise
        raise BudgetError(
            error.message, f"{error.hint} --include embeddings makes embedding and head smaller too."
        ) from error
    unused = workspace.headroom(info, table, budget, **choice)
    ends = [schema.dump(point) for point in workspace.front(info, table, **choice)]
    ends = [ends[0], ends[-1]]
    scored = measuring.Scored(workspace, options, info, table, setup, held_out)
    proved = measuring.prove(scored, budget, pins, formats, terms) if options.prove else None
    if proved and proved.winner.assignment != solution.assignment:
        solution, unused = proved.winner, ""
    asked = budget if options.bits or options.megabytes else None
    made = workspace.make_recipe(info, table, solution, asked, pins, setup=setup, terms=terms)
    usage = workspace.usage(info, table, solution.assignment, terms)
    predicted = scored.interval(solution)
    if predicted is None:  # sums of relative errors rank formats, but they are no KL
        made = schema.replace(made, predicted_kl=None, predicted_stderr=None)
        ends = [end | {"predicted_kl": None} for end in ends]
    if options.out:
        write_recipe(workspace, options.out, made)
    if options.json:
        data = schema.dump(made)
        say_json(
            {name: data[name] for name in ("model", "fingerprint", "average_bits")}
            | {"bytes": made.total_bytes, "original_bytes": made.original_bytes}
            | {name: data[name] for name in ("predicted_kl", "predicted_stderr", "budget", "pins")}
            | {"floor": ends[0], "ceiling": ends[1], "units": data["units"], "terms": data["terms"]}
            | {"usage": limits.figures(usage), "unused": unused, "predicted": predicted}
            | {"proof": measuring.as_json(scored, proved) if proved else None}
            | {"out": str(options.out) if options.out else None}
        )
        return 0
    rows = [[name, entry.format, number(entry.bits)] for name, entry in made.units.items()]
    say_table(("weight", "format", "bits"), rows)
    say()
    say(f"{made.average_bits:.3f} bits a decided weight, {made.total_bytes / 1e6:.2f} MB in all")
    say(f"(original: {made.original_bytes / 1e6:.2f} MB; possible: {ends[0]['average_bits']:.3f} to "
        f"{ends[1]['average_bits']:.3f} bits)")  # fmt: skip
    limits.say_usage(usage, terms)
    for sentence in filter(None, [limits.ruled_out(workspace, info, table, formats, terms), unused]):
        say(sentence)
    _say_padding(table, sorted(set(made.assignment().values()) & set(table.formats)))
    if predicted is not None:
        measuring.say_predicted(made.predicted_kl, predicted)
    if proved:
        measuring.say_proof(scored, proved)
    if options.out:
        say(f"written to {options.out}")
    _say_notes(table.notes)
    return 0


def _taken_over(workspace: Workspace, options: argparse.Namespace) -> int:
    """Make a recipe of another tool's settings."""
    info = open_model(workspace, options)
    found = workspace.import_recipe(read_file(options.source, RecipeError, "recipe"), info)
    if options.out:
        write_recipe(workspace, options.out, found.recipe)
    quantized = found.recipe.assignment()
    if options.json:
        data = schema.dump(found.recipe)
        say_json(
            {name: data[name] for name in ("model", "fingerprint", "average_bits", "units", "setup")}
            | {"bytes": found.recipe.total_bytes, "original_bytes": found.recipe.original_bytes}
            | {"tool": found.tool, "notes": found.notes, "out": str(options.out) if options.out else None}
        )
        return 0
    rows = [[name, entry.format, number(entry.bits)] for name, entry in found.recipe.units.items()]
    say_table(("weight", "format", "bits"), rows)
    say(f"\n{len(quantized)} weights quantized, {found.recipe.average_bits:.3f} bits a decided weight, "
        f"{found.recipe.total_bytes / 1e6:.2f} MB in all, as {options.source.name} says")  # fmt: skip
    if options.out:
        say(f"written to {options.out}")
    _say_notes(found.notes)
    return 0


def evaluate(workspace: Workspace, options: argparse.Namespace) -> int:
    """Measure a recipe against the original, on text or on multiple-choice questions."""
    if options.choices:
        return multiple_choice(workspace, options)
    check_writable(options.out)
    text = read_text(options.text, schema.EVALUATION)
    info = open_model(workspace, options)
    recipe = read_recipe(workspace, options.recipe, info)
    setup = chosen_setup(workspace, options, recipe.setup)
    if options.out and set(recipe.units) != {
        unit.name for unit in workspace.rewritten(info, setup.transforms).units
    }:
        raise UsageError("--transform leaves other weights than the recipe lists: make one with it first")
    request = schema.EvaluateRequest(
        info.ref, info.fingerprint, recipe.assignment(), text, options.tokens, setup=setup
    )
    measured: schema.Evaluation = run(workspace, request)
    if measured.text_hash == recipe.calibration_hash:
        warn("This is the text the recipe was calibrated on; measure on another one for an honest figure.")
    if options.out:
        write_recipe(workspace, options.out, schema.replace(recipe, measured=measured, setup=setup))
    adds_up = additivity(
        measured.kl_mean, measured.kl_stderr, recipe.predicted_kl or 0.0, recipe.predicted_stderr or 0.0
    )
    if options.json:
        predicted = {"predicted_kl": recipe.predicted_kl, "predicted_stderr": recipe.predicted_stderr}
        predicted["additivity"] = adds_up.ratio if adds_up else None
        predicted["additivity_stderr"] = adds_up.stderr if adds_up else None
        say_json(
            {"model": info.ref.source, "fingerprint": info.fingerprint} | schema.dump(measured) | predicted
        )
        return 0
    rows = [
        ("KL mean", number(measured.kl_mean), number(measured.kl_stderr, 2)),
        ("KL predicted", number(recipe.predicted_kl), number(recipe.predicted_stderr, 2)),
        *([("KL mean / predicted", number(adds_up.ratio), number(adds_up.stderr, 2))] if adds_up else []),
        ("KL median", number(measured.kl_median), ""),
        ("KL 99th percentile", number(measured.kl_p99), ""),
        ("perplexity", number(measured.perplexity), number(measured.perplexity_stderr, 2)),
        (
            "perplexity, original",
            number(measured.perplexity_original),
            number(measured.perplexity_original_stderr, 2),
        ),
        ("top-1 agreement", f"{measured.top1_agreement:.2%}", ""),
        ("tokens", f"{measured.tokens:,}", ""),
    ]
    say(f"{info.title} on {measured.text_label}; KL in nats a token")
    say_table(("", "value", "± error"), rows)
    _say_notes(measured.notes)
    return 0


def train(workspace: Workspace, options: argparse.Namespace) -> int:
    """Fine-tune the weights of a recipe, or all decided ones in one format, and say how to use the result."""
    form = format_name(workspace, options.format, options.group) if options.format else ""
    text = read_text(options.text or "self", schema.CALIBRATION)
    info = open_model(workspace, options)
    recipe = read_recipe(workspace, options.recipe, info) if options.recipe else None
    setup = chosen_setup(workspace, options, recipe.setup if recipe else schema.Setup())
    uniform = {unit.name: form for unit in info.units if unit.decided}
    rates = {"learning_rate": options.rate, "step_rate": options.step_rate}
    request = schema.TrainRequest(
        model=info.ref,
        fingerprint=info.fingerprint,
        assignment=recipe.assignment() if recipe else uniform,
        setup=setup,
        text=text,
        tokens=options.tokens,
        sequence=options.sequence,
        steps=options.steps,
        seconds=options.seconds,
        batch=options.batch,
        mode="lora" if options.lora else "full",
        rank=options.lora or schema.TrainRequest.rank,
        seed=options.seed,
        **{name: rate for name, rate in rates.items() if rate is not None},
    )
    done: schema.Training = run(workspace, request, losses=True)
    if options.json:
        say_json({"model": info.ref.source} | schema.dump(done))
        return 0
    say(
        f"{info.title}: {done.steps:,} steps, {done.tokens:,} tokens of {done.text_label}, "
        f"{done.seconds:.0f} s, {len(done.assignment)} weights"
    )
    rows = [("before", number(done.kl_before)), ("after", number(done.kl_after))]
    say_table((f"KL on {done.held_out:,} tokens held out", "nats a token"), rows)
    say(f"trained weights: --trained {done.key}")
    _say_notes(done.notes)
    return 0


def generate(workspace: Workspace, options: argparse.Namespace) -> int:
    """Continue a prompt with the original and the recipes that are given."""
    setup = chosen_setup(workspace, options, schema.Setup())
    if setup != schema.Setup() and not options.recipe:
        raise UsageError("--transform, --activations and --kv-cache change a recipe: name it with --recipe")
    info = open_model(workspace, options)
    recipe, other = (
        read_recipe(workspace, file, info) if file else None for file in (options.recipe, options.other)
    )
    if options.chat and not info.chat:
        raise QuantError(f"{info.title} has no chat template.", "Leave --chat out.")
    request = schema.GenerateRequest(
        model=info.ref,
        fingerprint=info.fingerprint,
        prompt=options.prompt,
        assignment=recipe.assignment() if recipe else None,
        tokens=options.tokens,
        seed=options.seed,
        temperature=options.temperature,
        top_p=options.top_p,
        chat=info.chat if options.chat is None else options.chat,
        setup=chosen_setup(workspace, options, recipe.setup) if recipe else schema.Setup(),
        other=other.assignment() if other else None,
        other_setup=other.setup if other else schema.Setup(),
    )
    texts: schema.Generation = run(workspace, request)
    original, changed, further = ("".join(side) for side in (texts.original, texts.recipe, texts.other))
    if options.json:
        answer = {"original": original, "recipe": changed if recipe else None, "divergence": texts.divergence}
        if other:
            answer |= {"other": further, "other_divergence": texts.other_divergence}
        say_json({"model": info.ref.source, "prompt": options.prompt} | answer | {"seed": texts.seed})
        return 0
    say(f"Original\n{options.prompt}{original}")
    if recipe:
        say(f"\nRecipe ({recipe.average_bits:.2f} bits a weight)\n{options.prompt}{changed}")
        say(_parted(texts.divergence))
    if other:
        say(f"\nOther recipe ({other.average_bits:.2f} bits a weight)\n{options.prompt}{further}")
        say(_parted(texts.other_divergence))
    return 0


def _parted(place: int) -> str:
    return "\nThe two are the same." if place < 0 else f"\nThey differ from token {place + 1} on."


def catalog(workspace: Workspace, options: argparse.Namespace) -> int:
    """Write the catalog anew, or with ``--check`` fail if that would change it."""
    offered: schema.Catalog = run(workspace, schema.CatalogRequest())
    try:
        current = workspace.catalog == offered
    except QuantError:
        current = False
    if options.check and not current:
        raise QuantError(
            f"{CATALOG.name} is not what the registries offer.", "Run: python -m quant_core catalog"
        )
    if not current:
        write_text(CATALOG, json.dumps(schema.dump(offered), indent=2) + "\n")
    if options.json:
        say_json(schema.dump(offered) | {"changed": not current})
    else:
        say(f"{CATALOG.name}: {len(offered.families)} families, {'as it was' if current else 'written'}")
    return 0
