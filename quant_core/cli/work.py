"""What several commands share: running a job with progress, opening, scoring, and files that may be bad."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quant_core import schema
from quant_core.cli.terminal import ProgressBar, warn
from quant_core.errors import FormatError, QuantError, RecipeError, TextError
from quant_core.names import method_options
from quant_core.registry import unknown_name
from quant_core.schema import (
    ORIGINAL,
    Job,
    ModelInfo,
    ModelRef,
    Recipe,
    ScoreTable,
    SensitivityRequest,
    TextSource,
)
from quant_core.workspace import Workspace

NONE = "none"
"""Takes back what a recipe says of its setup."""


class UsageError(Exception):
    """An argument that makes no sense, found after parsing."""


def run(workspace: Workspace, request: schema.Request, *, losses: bool = False) -> Any:
    """The answer to ``request``, with progress on standard error; an interrupt cancels the job.

    With ``losses``, what a training streams is written too.
    """
    bar = ProgressBar()
    job = workspace.submit(request)
    seen = -1

    def watch(now: Job) -> None:
        nonlocal seen
        if losses:
            fresh = workspace.losses(now.id, seen)
            seen += len(fresh)
            bar.note_losses(fresh)
        bar(now)

    try:
        return workspace.wait(job, watch if job.active else None)
    except KeyboardInterrupt:
        workspace.cancel(job.id)
        raise
    finally:
        bar.clear()


def open_model(workspace: Workspace, options: argparse.Namespace) -> ModelInfo:
    """What the model named on the command line is."""
    ref = ModelRef(options.model, options.revision, options.dtype, options.device)
    info: ModelInfo = run(workspace, workspace.inspect_request(ref))
    return info


def score_model(
    workspace: Workspace, options: argparse.Namespace, further: Sequence[str] = ()
) -> tuple[ModelInfo, ScoreTable, list[str]]:
    """The model, its scores, and the full names of the formats that were asked for, ``further`` ones left out."""
    names = [
        format_name(workspace, name, options.group) for name in options.formats.split(",") if name.strip()
    ]
    formats = [name for name in dict.fromkeys(names) if name != ORIGINAL]
    if not formats:
        raise UsageError("--formats names no format to quantize to")
    text = read_text(options.text, schema.CALIBRATION)
    transforms = chosen_setup(workspace, options, schema.Setup()).transforms
    info = workspace.rewritten(open_model(workspace, options), transforms)
    request = SensitivityRequest(
        model=info.ref,
        fingerprint=info.fingerprint,
        formats=tuple(dict.fromkeys([*formats, *(name for name in further if name != ORIGINAL)])),
        text=text,
        tokens=options.tokens,
        score=options.score,
        precision=options.precision,
        embeddings=options.include == "embeddings",
        seed=options.seed,
        setup=schema.Setup(transforms=transforms),
    )
    return info, run(workspace, request), formats


def chosen_setup(workspace: Workspace, options: argparse.Namespace, setup: schema.Setup) -> schema.Setup:
    """``setup`` with what the command line says otherwise; ``none`` takes a part away, ``UsageError`` if unknown."""
    catalog = workspace.catalog
    changes: dict[str, Any] = {}
    if options.transform:
        names = [name for name in options.transform if name != NONE]
        changes["transforms"] = tuple(_offered("transform", name, catalog.transforms) for name in names)
    if getattr(options, "activations", None):
        name = "" if options.activations == NONE else options.activations
        changes["activations"] = name and _offered("activation scheme", name, catalog.activations)
    if getattr(options, "kv_cache", None):
        name = "" if options.kv_cache == NONE else options.kv_cache
        changes["kv_cache"] = name and _offered("KV cache", name, catalog.kv_caches)
    if getattr(options, "trained", None):
        changes["trained"] = "" if options.trained == NONE else options.trained
    return schema.replace(setup, **changes)


def _offered(kind: str, text: str, offered: Sequence[schema.MethodInfo]) -> str:
    """``text`` if it names one of those offered, with options that it has."""
    known = {method.name: method for method in offered}
    name = text.split(":", maxsplit=1)[0]
    if name not in known:
        raise UsageError(
            str(unknown_name(kind, name, list(known))) if known else f"there is no {kind} to choose"
        )
    try:
        method_options(text, known[name])
    except FormatError as error:
        raise UsageError(str(error)) from error
    return text


def read_recipe(workspace: Workspace, file: Path, info: ModelInfo) -> Recipe:
    """The recipe in ``file``, QuantLens' own or another tool's, whose notes are written to standard error.

    ``RecipeError`` if it cannot be read or is not for this model.
    """
    found = workspace.import_recipe(read_file(file, RecipeError, "recipe"), info)
    if found.tool:
        warn(f"{file.name} holds settings for {found.tool}.")
    for note in found.notes:
        warn(note)
    return found.recipe


def write_recipe(workspace: Workspace, file: Path, recipe: Recipe) -> None:
    """Write ``recipe`` as YAML or JSON, by the ending of ``file``."""
    write_text(file, workspace.recipe_text(recipe, "yaml" if file.suffix in {".yaml", ".yml"} else "json"))


def read_text(text: str | None, bundled: TextSource) -> TextSource:
    """The text that ``--text`` asks for, or the bundled one; ``TextError`` if a file cannot be read."""
    if text is None:
        return bundled
    kind, _, value = text.partition(":")
    if kind == "self" and (not value or value.isdecimal()):
        return TextSource("self", label=text, seed=int(value or 0))
    if kind == "dataset" and value:
        return TextSource("dataset", value, value)
    return TextSource("inline", read_file(Path(text), TextError, "text file"), Path(text).name)


def read_file(file: Path, kind: type[QuantError], what: str) -> str:
    """A file's text; an error of ``kind`` that calls it ``what`` if there is none."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise kind(f"The {what} {str(file)!r} is not in UTF-8.", "Save it as UTF-8.") from error
    except OSError as error:
        raise kind(
            f"The {what} {str(file)!r} cannot be read: {error.strerror}.", "Check its name."
        ) from error
    if not text.strip():
        raise kind(f"The {what} {str(file)!r} is empty.", "Choose another file.")
    if "\0" in text:
        raise kind(f"The {what} {str(file)!r} holds zero bytes and is no plain text.", "Save it as UTF-8.")
    return text


def check_writable(file: Path | None) -> None:
    """Raise ``QuantError`` for a file that certainly cannot be written, before work is spent on it."""
    if file is not None and (not file.name or file.is_dir() or not file.absolute().parent.is_dir()):
        raise QuantError(
            f"{str(file)!r} cannot be written: its folder is missing, or it is one.", "Choose another."
        )


def write_text(file: Path, text: str) -> None:
    """Write a file whole: under another name first, so that a failure leaves the old one."""
    check_writable(file)
    part = file.with_name(f"{file.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise QuantError(
            f"{str(file)!r} cannot be written: {error.strerror}.", "Choose another place."
        ) from error


def format_name(workspace: Workspace, text: str, group: int) -> str:
    """The full name of the format that ``text`` names; ``UsageError`` if it names none."""
    try:
        return workspace.parse_format(text, group).name
    except FormatError as error:
        raise UsageError(str(error)) from error
