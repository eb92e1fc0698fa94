"""A recipe's file: JSON or YAML out, and back in only if it is whole, of this model, and agrees with itself.

Files come from other people, other versions, and text editors. Whatever is wrong with one is said in a
sentence that names the place, and nothing is guessed, completed or ignored. YAML is read without tags, aliases
and repeated keys.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

import yaml

from quant_core import schema
from quant_core.errors import FormatError, RecipeError
from quant_core.names import parse_format, unknown_weight
from quant_core.recipes.make import VERSION
from quant_core.recipes.parameters import format_parameters
from quant_core.registry import unknown_name
from quant_core.schema import FamilyInfo, FormatSpec, MethodInfo, ModelInfo, Recipe, Unit

LATER = ("terms",)
"""Fields that files of version 1 did not have from the start: a file without one has its default."""
DEPTH = 10
"""Levels of nesting that a recipe stays well below."""
EDIT = "Open the recipe as it was saved and edit it on the Recipe page, or solve for a new one."


def to_text(recipe: Recipe, kind: Literal["json", "yaml"]) -> str:
    """The recipe's file, its figures first and its units last; floats come back exactly from both kinds."""
    data = schema.dump(recipe)
    data["units"] = data.pop("units")
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if kind == "json":
        return text
    # PyYAML writes these line breaks of Unicode's as they are, and does not read them back; then all is escaped.
    readable = not any(character in text for character in "\x85\u2028\u2029\ufeff")
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=readable, default_flow_style=None, width=110)


def from_text(
    text: str,
    info: ModelInfo,
    families: Mapping[str, FamilyInfo],
    methods: Mapping[str, MethodInfo],
    rewritten: Callable[[ModelInfo, Sequence[str]], ModelInfo] = lambda info, _: info,
) -> Recipe:
    """The recipe in a file's text, JSON or YAML.

    Args:
        text: The file.
        info: The model that is open, which the recipe must have been made for.
        families: The known families of number formats.
        methods: The known rounding methods.
        rewritten: Gives the model as the transforms of a setup leave it.

    Raises:
        RecipeError: The file is malformed, of another version or model, or contradicts itself.
    """
    return from_data(parse(text), info, families, methods, rewritten)


def from_data(
    data: dict[str, Any],
    info: ModelInfo,
    families: Mapping[str, FamilyInfo],
    methods: Mapping[str, MethodInfo],
    rewritten: Callable[[ModelInfo, Sequence[str]], ModelInfo] = lambda info, _: info,
) -> Recipe:
    """The recipe in what ``parse`` gave; as ``from_text``."""
    _check_fields(data)
    _check_model(data, info)
    try:
        recipe = schema.load(Recipe, data)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition(": ")[2].split("; ")[0].replace(" @ $.", " at ")
        raise RecipeError(f"The recipe does not hold together: {reason}.", EDIT) from error
    odd = _difference(data, schema.dump(recipe), "")
    if odd:
        raise RecipeError(f"The recipe's field {odd!r} has a value of the wrong kind.", EDIT)
    info = rewritten(info, recipe.setup.transforms)
    _check_units(recipe, info, families, methods)
    _check_sizes(recipe, info)
    return recipe


def parse(text: str) -> dict[str, Any]:
    """The top-level mapping of a JSON or YAML file, with JSON values only; ``RecipeError`` if there is none."""
    try:
        data = _json(text) if text.lstrip("\ufeff \t\r\n").startswith("{") else _yaml(text)
    except json.JSONDecodeError as error:
        raise RecipeError(f"Line {error.lineno} is no valid JSON: {error.msg}.", EDIT) from error
    except yaml.MarkedYAMLError as error:
        place = f"Line {error.problem_mark.line + 1}" if error.problem_mark else "The file"
        raise RecipeError(f"{place} is no valid YAML: {error.problem}.", EDIT) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(
            "The file is neither JSON nor YAML.", "Choose a recipe saved by QuantLens."
        ) from error
    if not isinstance(data, dict):
        raise RecipeError("The file is no QuantLens recipe.", "Choose a recipe saved by QuantLens.")
    return data


def _json(text: str) -> object:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        seen: dict[str, object] = {}
        for key, value in pairs:
            if key in seen:
                raise RecipeError(f"The recipe names {key!r} twice.", EDIT)
            seen[key] = value
        return seen

    return json.loads(text.lstrip("\ufeff"), object_pairs_hook=unique)


def _yaml(text: str) -> object:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    for event in yaml.parse(text, Loader=loader):  # flat, unlike composing, which a deep file would crash
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise RecipeError("The file is no QuantLens recipe.", "Choose a recipe saved by QuantLens.")
        if isinstance(event, yaml.AliasEvent):  # a few lines of them can stand for gigabytes
            raise RecipeError("The recipe uses YAML aliases, which recipes never do.", EDIT)
    node = yaml.compose(text, Loader=loader)
    if node is None:
        return None
    _refuse_repeats(node)
    return yaml.constructor.SafeConstructor().construct_document(node)


def _refuse_repeats(node: yaml.Node) -> None:
    """Raise ``RecipeError`` for a key that is there twice, of which YAML would keep the last."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeats(item)
    elif isinstance(node, yaml.MappingNode):
        names: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in names:
                raise RecipeError(f"The recipe names {name!r} twice.", EDIT)
            names.add(name)
            _refuse_repeats(value)


def _check_fields(data: dict[str, Any]) -> None:
    """Version, missing and unknown fields of the top level."""
    known = [item.name for item in fields(Recipe)]
    if "fingerprint" not in data and "units" not in data:
        raise RecipeError("The file is no QuantLens recipe.", "Choose a recipe saved by QuantLens.")
    if "version" in data and (type(data["version"]) is not int or data["version"] != VERSION):
        raise RecipeError(
            f"The recipe has version {data['version']!r}, and this QuantLens reads version {VERSION}.",
            "Open it with the QuantLens that wrote it, or solve for a new one.",
        )
    missing = [name for name in known if name not in data and name not in LATER]
    if missing:
        raise RecipeError(f"The recipe lacks {_listed(missing)}.", EDIT)
    for name in data:
        if name not in known:
            error = unknown_name("recipe field", str(name), known)
            raise RecipeError(error.message, error.hint)


def _check_model(data: dict[str, Any], info: ModelInfo) -> None:
    """Whether the recipe was made for the open model."""
    if data["fingerprint"] != info.fingerprint:
        revision = f" at {data['revision']}" if data["revision"] else ""
        raise RecipeError(
            f"This recipe was made for {data['model']}{revision} (fingerprint {str(data['fingerprint'])[:8]}), "
            f"and {info.title} ({info.fingerprint[:8]}) is open.",
            "Open that model, or solve for a new recipe.",
        )


def _check_units(
    recipe: Recipe,
    info: ModelInfo,
    families: Mapping[str, FamilyInfo],
    methods: Mapping[str, MethodInfo],
) -> None:
    """Whether the recipe names each weight of the model once, with a known format spelled out as it is."""
    units = {unit.name: unit for unit in info.units}
    specs: dict[str, FormatSpec] = {}
    for name, entry in recipe.units.items():
        if name not in units:
            error = unknown_weight(name, units)
            raise RecipeError(error.message, error.hint)
        try:
            if entry.format not in specs:
                specs[entry.format] = parse_format(entry.format, families, methods=methods)
        except FormatError as error:
            raise RecipeError(f"{name}: {error.message}", error.hint) from error
        spec = specs[entry.format]
        if spec.name != entry.format:
            raise RecipeError(
                f"{name} has the format {entry.format!r}.", f"Write its full name, {spec.name!r}."
            )
        if dict(entry.parameters) != format_parameters(spec, families, units[name].bits):
            raise RecipeError(f"{name} has parameters that are not those of {entry.format!r}.", EDIT)
    missing = [name for name in units if name not in recipe.units]
    if missing:
        raise RecipeError(f"The recipe says nothing about {_listed(missing)}.", EDIT)


def _check_sizes(recipe: Recipe, info: ModelInfo) -> None:
    """Whether the sizes add up, which they do not after a hand has changed some of them."""
    bits = info.other_bits + sum(recipe.units[unit.name].bits * unit.parameters for unit in info.units)
    for name, said, true in (
        ("total_bytes", recipe.total_bytes, bits / 8),
        ("original_bytes", recipe.original_bytes, info.original_bits / 8),
    ):
        if not math.isclose(said, true, rel_tol=1e-9):
            raise RecipeError(f"The recipe's {name} is {said:.0f}, but its units add up to {true:.0f}.", EDIT)
    averages = [_average(recipe, [unit for unit in info.units if unit.decided]), _average(recipe, info.units)]
    if not any(math.isclose(recipe.average_bits, average, rel_tol=1e-9) for average in averages):
        raise RecipeError(
            f"The recipe's average_bits is {recipe.average_bits:g}, but its units average {averages[0]:.4g}.",
            EDIT,
        )
    for name, figure in (
        ("predicted_kl", recipe.predicted_kl),
        ("predicted_stderr", recipe.predicted_stderr),
    ):
        if figure is not None and figure < 0:
            raise RecipeError(f"The recipe's {name} is {figure:g}, which no divergence can be.", EDIT)


def _average(recipe: Recipe, units: Sequence[Unit]) -> float:
    """Stored bits a weight over ``units``: those of the blocks, or with embedding and head."""
    return sum(recipe.units[unit.name].bits * unit.parameters for unit in units) / sum(
        unit.parameters for unit in units
    )


def _difference(data: Any, read: Any, path: str) -> str:
    """The field whose value was read as something else (text as a number, a fraction cut off), empty if none."""
    if isinstance(data, dict) and isinstance(read, dict):
        for key, value in data.items():
            found = _difference(value, read.get(key), f"{path}.{key}" if path else str(key))
            if found:
                return found
        return ""
    numbers = (int, float)
    if type(data) in numbers and type(read) in numbers:
        return "" if data == read and (isinstance(data, int) or math.isfinite(data)) else path
    return "" if type(data) is type(read) and data == read else path


def _listed(names: list[str]) -> str:
    """Up to three names in quotes, and how many more."""
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
