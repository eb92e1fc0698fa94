"""Running an exported recipe in its runtime, beside the original."""

from __future__ import annotations

import argparse

from quant_core import schema
from quant_core.cli.terminal import number, say, say_json, say_table
from quant_core.cli.work import open_model, read_recipe, run
from quant_core.errors import ExportError
from quant_core.quantities import size
from quant_core.workspace import Workspace


def speed(workspace: Workspace, options: argparse.Namespace) -> int:
    """Time a recipe's file and the original's in a runtime of this machine; files that are lacking are written."""
    info = open_model(workspace, options)
    recipe = read_recipe(workspace, options.recipe, info)
    problems = workspace.problems(info, recipe, workspace.runtimes[options.runtime].target)
    if problems:
        reasons = " ".join(dict.fromkeys(problem.reason for problem in problems))
        raise ExportError(f"{options.runtime} cannot run this recipe: {reasons}", "Make one with --target.")
    request = workspace.runtime_speed_request(info, recipe, options.runtime, options.take)
    found: schema.RuntimeSpeeds = run(workspace, request)
    if options.json:
        say_json({"model": info.ref.source} | schema.dump(found))
        return 0
    where = found.hardware or found.device
    threads = f", {found.threads} threads" if found.device == "cpu" else ""
    say(
        f"{info.title} in {found.version} on {where}{threads}: medians of {found.repeats} rounds (least to most)"
    )
    say(f"{found.prompt} tokens read, {found.tokens} written; memory is the most that the process held")
    sides = (("original", found.original), ("recipe", found.recipe))
    rows = [
        (name, _range(one.prompt), _range(one.decode), size(one.resident), size(one.size))
        for name, one in sides
        if one is not None
    ]
    say_table(("", "read, tokens/s", "written, tokens/s", "memory", "weights"), rows)
    for note in found.notes:
        say(f"Note: {note}")
    return 0


def _range(values: tuple[float, float, float]) -> str:
    middle, low, high = map(number, values)
    return f"{middle} ({low} to {high})"
