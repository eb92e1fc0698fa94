"""The budget problem: which format should each unit take so that the predicted KL is least at a given size?

A multiple-choice knapsack: one column a unit, costs (nats a token) and sizes (bits) that add up. ``Problem`` is
arrays only; ``build_problem`` makes one from a score table, and names its rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from quant_core import targets
from quant_core.allocation.needs import Need, needs_of
from quant_core.allocation.terms import left_open, spread_pins
from quant_core.errors import BudgetError, FormatError, QuantError
from quant_core.names import unknown_weight
from quant_core.registry import unknown_name
from quant_core.schema import ORIGINAL, Budget, ModelInfo, ScoreName, ScoreTable, Terms

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Numbers = TypeVar("Numbers", FloatArray, IntArray)


@dataclass(frozen=True, eq=False)
class Problem:
    """Costs and sizes of every choice; all matrices are (units, formats)."""

    cost: FloatArray
    """Predicted KL in nats a token, finite and at least 0."""
    stderr: FloatArray
    """Standard error of ``cost``."""
    bits: IntArray
    """Stored bits of the unit in the format."""
    allowed: BoolArray
    """False where a pin or the selection of formats rules the choice out."""
    weights: int
    """Number of decided weights, over which bits are averaged."""
    fixed_bits: int
    """Stored bits of all that is not decided on: other units, norms, biases."""

    def __post_init__(self) -> None:
        if not self.cost.shape == self.stderr.shape == self.bits.shape == self.allowed.shape:
            raise ValueError("cost, stderr, bits and allowed differ in shape")
        if not (np.isfinite(self.cost) & (self.cost >= 0)).all():
            raise ValueError("a cost is negative or not finite")
        if not self.allowed.any(axis=1).all():
            raise ValueError("a unit has no allowed format")

    def average_bits(self, bits: float) -> float:
        """Average stored bits a decided weight, if the decided units take ``bits`` in all."""
        return bits / self.weights

    def total_bytes(self, bits: float) -> float:
        """Bytes of all the model's weights, if the decided units take ``bits`` in all."""
        return (bits + self.fixed_bits) / 8


class NamedProblem(NamedTuple):
    """A problem with the names of its rows and columns."""

    problem: Problem
    units: tuple[str, ...]
    formats: tuple[str, ...]
    """Full format names; the last is ``original``."""
    rows: IntArray | None = None
    """(units,) the problem's row of each unit, where several units share one; None where each has its own."""
    needs: tuple[Need, ...] = ()
    """Limits beside the budget."""
    one_format: bool = False
    """Whether all quantized units have to take the same format; see ``choose.variants``."""

    def row(self, unit: str) -> int:
        """The row of a unit; ``QuantError`` if it is not decided on."""
        if unit not in self.units:
            raise unknown_weight(unit, self.units)
        index = self.units.index(unit)
        return index if self.rows is None else int(self.rows[index])

    def assignment(self, choice: IntArray) -> dict[str, str]:
        """Unit to full format name under ``choice``, (rows,) format indices."""
        spread = choice if self.rows is None else choice[self.rows]
        return {unit: self.formats[index] for unit, index in zip(self.units, spread.tolist(), strict=True)}

    def choice(self, assignment: Mapping[str, str]) -> IntArray:
        """(rows,) format indices of an assignment; units that it does not name keep their original weights.

        Raises:
            QuantError: A unit is not decided on.
            FormatError: A format has no scores.
            BudgetError: Units that share a row have different formats.
        """
        units = {unit: index for index, unit in enumerate(self.units)}
        columns = {name: column for column, name in enumerate(self.formats)}
        chosen = np.full(len(units), columns[ORIGINAL])
        for unit, name in assignment.items():
            if unit not in units:
                raise unknown_weight(unit, units)
            if name not in columns:
                error = unknown_name("scored format", name, list(columns))
                raise FormatError(f"{unit} is to take {name!r}, which has no scores.", error.hint)
            chosen[units[unit]] = columns[name]
        if self.rows is None:
            return chosen
        spread = np.full(len(self.problem.cost), columns[ORIGINAL])
        spread[self.rows] = chosen
        odd = np.flatnonzero(spread[self.rows] != chosen)
        if len(odd):
            raise BudgetError(
                f"{self.units[odd[0]]} and what shares its format have different ones.",
                "Give all of them the same format.",
            )
        return spread


def build_problem(
    info: ModelInfo,
    table: ScoreTable,
    score: ScoreName = "fisher",
    pins: Mapping[str, str] | None = None,
    formats: Sequence[str] | None = None,
    terms: Terms | None = None,
) -> NamedProblem:
    """The problem of a score table: its units, its formats, and ``original`` (cost 0) as the last column.

    Args:
        info: The model the table was made from.
        table: Scores and sizes; its units are the decided ones.
        score: Which score is the cost. Slightly negative values (noise of a measured KL) become 0.
        pins: Unit name, or pattern with ``*`` and ``?``, to full format name. An exact name beats a pattern and a
            later pattern an earlier one. Brackets are literal, as experts' names end in them.
        formats: Columns to choose from, all of the table's if None. ``original`` is always one; a pinned format
            outside the selection is open to the units pinned to it.
        terms: Target, rules and limits that a recipe has to meet, none by default. Units that share a format under
            the target are one row, and what one of them is pinned to the others are too.

    Raises:
        BudgetError: A pin matches no unit or names a format that the table lacks, the target does not run the model, or
            target, rules and pins leave a unit without a format.
        FormatError: ``formats`` names a format that the table lacks.
        QuantError: The table belongs to another model, lacks the score, or holds a value that is not finite.
    """
    terms = terms or Terms()
    if reason := targets.refusal(targets.find(terms.target), info):
        raise BudgetError(
            f"{info.title} cannot be a {terms.target} recipe: {reason}.", "Choose another target."
        )
    units = {unit.name: unit for unit in info.units}
    if table.fingerprint != info.fingerprint or not all(name in units for name in table.units):
        raise QuantError(
            f"These scores belong to another model than {info.title}.", "Analyse this model first."
        )
    decided = [units[name] for name in table.units]
    pinned = spread_pins(decided, _match_pins(info, table, pins or {}), terms)
    chosen = table.formats if formats is None else tuple(formats)
    for name in chosen:
        if name != ORIGINAL and name not in table.formats:
            error = unknown_name("scored format", name, [*table.formats, ORIGINAL])
            raise FormatError(error.message, error.hint)
    named = {*chosen, *pinned.values()} - {ORIGINAL}
    columns = [index for index, name in enumerate(table.formats) if name in named]
    names = (*(table.formats[index] for index in columns), ORIGINAL)

    original = np.array([unit.parameters * unit.bits for unit in decided], np.int64)
    cost, stderr = _scores(table, score)
    size = np.array(table.storage_bits, np.int64).reshape(cost.shape)
    allowed = np.tile([name == ORIGINAL or name in chosen for name in names], (len(decided), 1))
    for row, unit in enumerate(table.units):
        if unit in pinned:
            allowed[row] = [name == pinned[unit] for name in names]
    bits = np.column_stack([size[:, columns], original])
    allowed, rows = left_open(decided, names, bits, allowed, terms)
    weights = sum(unit.parameters for unit in decided)
    fixed_bits = info.original_bits - int(original.sum())
    needs = needs_of(info, decided, names, bits, weights, fixed_bits, terms)
    problem = Problem(
        merged(np.pad(cost[:, columns], ((0, 0), (0, 1))), rows),
        merged(np.pad(stderr[:, columns], ((0, 0), (0, 1))), rows),
        merged(bits, rows),
        allowed,
        weights,
        fixed_bits,
    )
    shared = [replace(need, use=need.use if need.use is None else merged(need.use, rows)) for need in needs]
    return NamedProblem(
        problem, table.units, names, rows, tuple(shared), targets.find(terms.target).one_format
    )


def merged(values: Numbers, rows: IntArray | None) -> Numbers:
    """(units, formats) values, those of units that share a row summed: (rows, formats)."""
    if rows is None:
        return values
    sums: Numbers = np.zeros((int(rows.max()) + 1, values.shape[1]), values.dtype)
    np.add.at(sums, rows, values)
    return sums


def limit_bits(problem: Problem, budget: Budget) -> float:
    """Bits that the decided units may take in all under ``budget``; can be negative for a tiny file.

    Raises:
        BudgetError: The budget's value is no positive number.
    """
    if not (math.isfinite(budget.value) and budget.value > 0):
        raise BudgetError(f"A budget of {budget.value} makes no sense.", "Give a positive number.")
    if budget.kind == "bits":
        return budget.value * problem.weights
    return budget.value * 8 - problem.fixed_bits


def _scores(table: ScoreTable, score: ScoreName) -> tuple[FloatArray, FloatArray]:
    """Cost and standard error (zeros for scores without one) as (units, formats) arrays."""
    errors = {"fisher": table.fisher_stderr, "measured": table.measured_stderr}.get(score, ())
    values = table.scores(score)
    if len(values) != len(table.units):
        raise QuantError(
            f"These scores hold no {score!r} score.", f"Analyse the model with the score {score!r}."
        )
    shape = (len(table.units), len(table.formats))
    cost = np.array(values, np.float64).reshape(shape)
    bad = np.argwhere(~np.isfinite(cost))
    if len(bad):
        unit, name = table.units[bad[0][0]], table.formats[bad[0][1]]
        raise QuantError(
            f"The {score} score of {unit} in {name} is not a finite number.",
            "Leave that format out, or compute in float32.",
        )
    stderr = np.nan_to_num(np.array(errors, np.float64)).reshape(shape) if errors else np.zeros(shape)
    return np.maximum(cost, 0.0), stderr


def _match_pins(info: ModelInfo, table: ScoreTable, pins: Mapping[str, str]) -> dict[str, str]:
    """Decided unit to the format it is pinned to."""
    found: dict[str, str] = {}
    for pattern in sorted(pins, key=lambda pattern: pattern in table.units):
        name = pins[pattern]
        if name != ORIGINAL and name not in table.formats:
            error = unknown_name("scored format", name, [*table.formats, ORIGINAL])
            raise BudgetError(f"{pattern!r} is pinned to {name!r}, which has no scores.", error.hint)
        literal = pattern.replace("[", "[[]")
        units = [pattern] if pattern in table.units else [u for u in table.units if fnmatchcase(u, literal)]
        if not units:
            raise _no_match(info, table, pattern, literal)
        found.update(dict.fromkeys(units, name))
    return found


def _no_match(info: ModelInfo, table: ScoreTable, pattern: str, literal: str) -> BudgetError:
    """The error for a pin that matches no decided unit."""
    if any(fnmatchcase(unit.name, literal) for unit in info.units):
        return BudgetError(
            f"The pin {pattern!r} names a weight that these scores do not decide on.",
            "Analyse with embeddings included, or remove the pin.",
        )
    hint = unknown_weight(pattern, table.units).hint
    return BudgetError(f"The pin {pattern!r} matches no weight.", f"{hint} * and ? stand for any text.")
