"""The command that writes a report of a recipe, or the card for a hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from quant_core.cli.terminal import say, say_json
from quant_core.cli.work import UsageError, check_writable, open_model, read_recipe, write_text
from quant_core.report import card, compose, to_html, to_markdown
from quant_core.workspace import Workspace

ENDINGS = {".html": to_html, ".md": to_markdown}


def report(workspace: Workspace, options: argparse.Namespace) -> int:
    """Write what is stored of a recipe as one file; nothing is measured for it."""
    file: Path = options.out
    ending = file.suffix.lower()
    if options.card and ending != ".md":
        raise UsageError("--card writes Markdown: let --out end in .md")
    if ending not in ENDINGS:
        raise UsageError(f"--out {str(file)!r} ends in neither .html nor .md")
    check_writable(file)
    info = open_model(workspace, options)
    recipe = read_recipe(workspace, options.recipe, info)
    found = workspace.report(info, recipe, options.recipe.name)
    document = compose(found)
    write_text(file, card(found) if options.card else ENDINGS[ending](document))
    if options.json:
        say_json({"model": info.ref.source, "file": str(file), "runs": [run.key for run in found.runs]})
    else:
        say(document.answer)
        say(f"written to {file}, from {len(found.runs)} stored results")
        for sentence in document.unknown[:1]:
            say(sentence)
    return 0
