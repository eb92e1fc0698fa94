"""Whether a runtime can hold a recipe: what is in the way, and which weights it is about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from quant_core.schema import ORIGINAL, ModelInfo, Problem, Recipe
from quant_core.targets.base import Target
from quant_core.targets.rules import check, refusal, shares

EXPORTS = ("compressed-tensors", "gguf")
"""Targets that files can be written for (``quant_core.export`` has an exporter of each name; a test compares them)."""


def problems(target: Target, info: ModelInfo, recipe: Recipe) -> tuple[Problem, ...]:
    """Why ``target`` cannot hold a recipe as it is; empty if it can.

    Reasons are gathered: one problem names all weights that have it. What no file says (a rounded KV cache is the
    runtime's own setting) is in nobody's way.
    """
    return tuple(_problems(target, info, recipe))


def _problems(target: Target, info: ModelInfo, recipe: Recipe) -> Iterator[Problem]:
    refused = refusal(target, info)
    if refused:
        yield Problem(f"{refused[0].upper()}{refused[1:]}.")
        return
    if target.writes and info.architecture not in target.writes:
        yield Problem(f"{target.title} files are not written here for {info.architecture}.")
    if recipe.setup.activations:
        yield Problem(
            f"Its activations are rounded ({recipe.setup.activations}), and files hold weights alone."
        )
    units = {unit.name: unit for unit in info.units}
    forms = {name: entry.format for name, entry in recipe.units.items() if name in units}
    reasons = defaultdict(list)
    shared = defaultdict(list)
    for name, form in forms.items():
        if reason := check(target, units[name], form):
            reasons[reason].append(name)
        if tie := shares(target, units[name]):
            shared[tie].append(name)
    for reason, names in reasons.items():
        yield Problem(reason, tuple(names))
    mixed = [name for names in shared.values() if len({forms[each] for each in names}) > 1 for name in names]
    if mixed:
        yield Problem(
            f"{target.title} computes them as one, and the recipe gives them different formats.", tuple(mixed)
        )
    # A weight's rounding method leaves no trace in a file.
    used = sorted({form.partition("@")[0] for form in forms.values() if form != ORIGINAL})
    if target.one_format and len(used) > 1:
        yield Problem(
            f"{target.title} takes one format for all quantized weights, and the recipe has {len(used)}."
        )
