"""Whether a runtime can hold a recipe: what is in the way, and which weights it is about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

from quant_core.names import parse_format
from quant_core.schema import ORIGINAL, FamilyInfo, ModelInfo, Problem, Recipe, Unit
from quant_core.targets.base import Holds, Target
from quant_core.targets.rules import check, held, refusal, shares

EXPORTS = ("compressed-tensors", "gguf", "gptq", "awq", "mlx", "bitsandbytes", "torchao")
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
    told: dict[tuple[object, ...], str | None] = {}  # experts by the thousand are alike
    for name, form in forms.items():
        unit = units[name]
        tie = shares(target, unit)
        alike = (form, unit.kind, unit.rows, unit.columns, bool(tie))
        if alike not in told:
            told[alike] = check(target, unit, form)
        if reason := told[alike]:
            reasons[reason].append(name)
        if tie:
            shared[tie].append(name)
    for reason, names in reasons.items():
        yield Problem(reason, tuple(names))
    mixed = [name for names in shared.values() if len({forms[each] for each in names}) > 1 for name in names]
    if mixed:
        yield Problem(
            f"{target.title} computes them as one, and the recipe gives them different formats.", tuple(mixed)
        )
    if set(forms.values()) != {ORIGINAL}:
        for kind, reason in target.needs.items():
            kept = [name for name, form in forms.items() if form == ORIGINAL and units[name].kind == kind]
            if kept:
                yield Problem(reason, tuple(kept))
    # A weight's rounding method leaves no trace in a file.
    used = sorted({form.partition("@")[0] for form in forms.values() if form != ORIGINAL})
    if target.one_format and len(used) > 1:
        yield Problem(
            f"{target.title} takes one format for all quantized weights, and the recipe has {len(used)}."
        )


def suggested(target: Target, units: Collection[Unit], families: Mapping[str, FamilyInfo]) -> tuple[str, ...]:
    """Full names of formats to choose from for ``target``: of each family it holds, one that some unit takes.

    Groups have 64 values where those are held, and zero points where the runtime has both.
    """
    found = []
    for holds in target.holds or ():
        for family in holds.families:
            name = parse_format(f"{family}{_parts(holds)}", families).name
            if name not in found and held(target, units, [name]):
                found.append(name)
    return tuple(found)


def _parts(holds: Holds) -> str:
    parts = ""
    if "group" in holds.granularities:
        sizes = holds.group_sizes or (64,)
        parts += f"/g{64 if 64 in sizes else max(sizes)}"
    elif holds.granularities:
        parts += f"/{holds.granularities[0]}"
    if holds.symmetries:
        parts += f"/{'asym' if 'asym' in holds.symmetries else holds.symmetries[0]}"
    return parts
