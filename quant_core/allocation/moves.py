"""Edits by hand under a target and rules: what has to change along, and why an edit cannot be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from quant_core import targets
from quant_core.allocation.terms import why_not
from quant_core.errors import BudgetError
from quant_core.schema import ORIGINAL, ModelInfo, ScoreTable, Terms


def together(info: ModelInfo, table: ScoreTable, chosen: Iterable[str], terms: Terms) -> list[str]:
    """The chosen decided units, with all that share a format with one of them under the target."""
    groups, keys = _groups(info, table, terms)
    wanted = dict.fromkeys(keys[name] for name in chosen if name in keys)
    return [name for key in wanted for name in groups[key]]


def _groups(info: ModelInfo, table: ScoreTable, terms: Terms) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Decided units by what they share their format under, and that of every unit."""
    target = targets.find(terms.target)
    units = {unit.name: unit for unit in info.units}
    keys = {name: targets.shares(target, units[name]) or name for name in table.units}
    groups: dict[str, list[str]] = {}
    for name, key in keys.items():
        groups.setdefault(key, []).append(name)
    return groups, keys


def moved(info: ModelInfo, table: ScoreTable, changes: Mapping[str, str], terms: Terms) -> dict[str, str]:
    """The changes, with every unit that shares its format with a changed one changed along.

    Args:
        info: The model.
        table: Its scores.
        changes: Decided unit to full format name. Of two units that share a format the last one's counts.
        terms: Target and rules.

    Raises:
        BudgetError: The target cannot hold a unit in the format, or a rule forbids it; the message says why.
    """
    units = {unit.name: unit for unit in info.units}
    rows = {name: row for row, name in enumerate(table.units)}
    groups, keys = _groups(info, table, terms)
    formats = (*table.formats, ORIGINAL)
    found: dict[str, str] = {}
    for name, form in changes.items():
        if name not in rows:
            continue
        members = groups[keys[name]]
        if form in formats:
            chosen = [units[member] for member in members]
            stored = [[*table.storage_bits[rows[unit.name]], unit.parameters * unit.bits] for unit in chosen]
            reason = why_not(chosen, formats, np.array(stored, np.int64), form, terms)
            if reason:
                raise BudgetError(f"{name} cannot take {form}. {reason}")
        found.update(dict.fromkeys(members, form))
    return found
