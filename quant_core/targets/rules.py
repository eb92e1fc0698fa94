"""What follows from a target's data: which formats a weight may take, and which weights share one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from quant_core.errors import BudgetError
from quant_core.names import read_name
from quant_core.registry import unknown_name
from quant_core.schema import ORIGINAL, FormatSpec, ModelInfo, Unit
from quant_core.targets.base import TARGETS, Holds, Target

_KINDS = {"conv1d": "Conv1D layers", "embedding": "embeddings", "head": "the head", "expert": "experts"}


def find(name: str) -> Target:
    """The target of a name; ``BudgetError`` with the nearest known name if there is none."""
    if name not in TARGETS:
        error = unknown_name("target runtime", name, TARGETS)
        raise BudgetError(error.message, error.hint)
    return TARGETS[name]


def check(target: Target, unit: Unit, form: str) -> str | None:
    """Why ``target`` cannot hold ``unit`` in the format of full name ``form``, as a sentence; None if it can.

    The original weights are held everywhere.
    """
    spec = read_name(form)
    if spec.family == ORIGINAL or target.holds is None:
        return None
    if unit.kind in target.stays:
        return f"{target.title} leaves {_KINDS[unit.kind]} in 16 bits: {target.stays[unit.kind]}."
    candidates = [holds for holds in target.holds if spec.family in holds.families]
    if not candidates:
        known = list(dict.fromkeys(family for holds in target.holds for family in holds.families))
        return f"{target.title} does not hold {spec.family}; it holds {_listed(known)}."
    nearest = [one for one in candidates if not one.granularities or spec.granularity in one.granularities]
    reasons = [_refusal(target, holds, unit, spec) for holds in nearest or candidates]
    return None if None in reasons else reasons[0]


def _refusal(target: Target, holds: Holds, unit: Unit, spec: FormatSpec) -> str | None:
    """Why these formats do not include ``spec`` for ``unit``; None if they do."""
    title, family = target.title, spec.family
    if unit.kind in holds.stays:
        return f"{title} does not hold {family} of {_KINDS[unit.kind]}: {holds.stays[unit.kind]}."
    if spec.keep:
        return f"{title} has no place for weights kept in 16 bits beside {family}."
    if holds.granularities and spec.granularity not in holds.granularities:
        return f"{title} holds {family} with a scale a {_listed(holds.granularities, 'or')}, not a {spec.granularity}."
    if spec.granularity == "group" and holds.group_sizes and spec.group_size not in holds.group_sizes:
        return (
            f"{title} holds {family} in groups of {_listed(holds.group_sizes, 'or')}, not {spec.group_size}."
        )
    if holds.symmetries and spec.symmetry not in holds.symmetries:
        return f"{title} holds {family} as {_listed(holds.symmetries, 'or')}, not {spec.symmetry}."
    if spec.double and not holds.double:
        return f"{title} does not hold quantized scales (dq)."
    if spec.granularity == "group" and target.whole_groups and unit.columns % spec.group_size:
        return (
            f"Groups of {spec.group_size} do not divide its rows of {unit.columns:,}, and {title} pads none."
        )
    if holds.multiple and unit.columns % holds.multiple:
        instead = holds.instead.get(family)
        told = f" {title} would take {instead} instead." if instead else ""
        return (
            f"{family} needs rows of a multiple of {holds.multiple}, and these have {unit.columns:,}.{told}"
        )
    if holds.rows and unit.rows % holds.rows:
        return f"{title} needs a multiple of {holds.rows} rows, and these are {unit.rows:,}."
    if holds.alone and unit.kind != "expert" and shares(target, unit):
        return f"{title} computes it as one with its neighbours, whose scales a tensor of {family} it would merge."
    return None


def refusal(target: Target, info: ModelInfo) -> str | None:
    """Why ``target`` does not run the model, as half a sentence; None if nothing is known against it."""
    return target.refuses.get(info.architecture)


def shares(target: Target, unit: Unit) -> str:
    """What a unit shares its format with under ``target``, as a name that all of them give; empty for nothing."""
    if unit.kind == "expert":
        if "routed" in target.ties:
            return "experts"
        if "experts" in target.ties:
            return unit.fused
        return unit.name.rpartition("[")[0] if "stacked" in target.ties else ""
    return unit.fused if "fused" in target.ties else ""


def held(target: Target, units: Iterable[Unit], forms: Sequence[str]) -> list[str]:
    """Which of the formats at least one of the units can take."""
    shapes = {(unit.kind, unit.columns, bool(shares(target, unit))): unit for unit in units}
    return [form for form in forms if any(check(target, unit, form) is None for unit in shapes.values())]


def summary(target: Target, info: ModelInfo, units: Collection[Unit], forms: Sequence[str]) -> str:
    """What the target rules out, in a line: ``compressed-tensors: 3 of 9 formats can be held; …``."""
    if target.holds is None:
        return ""
    able = held(target, units, forms)
    parts = [f"{len(able)} of {len(forms)} formats can be held"]
    if len(able) == len(forms):
        parts = ["every format can be held" if len(forms) > 1 else "the format can be held"]
    routed = any(unit.kind == "expert" for unit in units)
    fused = any(unit.fused and unit.kind != "expert" for unit in units)
    told = {
        "fused": "q/k/v and gate/up share one format" if fused else "",
        "routed": "all experts share one" if routed else "",
        "experts": "all experts of a block share one" if routed else "",
        "stacked": "all experts of a block share one for each of their weights" if routed else "",
    }
    parts += [text for tie, text in told.items() if text and tie in target.ties]
    if target.one_format:
        parts.append("all quantized layers share one format, the others stay in 16 bits")
    kinds = [kind for kind in target.stays if any(unit.kind == kind for unit in units)]
    parts += [f"{_KINDS[kind]} stay in 16 bits" for kind in kinds]
    if refused := refusal(target, info):
        parts.append(refused)
    return f"{target.title}: {'; '.join(parts)}."


def _listed(items: Iterable[object], last: str = "and") -> str:
    *rest, final = [str(item) for item in items]
    return f"{', '.join(rest)} {last} {final}" if rest else final
