"""What can be typed: one parser a command, made of shared parts, and the kinds of numbers they take."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quant_core.cli import (
    checking,
    commands,
    exporting,
    importing,
    listing,
    measuring,
    reporting,
    runs,
    timing,
    weights,
)
from quant_core.recipes.foreign import DIALECTS
from quant_core.reproduction import TOLERANCE
from quant_core.runtimes import RUNTIMES
from quant_core.schema import ProveRequest
from quant_core.served import LIMIT
from quant_core.targets import EXPORTS, TARGETS
from quant_core.targets.hardware import machines
from quant_core.workspace import DEFAULT_FORMATS

FORMATS = ",".join(DEFAULT_FORMATS)
TEXT_HELP = (
    "own text instead of the bundled one: a file, 'self' or 'self:SEED' for text the model writes, or "
    "'dataset:NAME[:CONFIG[:SPLIT[:COLUMN]]]'"
)


def parser() -> argparse.ArgumentParser:
    """All commands with their arguments; ``options.command`` is the function to call."""
    whole = argparse.ArgumentParser(
        prog="python -m quant_core",
        description="Choose how to quantize a language model, from the command line.",
    )
    added = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    everywhere, model, scores, setup = _everywhere(), _model(), _scores(), _setup()
    held_out, source = _held_out(), _source()

    def add(name: str, command: Callable[..., int], help: str, *parts: argparse.ArgumentParser) -> Any:
        made = added.add_parser(name, help=help, description=help, parents=[everywhere, *parts])
        made.set_defaults(command=command)
        return made

    add("models", commands.models, "List the models at hand.")
    add("formats", listing.formats, "List the number formats and the methods, with where they come from.")
    add("weights", weights.weights, "Read statistics of all weights from the checkpoint's files.", source)
    sensitivity = add(
        "sensitivity", commands.sensitivity, "Score every weight in every format.", model, scores
    )
    _add_transform(sensitivity)

    recipe = add(
        "recipe",
        commands.recipe,
        "Find the best mixed-precision recipe within a budget.",
        model,
        scores,
        setup,
        held_out,
    )
    _add_limits(recipe)
    recipe.add_argument(
        "--prove",
        nargs="?",
        type=_count,
        const=measuring.COUNT,
        default=0,
        metavar="N",
        help="measure the N best recipes by prediction, and recipes by rule that keep to the limits, on the same "
        f"held-out text; the measured best is the answer (N: {measuring.COUNT} unless given)",
    )
    recipe.add_argument(
        "--pin",
        action="append",
        default=[],
        metavar="PATTERN=FORMAT",
        help="format for the weights whose name matches (* and ? stand for any text); may be given again",
    )
    recipe.add_argument(
        "--out", type=Path, metavar="FILE", help="write the recipe here (.json, .yaml or .yml)"
    )

    recipe.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="make it of this file instead, which holds settings for llm-compressor (YAML), GPTQModel "
        "(quantize_config.json) or llama-quantize (a command, its options, or a --tensor-type-file)",
    )

    calibrate = add(
        "calibrate",
        measuring.calibrate,
        "Measure a few mixed recipes, so that 'recipe' with the same choices predicts with a tested interval.",
        model,
        scores,
        setup,
        held_out,
    )
    calibrate.description += (
        " What was measured is kept: every recipe from the same scores, setup and held-out text is then predicted with "
        "an interval that holds 95 of 100 measurements on that text."
    )

    evaluate = add("evaluate", commands.evaluate, "Measure a recipe against the original.", model, setup)
    evaluate.add_argument("--recipe", type=Path, required=True, metavar="FILE", help="recipe to measure")
    evaluate.add_argument("--text", metavar="FILE", help=TEXT_HELP)
    evaluate.add_argument(
        "--tokens", type=_count, default=4096, help="how many to measure on (default: 4096)"
    )
    evaluate.add_argument(
        "--choices",
        type=Path,
        metavar="FILE",
        help="multiple-choice questions as JSON lines to score instead of text: "
        '{"question": ..., "choices": [...], "answer": 0}',
    )
    evaluate.add_argument(
        "--out", type=Path, metavar="FILE", help="write the recipe with its measured figures here"
    )

    export = add(
        "export", exporting.export, "Write a quantized model for a runtime, and read it back.", model
    )
    export.add_argument("--recipe", type=Path, required=True, metavar="FILE", help="recipe to write")
    export.add_argument("--to", required=True, choices=(*EXPORTS, *DIALECTS), help="what is to read it")
    export.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="folder to make; for a tool that quantizes by itself, the file",
    )

    speed = add("speed", timing.speed, "Time a recipe's file and the original's in a runtime.", model)
    speed.add_argument("--recipe", type=Path, required=True, metavar="FILE", help="recipe to run")
    speed.add_argument(
        "--in",
        dest="runtime",
        default="llama.cpp",
        choices=list(RUNTIMES),
        help="what runs it; default llama.cpp",
    )
    speed.add_argument(
        "--take",
        type=int,
        default=1,
        metavar="N",
        help="another number measures again instead of looking it up",
    )
    bring_in = add(
        "import",
        importing.bring_in,
        "Say what a quantized checkpoint of another program holds, and how far it is from its original.",
    )
    bring_in.add_argument(
        "path",
        metavar="PATH",
        help="folder (GPTQ, AWQ, compressed-tensors, FP8, bitsandbytes) or .gguf file",
    )
    bring_in.add_argument(
        "--against",
        metavar="MODEL",
        default="",
        help="the original: bundled, a folder, or a hub id (default: none)",
    )
    bring_in.add_argument("--revision", default="", help="branch, tag or commit of a hub model")

    report = add(
        "report", reporting.report, "Write what is stored of a recipe as a report or a model card.", model
    )
    report.add_argument("--recipe", type=Path, required=True, metavar="FILE", help="recipe to report of")
    report.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the file to write (.html or .md)"
    )
    report.add_argument("--card", action="store_true", help="write a model card for a hub (README.md)")

    train = add(
        "train", commands.train, "Fine-tune quantized weights to stay near the original.", model, setup
    )
    what = train.add_mutually_exclusive_group(required=True)
    what.add_argument("--recipe", type=Path, metavar="FILE", help="recipe whose weights are trained")
    what.add_argument("--format", metavar="FORMAT", help="train all decided weights in this format")
    train.add_argument("--group", type=_count, default=64, help="values that share a scale (default: 64)")
    train.add_argument(
        "--seconds", type=_not_negative, default=300.0, help="time for its steps, 0: no limit (default: 300)"
    )
    train.add_argument("--steps", type=_count, default=0, help="how many at most (default: no limit)")
    train.add_argument("--lora", type=_count, metavar="RANK", help="train an update of this rank alone")
    train.add_argument("--batch", type=_count, default=4, help="sequences a step (default: 4)")
    train.add_argument("--rate", type=_positive, help="learning rate, in parts of a weight's step")
    train.add_argument("--step-rate", type=_not_negative, help="of step sizes, in parts of themselves")
    train.add_argument("--tokens", type=_count, default=65536, help="of the text (default: 65536)")
    train.add_argument("--sequence", type=_count, default=128, help="tokens a sequence (default: 128)")
    train.add_argument("--text", metavar="FILE", help=f"{TEXT_HELP} (default: self)")
    train.add_argument("--seed", type=_seed, default=0, help="of the order of sequences (default: 0)")

    generate = add(
        "generate", commands.generate, "Write from a prompt with the original and a recipe.", model, setup
    )
    generate.add_argument("--prompt", required=True, help="text to continue")
    generate.add_argument("--recipe", type=Path, metavar="FILE", help="recipe to compare with the original")
    generate.add_argument("--other", type=Path, metavar="FILE", help="a further recipe to compare")
    generate.add_argument("--seed", type=_seed, default=0, help="seed of the draws (default: 0)")
    generate.add_argument("--tokens", type=_count, default=60, help="how many to write (default: 60)")
    generate.add_argument(
        "--temperature", type=_not_negative, default=0.8, help="0 for the likeliest (default: 0.8)"
    )
    generate.add_argument(
        "--top-p", type=_share, default=0.95, help="share of likely tokens kept (default: 0.95)"
    )
    generate.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        help="wrap the prompt in the model's chat template (default: where it has one)",
    )

    _add_check(
        added.add_parser(
            "check",
            help="Ask a server whether it still serves what was approved.",
            description="Ask an OpenAI-compatible server for its predictions on a text and compare them with a recipe, "
            "or with the original. The exit code is 0 within the limit, 3 above it, 1 where it could not be measured.",
            parents=[everywhere],
        )
    )
    _add_runs(
        add("runs", runs.listing, "List what was scored, measured, written and trained, or hand it on.")
    )

    reproduce = add(
        "reproduce", runs.reproduce, "Work a stored result out anew and compare, figure by figure."
    )
    reproduce.description += " The exit code is 1 where a figure differs by more than the tolerance."
    reproduce.add_argument(
        "run", metavar="RUN", help="a run's id or its first digits, or a file of runs (.zip)"
    )
    reproduce.add_argument("--model", default="", metavar="MODEL", help="where its model is, if it was moved")
    reproduce.add_argument(
        "--tolerance",
        type=_share,
        default=TOLERANCE,
        metavar="SHARE",
        help=f"of a figure by which it may differ (default: {TOLERANCE})",
    )

    catalog = add("catalog", commands.catalog, "Write quant_core/catalog.json anew from the registries.")
    catalog.add_argument("--check", action="store_true", help="write nothing; exit with 1 if it would change")
    return whole


def _add_check(check: argparse.ArgumentParser) -> None:
    """Which server is compared with what, how often, and up to where it counts as the same."""
    check.set_defaults(command=checking.check)
    check.add_argument("endpoint", metavar="ENDPOINT", help="its address: http://127.0.0.1:8080/v1")
    check.add_argument(
        "--model", required=True, help="what it is compared with: bundled, a folder, or a hub id"
    )
    check.add_argument("--revision", default="", help="of a hub model")
    check.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    check.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    check.add_argument("--recipe", type=Path, metavar="FILE", help="approved recipe (default: the original)")
    check.add_argument(
        "--served", default="", metavar="NAME", help="what the server calls its model (default: its only one)"
    )
    check.add_argument(
        "--key-variable",
        default="",
        metavar="NAME",
        help="environment variable that holds its key: OPENAI_API_KEY",
    )
    check.add_argument(
        "--limit",
        type=_positive,
        default=LIMIT,
        metavar="NATS",
        help=f"largest mean KL a token that counts as the same (default: {LIMIT})",
    )
    check.add_argument(
        "--every",
        type=_period,
        default=0.0,
        metavar="TIME",
        help="again and again: 30m, 1h, 1d (default: once)",
    )
    check.add_argument(
        "--k", type=_count, default=20, help="tokens it is asked to name a place (default: 20)"
    )
    check.add_argument("--text", metavar="FILE", help=TEXT_HELP)
    check.add_argument("--tokens", type=_count, default=1024, help="of the text (default: 1024)")


def _period(text: str) -> float:
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    number, unit = text[:-1], text[-1:]
    if not (number.isdecimal() and int(number) and unit in units):
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 30m, 1h or 1d")
    return int(number) * units[unit]


def _add_runs(listing: argparse.ArgumentParser) -> None:
    """What else can be done with runs than to list them."""
    added = listing.add_subparsers(title="instead of listing", metavar="ACTION")
    everywhere = _everywhere(argparse.SUPPRESS)  # what stands before the action holds
    export = added.add_parser("export", help="Write runs as one zip file.", parents=[everywhere])
    export.add_argument("run", nargs="+", metavar="ID", help="a run's id, or its first digits")
    export.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write (.zip)")
    export.set_defaults(command=runs.export)
    bring_in = added.add_parser("import", help="Store the runs of such a file.", parents=[everywhere])
    bring_in.add_argument("file", type=Path, metavar="FILE", help="the file to read")
    bring_in.set_defaults(command=runs.bring_in)


def _everywhere(unsaid: str = "") -> argparse.ArgumentParser:
    """``unsaid`` replaces the defaults, if given."""
    part = argparse.ArgumentParser(add_help=False)
    part.add_argument(
        "--json", action="store_true", default=unsaid or False, help="answer with one JSON object"
    )
    part.add_argument(
        "--home",
        type=Path,
        default=unsaid or None,
        help="folder of results and jobs (default: $QUANTLENS_HOME or a cache folder)",
    )
    part.add_argument("--jobs", default=unsaid, help=argparse.SUPPRESS)
    return part


def _source() -> argparse.ArgumentParser:
    part = argparse.ArgumentParser(add_help=False)
    part.add_argument("model", metavar="MODEL", help="bundled, a folder, or a hub id")
    part.add_argument("--revision", default="", help="branch, tag or commit of a hub model")
    return part


def _model() -> argparse.ArgumentParser:
    part = argparse.ArgumentParser(add_help=False, parents=[_source()])
    part.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"), help="to compute in"
    )
    part.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="to compute on"
    )
    return part


def _scores() -> argparse.ArgumentParser:
    part = argparse.ArgumentParser(add_help=False)
    part.add_argument(
        "--formats",
        default=FORMATS,
        help="candidates, separated by commas, with @METHOD for another rounding than to "
        f"nearest (int4@gptq); the command 'formats' lists both (default: {FORMATS})",
    )
    part.add_argument("--group", type=_count, default=64, help="values that share a scale (default: 64)")
    part.add_argument("--tokens", type=_count, default=8192, help="how many to calibrate on (default: 8192)")
    part.add_argument("--score", default="fisher", choices=("fisher", "measured", "weight", "output"))
    part.add_argument(
        "--precision",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="read the text again, with fresh labels, until Fisher scores are known to within this share "
        "(0.05), 8 times at most (default: read it once)",
    )
    part.add_argument("--text", metavar="FILE", help=TEXT_HELP)
    part.add_argument("--include", choices=("embeddings",), help="decide on embedding and head too")
    part.add_argument("--seed", type=_seed, default=0, help="seed of sampled labels (default: 0)")
    return part


def _setup() -> argparse.ArgumentParser:
    part = argparse.ArgumentParser(add_help=False)
    _add_transform(part)
    part.add_argument(
        "--activations", metavar="SCHEME", help="how the inputs of quantized layers are rounded"
    )
    part.add_argument("--kv-cache", metavar="SCHEME", help="how keys and values are rounded")
    part.add_argument("--trained", metavar="KEY", help="take the weights of the training with this key")
    return part


def _held_out() -> argparse.ArgumentParser:
    part = argparse.ArgumentParser(add_help=False)
    part.add_argument(
        "--held-out",
        metavar="FILE",
        help="text that recipes are measured on: as for --text, else a bundled one",
    )
    part.add_argument(
        "--held-out-tokens",
        type=_count,
        default=ProveRequest.tokens,
        metavar="N",
        help=f"how many to measure on (default: {ProveRequest.tokens})",
    )
    return part


def _add_transform(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "--transform",
        action="append",
        metavar="NAME",
        help="rewrite the model before; may be given again, in order",
    )


def _add_limits(recipe: argparse.ArgumentParser) -> None:
    """What a recipe has to meet: at least one limit, all of which hold at once."""
    recipe.add_argument("--bits", type=_positive, help="average stored bits a decided weight")
    recipe.add_argument("--megabytes", type=_positive, help="size of all the model's weights, in 10^6 bytes")
    recipe.add_argument(
        "--memory",
        type=_positive,
        metavar="MB",
        help="weights, KV cache and activations while it writes, in 10^6 bytes",
    )
    recipe.add_argument(
        "--active", type=_positive, metavar="MB", help="weights read for a token, in 10^6 bytes"
    )
    recipe.add_argument(
        "--milliseconds",
        type=_positive,
        help="predicted time for a token on --hardware, by the roofline model",
    )
    recipe.add_argument("--context", type=_count, default=2048, help="tokens in the KV cache (default: 2048)")
    recipe.add_argument("--batch", type=_count, default=1, help="sequences at once (default: 1)")
    recipe.add_argument(
        "--hardware",
        default="",
        metavar="NAME",
        help=f"machine that time is predicted for: {', '.join(machines())}",
    )
    recipe.add_argument(
        "--target",
        default="any",
        metavar="NAME",
        help=f"runtime that has to hold the recipe: {', '.join(TARGETS)} (default: any)",
    )
    recipe.add_argument(
        "--never-below",
        action="append",
        default=[],
        metavar="PATTERN=BITS",
        help="fewest stored bits a weight for those whose name matches; may be given again",
    )
    recipe.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN=FAMILY,...",
        help="families of formats for the weights whose name matches ('original' is one); may be given again",
    )


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _positive(text: str) -> float:
    return _number(text, "above 0", lambda value: value > 0)


def _not_negative(text: str) -> float:
    return _number(text, "from 0 up", lambda value: value >= 0)


def _share(text: str) -> float:
    return _number(text, "above 0 and at most 1", lambda value: 0 < value <= 1)


def _number(text: str, range_: str, inside: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and inside(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number {range_}")
    return value
