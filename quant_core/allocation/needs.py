"""What a recipe needs and may need: each figure as a sum over its choices, with a limit.

Average bits, the size of all weights and memory are the stored bits times a factor plus what is fixed, so that of
several such limits the tightest one holds. Bytes read for a token and time for a token weigh units and formats in
other ways.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quant_core.allocation import usage
from quant_core.allocation.usage import Usage
from quant_core.errors import BudgetError
from quant_core.schema import ORIGINAL, Budget, ModelInfo, ScoreTable, Terms, Unit, Use
from quant_core.targets.hardware import machine

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

Kind = Literal["bits", "bytes", "memory", "active", "milliseconds"]


@dataclass(frozen=True, eq=False)
class Need:
    """A figure of a recipe, and the limit on it: ``fixed`` + ``factor`` x stored bits, or + the sum of ``use``."""

    kind: Kind
    limit: float
    """In the figure's own unit: bits a weight, bytes, or milliseconds."""
    fixed: float
    factor: float = 0.0
    use: FloatArray | None = None
    """(rows, formats) what each choice adds; None where stored bits tell."""

    def of(self, bits: IntArray, choice: IntArray) -> float:
        """The figure of a choice, (rows,) format indices, given (rows, formats) stored bits."""
        rows = np.arange(len(choice))
        if self.use is None:
            return self.fixed + self.factor * float(bits[rows, choice].sum())
        return self.fixed + float(self.use[rows, choice].sum())

    def least(self, bits: IntArray, allowed: NDArray[np.bool_]) -> float:
        """The smallest figure that any recipe has."""
        use = bits * self.factor if self.use is None else self.use
        return self.fixed + float(np.where(allowed, use, np.inf).min(axis=1).sum())


NAMES: dict[Kind, tuple[str, str, float]] = {
    "bits": ("bits a weight", "bits", 1.0),
    "bytes": ("size of all weights", "MB", 1e6),
    "memory": ("memory", "MB", 1e6),
    "active": ("bytes read a token", "MB", 1e6),
    "milliseconds": ("time a token", "ms", 1.0),
}
"""What a figure is called, the unit it is told in, and that unit in the figure's own."""


def told(kind: Kind, value: float) -> str:
    """A figure with its unit: ``4.31 bits``, ``9.20 MB``, ``0.0123 ms``."""
    _, unit, scale = NAMES[kind]
    shown = value / scale
    return f"{shown:.2f} {unit}" if shown >= 1 or shown <= 0 else f"{shown:.3g} {unit}"


def needs_of(
    info: ModelInfo,
    units: Sequence[Unit],
    formats: Sequence[str],
    bits: IntArray,
    weights: int,
    fixed_bits: int,
    terms: Terms,
) -> list[Need]:
    """The limits of ``terms`` on a problem whose units do not share rows yet.

    Args:
        info: The model.
        units: The decided units.
        formats: Full format names.
        bits: (units, formats) stored bits.
        weights: Number of decided weights.
        fixed_bits: Stored bits of all else.
        terms: Limits, and how the model is to run.

    Raises:
        BudgetError: A limit is no positive number, or time is limited without a machine.
    """
    limits, use = terms.limits, terms.use
    for value in (limits.bits, limits.bytes, limits.memory, limits.active, limits.milliseconds):
        if not (math.isfinite(value) and value >= 0):
            raise BudgetError(f"A limit of {value} makes no sense.", "Give a positive number, or 0 for none.")
    found = []
    if limits.bits:
        found.append(Need("bits", limits.bits, 0.0, factor=1 / weights))
    if limits.bytes:
        found.append(Need("bytes", limits.bytes, fixed_bits / 8, factor=1 / 8))
    if limits.memory:
        extra = usage.cache_bytes(info, use) + usage.activation_bytes(info, use)
        found.append(Need("memory", limits.memory, fixed_bits / 8 + extra, factor=1 / 8))
    if limits.active:
        read = usage.shares(info, units, use.batch)
        fixed = _fixed_active(info, units, use.batch)
        whole = bool((read == 1.0).all())
        found.append(
            Need("active", limits.active, fixed, factor=1 / 8)
            if whole
            else Need("active", limits.active, fixed, use=read[:, None] * bits / 8)
        )
    if limits.milliseconds:
        if not use.hardware:
            raise BudgetError("Time a token is limited, but no machine is named.", "Choose the hardware.")
        where = machine(use.hardware)
        seconds = usage.step_seconds(info, units, formats, bits, use, where)
        found.append(
            Need("milliseconds", limits.milliseconds, _fixed_time(info, units, terms), use=1e3 * seconds)
        )
    return found


def budget_need(budget: Budget, weights: int, fixed_bits: int) -> Need:
    """A budget in average bits or bytes as a need."""
    if budget.kind == "bits":
        return Need("bits", budget.value, 0.0, factor=1 / weights)
    return Need("bytes", budget.value, fixed_bits / 8, factor=1 / 8)


def usage_of(info: ModelInfo, table: ScoreTable, assignment: Mapping[str, str], terms: Terms) -> Usage:
    """What a recipe takes while the model runs.

    Args:
        info: The model.
        table: Sizes of the decided units in the scored formats.
        assignment: Unit to full format name; one that is not named, or has no size in its format, stays as it is.
        terms: How the model is to run.
    """
    row = {unit: index for index, unit in enumerate(table.units)}
    column = {form: index for index, form in enumerate(table.formats)}
    forms = {unit: form for unit, form in assignment.items() if unit in row and form in column}
    bits = {unit: table.storage_bits[row[unit]][column[form]] for unit, form in forms.items()}
    return usage_with(info, forms, bits, terms.use)


def usage_with(info: ModelInfo, forms: Mapping[str, str], stored: Mapping[str, int], use: Use) -> Usage:
    """As ``usage_of``, with the stored bits of every unit that does not stay as it is."""
    bits = np.array([stored.get(unit.name, unit.parameters * unit.bits) for unit in info.units], np.int64)
    read = usage.shares(info, info.units, use.batch)
    milliseconds = None
    if use.hardware:
        where = machine(use.hardware)
        seconds = usage.other_seconds(info, use, where)
        by_form: dict[str, list[int]] = {}
        for index, unit in enumerate(info.units):
            by_form.setdefault(forms.get(unit.name, ORIGINAL), []).append(index)
        for form, members in by_form.items():
            units = [info.units[index] for index in members]
            seconds += float(
                usage.step_seconds(info, units, [form], bits[members][:, None], use, where).sum()
            )
        milliseconds = 1e3 * seconds
    return Usage(
        weights=(info.other_bits + float(bits.sum())) / 8,
        cache=usage.cache_bytes(info, use),
        activations=usage.activation_bytes(info, use),
        active=(info.other_bits + float((read * bits).sum())) / 8,
        milliseconds=milliseconds,
    )


def _undecided(info: ModelInfo, units: Sequence[Unit]) -> list[Unit]:
    decided = {unit.name for unit in units}
    return [unit for unit in info.units if unit.name not in decided]


def _fixed_active(info: ModelInfo, units: Sequence[Unit], batch: int) -> float:
    """Bytes a step of what is not decided on."""
    rest = _undecided(info, units)
    stored = np.array([unit.parameters * unit.bits for unit in rest], np.float64)
    return (info.other_bits + float((usage.shares(info, rest, batch) * stored).sum())) / 8


def _fixed_time(info: ModelInfo, units: Sequence[Unit], terms: Terms) -> float:
    """Milliseconds a step of what is not decided on."""
    rest, where = _undecided(info, units), machine(terms.use.hardware)
    stored = np.array([[unit.parameters * unit.bits] for unit in rest], np.int64).reshape(len(rest), 1)
    seconds = usage.step_seconds(info, rest, [ORIGINAL], stored, terms.use, where)
    return 1e3 * (float(seconds.sum()) + usage.other_seconds(info, terms.use, where))
