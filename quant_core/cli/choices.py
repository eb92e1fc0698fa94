"""Multiple choice from the command line."""

from __future__ import annotations

import argparse

from quant_core import schema
from quant_core.cli.terminal import say, say_json, say_table, warn
from quant_core.cli.work import UsageError, chosen_setup, open_model, read_file, read_recipe, run
from quant_core.errors import TextError
from quant_core.question_files import read_questions
from quant_core.significance import Paired, paired
from quant_core.workspace import Workspace


def multiple_choice(workspace: Workspace, options: argparse.Namespace) -> int:
    """Score the questions of a file with the original and a recipe."""
    if options.text or options.out:
        raise UsageError("--choices scores questions: leave --text and --out out")
    brought = read_questions(read_file(options.choices, TextError, "file of questions"))
    if brought.left_out:
        warn(brought.left_out)
    info = open_model(workspace, options)
    recipe = read_recipe(workspace, options.recipe, info)
    request = schema.ChoicesRequest(
        info.ref,
        info.fingerprint,
        brought.questions,
        recipe.assignment(),
        chosen_setup(workspace, options, recipe.setup),
    )
    scored: schema.ChoiceScores = run(workspace, request)
    found = {
        name: paired(brought.questions, scored.original, scored.recipe, per_byte)
        for name, per_byte in (("acc", False), ("acc_norm", True))
    }
    if options.json:
        say_json(
            {"model": info.ref.source, "fingerprint": info.fingerprint, "questions": len(brought.questions)}
            | {name: _as_json(pair) for name, pair in found.items()}
            | {"left_out": brought.left_out, "cut": scored.cut, "notes": scored.notes}
        )
        return 0
    say(f"{info.title} on {len(brought.questions):,} questions of {options.choices.name}")
    rows = [
        (name, _share(pair.original.share, pair.original.interval), _share(pair.recipe.share, pair.recipe.interval),
         f"{pair.lost}", f"{pair.won}", f"{pair.p:.2g}")
        for name, pair in found.items()
    ]  # fmt: skip
    say_table(("", "original (95 %)", "recipe (95 %)", "lost", "won", "p (McNemar)"), rows)
    say("acc: the likeliest choice; acc_norm: the likeliest per byte")
    if scored.cut:
        say(f"{scored.cut:,} questions were too long for the model and lost their beginning")
    for note in scored.notes:
        say(f"note: {note}")
    return 0


def _share(share: float, interval: tuple[float, float]) -> str:
    return f"{share:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"


def _as_json(pair: Paired) -> dict[str, object]:
    return {
        "original": pair.original.share,
        "original_interval": pair.original.interval,
        "recipe": pair.recipe.share,
        "recipe_interval": pair.recipe.interval,
        "lost": pair.lost,
        "won": pair.won,
        "p": pair.p,
    }
