"""Writing a model under a recipe for a runtime."""

from __future__ import annotations

import argparse
from pathlib import Path

from quant_core import schema
from quant_core.cli.terminal import say, say_json
from quant_core.cli.work import open_model, read_recipe, run, write_text
from quant_core.errors import ExportError
from quant_core.recipes.foreign import DIALECTS
from quant_core.workspace import Workspace


def export(workspace: Workspace, options: argparse.Namespace) -> int:
    """Write a quantized model for a runtime and read it back, or settings for a tool that quantizes by itself."""
    info = open_model(workspace, options)
    recipe = read_recipe(workspace, options.recipe, info)
    if options.to in DIALECTS:
        return _settings(options, info, recipe)
    folder = str(Path(options.out).absolute())
    done: schema.Exported = run(workspace, workspace.export_request(info, recipe, options.to, folder))
    if options.json:
        say_json({"model": info.ref.source} | schema.dump(done) | {"bytes": done.size})
        return 0
    say(
        f"{info.title} for {options.to}: {done.size / 1e6:.2f} MB in {len(done.files)} files, {done.seconds:.1f} s"
    )
    say(f"written to {done.folder}")
    say(f"{done.weights} quantized weights read back: {words(done)}")
    for note in done.notes:
        say(f"Note: {note}")
    return 0


def _settings(options: argparse.Namespace, info: schema.ModelInfo, recipe: schema.Recipe) -> int:
    tool = DIALECTS[options.to]
    problems = tool.problems(info, recipe)
    if problems:
        reasons = " ".join(dict.fromkeys(problem.reason for problem in problems))
        raise ExportError(
            f"{tool.target.title} cannot be told this recipe: {reasons}", "Make one with --target."
        )
    file = Path(options.out)
    write_text(file, tool.text(info, recipe))
    if options.json:
        say_json({"model": info.ref.source, "runtime": options.to, "file": str(file)})
    else:
        say(f"settings for {tool.target.title} written to {file}")
    return 0


def words(done: schema.Exported) -> str:
    """How what was read back compares with what was simulated."""
    if done.exact == done.weights:
        return "every value as simulated"
    return f"{done.exact} exactly as simulated, the others to within {done.error:.2g} of their size"
