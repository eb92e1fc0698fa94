"""A recipe from a solution: everything a reader needs to apply it and to trust it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from quant_core.errors import RecipeError
from quant_core.names import read_name, unknown_weight
from quant_core.recipes.parameters import format_parameters
from quant_core.schema import (
    ORIGINAL,
    Budget,
    Evaluation,
    FamilyInfo,
    ModelInfo,
    Recipe,
    RecipeEntry,
    ScoreTable,
    Setup,
    Solution,
    Terms,
)

VERSION = 1
"""Of the recipe's shape; rises when a reader of the old shape would misread the new one."""

LIBRARIES = ("torch", "transformers", "bitsandbytes", "scipy")


def make_recipe(
    info: ModelInfo,
    table: ScoreTable,
    solution: Solution,
    families: Mapping[str, FamilyInfo],
    budget: Budget | None = None,
    pins: Mapping[str, str] | None = None,
    measured: Evaluation | None = None,
    setup: Setup | None = None,
    terms: Terms | None = None,
) -> Recipe:
    """A solution as a recipe that lists every weight of the model, undecided ones as ``original``.

    Args:
        info: The model.
        table: The scores that the solution was made from.
        solution: Formats and figures.
        families: The known families of number formats.
        budget: What was asked for, if anything.
        pins: Which units were not free, by name or pattern.
        measured: The recipe measured against the original, if it was.
        setup: What is done beside the weights' formats; nothing by default.
        terms: What it had to meet beside budget and pins; nothing by default.

    Raises:
        RecipeError: The solution names a weight or a format that the model or the table lacks.
    """
    sizes = {
        (unit, form): bits
        for unit, row in zip(table.units, table.storage_bits, strict=True)
        for form, bits in zip(table.formats, row, strict=True)
    }
    entries: dict[str, RecipeEntry] = {}
    for unit in info.units:
        form = solution.assignment.get(unit.name, ORIGINAL)
        stored = unit.parameters * unit.bits if form == ORIGINAL else sizes.get((unit.name, form))
        if stored is None:
            raise RecipeError(f"{unit.name} has no size in {form!r}.", "Analyse the model with that format.")
        parameters = format_parameters(read_name(form), families, unit.bits)
        entries[unit.name] = RecipeEntry(form, parameters, stored / unit.parameters)
    for name in solution.assignment:
        if name not in entries:
            error = unknown_weight(name, entries)
            raise RecipeError(error.message, error.hint)
    return Recipe(
        version=VERSION,
        model=public_name(info.ref.source) or info.title,
        revision=info.ref.revision,
        fingerprint=info.fingerprint,
        units=entries,
        average_bits=solution.average_bits,
        total_bytes=solution.total_bytes,
        original_bytes=info.original_bits / 8,
        predicted_kl=solution.predicted_kl,
        predicted_stderr=solution.predicted_stderr,
        calibration=table.text_label,
        calibration_hash=table.text_hash,
        seed=table.seed,
        budget=budget,
        pins=dict(pins or {}),
        measured=measured,
        libraries=library_versions(),
        setup=without_text(setup or Setup()),
        terms=terms or Terms(),
    )


def without_text(setup: Setup) -> Setup:
    """A setup whose calibration text is named but not held, where it is the user's own: recipes are handed on."""
    text = setup.calibration.text
    if text.kind != "inline":
        return setup
    return replace(setup, calibration=replace(setup.calibration, text=replace(text, value="")))


def public_name(source: str) -> str:
    """A model's source without the folders it lies in: ``bundled`` and hub ids stay, a path leaves its last part.

    Empty if nothing is left (``.``, ``/``).
    """
    if re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source):
        return source
    return re.split(r"[\\/]", source.rstrip("\\/"))[-1].strip(".~")


def library_versions() -> dict[str, str]:
    """Versions of QuantLens and of the libraries whose arithmetic a recipe rests on, as far as they are installed.

    Nothing is imported. Run from a checkout, QuantLens' version is its ``pyproject.toml``'s.
    """
    found = {}
    for name in ("quantlens", *LIBRARIES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    project = Path(__file__).parents[2] / "pyproject.toml"
    if "quantlens" not in found and project.is_file():
        version = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("version", "")
        found = {"quantlens": str(version), **found}
    return found
