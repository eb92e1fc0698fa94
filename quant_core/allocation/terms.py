"""What target, rules and pins leave to each unit, and which units are decided on as one.

All three are told by what they rule out. Each speaks for itself in the error where nothing is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant_core import targets
from quant_core.errors import BudgetError
from quant_core.names import unknown_weight
from quant_core.schema import Rule, Terms, Unit

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


class Open(NamedTuple):
    """What is left to choose from."""

    allowed: BoolArray
    """(rows, formats) whether every unit of the row may take the format."""
    rows: IntArray | None
    """(units,) each unit's row; None where each has its own."""


def matching(pattern: str, names: Sequence[str]) -> list[int]:
    """Which names match a pattern with ``*`` and ``?``; brackets are literal, as experts' names end in them."""
    literal = pattern.strip().replace("[", "[[]")
    return [index for index, name in enumerate(names) if fnmatchcase(name, literal)]


def rows_of(units: Sequence[Unit], terms: Terms) -> IntArray | None:
    """(units,) the row of each unit under the target, in order of their first units; None where each has its own."""
    target = targets.find(terms.target)
    if not target.ties:
        return None
    place: dict[str, int] = {}
    rows = [place.setdefault(targets.shares(target, unit) or unit.name, len(place)) for unit in units]
    return np.array(rows, np.int64) if len(place) < len(units) else None


def spread_pins(units: Sequence[Unit], pinned: Mapping[str, str], terms: Terms) -> dict[str, str]:
    """The pins with all that share a format with a pinned unit pinned too.

    Raises:
        BudgetError: Two that share a format are pinned to different ones.
    """
    target = targets.find(terms.target)
    if not pinned or not target.ties:
        return dict(pinned)
    first: dict[str, str] = {}
    for unit in units:
        if unit.name in pinned:
            one = first.setdefault(targets.shares(target, unit) or unit.name, unit.name)
            if pinned[one] != pinned[unit.name]:
                raise BudgetError(
                    f"{one} and {unit.name} share one format under {target.title}, and are pinned to {pinned[one]} "
                    f"and {pinned[unit.name]}.",
                    "Remove one of the pins, or choose another target.",
                )
    keys = {unit.name: targets.shares(target, unit) or unit.name for unit in units}
    return {name: pinned[first[key]] for name, key in keys.items() if key in first}


def left_open(
    units: Sequence[Unit],
    formats: Sequence[str],
    bits: IntArray,
    allowed: BoolArray,
    terms: Terms,
) -> Open:
    """What target and rules leave of ``allowed``, with units that share a format as one row.

    Args:
        units: The decided units.
        formats: Full format names.
        bits: (units, formats) stored bits.
        allowed: (units, formats) what selection and pins leave.
        terms: Target and rules.

    Raises:
        BudgetError: A rule matches no weight, or a unit is left without a format; it says by what.
    """
    rows = rows_of(units, terms)
    mine = allowed & by_target(units, formats, terms) & by_rules(units, formats, bits, terms.rules)
    merged = mine if rows is None else np.ones((int(rows.max()) + 1, len(formats)), bool)
    if rows is not None:
        np.logical_and.at(merged, rows, mine)
    empty = np.flatnonzero(~merged.any(axis=1))
    if len(empty):
        members = empty[:1] if rows is None else np.flatnonzero(rows == empty[0])
        raise _nothing_left(
            [units[index] for index in members], formats, bits[members], allowed[members], terms
        )
    return Open(merged, rows)


def by_target(units: Sequence[Unit], formats: Sequence[str], terms: Terms) -> BoolArray:
    """(units, formats) what the target can hold; units alike in kind and row are asked about once."""
    target = targets.find(terms.target)
    if target.holds is None:
        return np.ones((len(units), len(formats)), bool)
    known: dict[tuple[str, int, bool], list[bool]] = {}
    found = []
    for unit in units:
        key = (unit.kind, unit.columns, bool(unit.fused))
        if key not in known:
            known[key] = [targets.check(target, unit, name) is None for name in formats]
        found.append(known[key])
    return np.array(found, bool).reshape(len(units), len(formats))


def by_rules(
    units: Sequence[Unit], formats: Sequence[str], bits: IntArray, rules: Sequence[Rule]
) -> BoolArray:
    """(units, formats) what the rules allow; all rules that match a unit hold for it.

    Raises:
        BudgetError: A rule matches none of the units.
    """
    found = np.ones((len(units), len(formats)), bool)
    if not rules:
        return found
    names = [unit.name for unit in units]
    families = [family_of(name) for name in formats]
    for rule in rules:
        matched = matching(rule.pattern, names)
        if not matched:
            hint = unknown_weight(rule.pattern, names).hint
            raise BudgetError(
                f"The rule for {rule.pattern!r} matches no weight that is decided on.",
                f"{hint} * and ? stand for any text.",
            )
        if rule.least_bits:
            weights = np.array([units[index].parameters for index in matched])[:, None]
            found[matched] &= bits[matched] >= rule.least_bits * weights
        if rule.families:
            found[matched] &= np.array([family in rule.families for family in families])
    return found


def rule_text(rule: Rule) -> str:
    """A rule as it is shown: ``*.down_proj*: at least 4 bits, only int4, int8``."""
    parts = [f"at least {rule.least_bits:g} bits"] if rule.least_bits else []
    parts += [f"only {', '.join(rule.families)}"] if rule.families else []
    return f"{rule.pattern}: {', '.join(parts)}"


def family_of(name: str) -> str:
    """The family in a full format name."""
    return name.partition("@")[0].partition("/")[0]


def why_not(
    units: Sequence[Unit], formats: Sequence[str], bits: IntArray, form: str, terms: Terms
) -> str | None:
    """Why units that share a format cannot take one under the terms, as a sentence; None if they can.

    Args:
        units: The units.
        formats: Full format names.
        bits: (units, formats) stored bits.
        form: One of ``formats``.
        terms: Target and rules.
    """
    target, column = targets.find(terms.target), formats.index(form)
    for unit, size in zip(units, bits[:, column].tolist(), strict=True):
        if reason := targets.check(target, unit, form):
            return f"{unit.name}: {reason}"
        for rule in terms.rules:
            few = rule.least_bits and size < rule.least_bits * unit.parameters
            other = rule.families and family_of(form) not in rule.families
            if (few or other) and matching(rule.pattern, [unit.name]):
                return f"{unit.name}: the rule “{rule_text(rule)}” rules out {form}."
    return None


def _nothing_left(
    units: Sequence[Unit], formats: Sequence[str], bits: IntArray, allowed: BoolArray, terms: Terms
) -> BudgetError:
    """Why units that share a format have none left: the reason against the only one, or what rules leave none."""
    choices = np.flatnonzero(allowed.all(axis=0))
    if len(choices) == 1:
        form = formats[choices[0]]
        reason = why_not(units, formats, bits, form, terms)
        hint = "Remove the pin, or what stands against it."
        return BudgetError(f"{units[0].name} is pinned to {form}. {reason}", hint)
    rules = [rule_text(rule) for rule in terms.rules if matching(rule.pattern, [unit.name for unit in units])]
    under = "" if terms.target == "any" else f" under {targets.find(terms.target).title}"
    told = f"rule{'s' if len(rules) > 1 else ''} “{'” and “'.join(rules)}”"
    return BudgetError(
        f"No format is left for {units[0].name}{under} by the {told}.",
        "Loosen a rule, or score further formats.",
    )
