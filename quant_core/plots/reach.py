"""How many bits each layer needs for its predicted KL to stay under a threshold.

For a unit u and a threshold t: the smallest stored size over the formats f with score(u, f) <= t. The weights as they
are cost nothing, so that every threshold is reached, if only by keeping them. A lower t never asks for fewer bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quant_core.plots._common import INTERVAL, number
from quant_core.plots.bands import RecipeBands, recipe_bands
from quant_core.plots.fold import Fold
from quant_core.plots.sensitivity import stderr_of
from quant_core.schema import ORIGINAL, ModelInfo, ScoreName, ScoreTable, Unit

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

MANY = 8.0
"""Stored bits a weight from which on a layer counts as one that needs many."""
_NAMED = 4
"""Roles that a sentence names."""


class Reached(NamedTuple):
    """The smallest format of a unit whose score stays under the threshold; ``original`` where none does."""

    format: str
    bits: float
    """Stored, a weight."""
    kl: float
    """In nats a token, 0 for the original."""


class Needs(NamedTuple):
    """The units that need ``MANY`` bits, or the most there are."""

    threshold: float
    """In nats a token."""
    many: tuple[Unit, ...]
    """In the model's order."""
    kept: int
    """How many of them no format reaches."""
    scored: int
    open: int
    """Units of which the ends of their 95 % intervals say otherwise than their scores."""
    least: float
    most: float
    """What the best format below ``MANY`` bits costs the least and the most sensitive of ``many``, in nats a token."""


def bits_to_reach(
    model: ModelInfo, table: ScoreTable, threshold: float, score: ScoreName = "fisher", errors: float = 0.0
) -> dict[str, Reached]:
    """The fewest stored bits of each scored unit, of equal ones the format with the lower score.

    Args:
        model: Of the scores.
        table: Its scores, in nats a token.
        threshold: What a unit may cost, in nats a token.
        score: ``fisher`` or ``measured``.
        errors: How many standard errors are added to a score before it is compared: 1.96 asks that the upper end of
            its 95 % interval stays under the threshold.

    Returns:
        By unit in the table's order; empty if the table lacks the score.
    """
    costs = _costs(model, table, score)
    if costs is None:
        return {}
    choice = costs.choice(threshold, errors)
    names = (*table.formats, ORIGINAL)
    rows = zip(costs.units, choice.tolist(), strict=True)
    return {
        unit.name: Reached(names[column], float(costs.bits[row, column]), float(costs.kl[row, column]))
        for row, (unit, column) in enumerate(rows)
    }


class _Costs(NamedTuple):
    """Scores, their standard errors and stored bits a weight, (units, formats + 1), the original last."""

    units: tuple[Unit, ...]
    kl: FloatArray
    stderr: FloatArray
    bits: FloatArray

    def choice(self, threshold: float, errors: float) -> IntArray:
        """(units,) the column of the fewest bits that stays under the threshold, of equal ones of the lowest score."""
        able = np.where(self.kl + errors * self.stderr <= threshold, self.bits, np.inf)
        fewest = able == able.min(axis=1, keepdims=True)
        return np.asarray(np.where(fewest, self.kl, np.inf).argmin(axis=1), np.int64)


def _costs(model: ModelInfo, table: ScoreTable, score: ScoreName) -> _Costs | None:
    known = {unit.name: unit for unit in model.units}
    rows = [row for row, name in enumerate(table.units) if name in known]
    if not table.scores(score) or not rows:
        return None
    units = tuple(known[table.units[row]] for row in rows)
    kl = np.array(table.scores(score), np.float64)[rows]
    errors = stderr_of(table, score)
    stderr = np.nan_to_num(np.array(errors, np.float64)[rows]) if errors else np.zeros_like(kl)
    bits = np.array(table.storage_bits, np.float64)[rows] / np.array([[unit.parameters] for unit in units])
    end = np.zeros((len(units), 1))
    original = np.array([[float(unit.bits)] for unit in units])
    return _Costs(units, np.hstack([kl, end]), np.hstack([stderr, end]), np.hstack([bits, original]))


def needs(
    model: ModelInfo, table: ScoreTable, threshold: float, score: ScoreName = "fisher", errors: float = 0.0
) -> Needs:
    """Which units need ``MANY`` bits, and what fewer would cost them; arguments as of ``bits_to_reach``."""
    costs = _costs(model, table, score)
    if costs is None:
        return Needs(threshold, (), 0, 0, 0, 0.0, 0.0)

    def many(ends: float) -> BoolArray:
        choice = costs.choice(threshold, ends)
        return np.asarray(costs.bits[np.arange(len(choice)), choice] >= MANY)

    found, kept = many(errors), costs.choice(threshold, errors) == len(table.formats)
    below = np.where(costs.bits < MANY, costs.kl, np.inf).min(axis=1)[found]
    below = below[np.isfinite(below)]
    chosen = {unit.name for unit, one in zip(costs.units, found.tolist(), strict=True) if one}
    return Needs(
        threshold=threshold,
        many=tuple(unit for unit in model.units if unit.name in chosen),
        kept=int((found & kept).sum()),
        scored=len(costs.units),
        open=int((many(-INTERVAL) != many(INTERVAL)).sum()),
        least=float(below.min(initial=np.inf)) if len(below) else 0.0,
        most=float(below.max(initial=0.0)),
    )


def needs_text(found: Needs) -> str:
    """Which layers need many bits, and why, in one sentence or two."""
    limit = f"{number(found.threshold)} nats/token a layer"
    if not found.scored:
        return ""
    if not found.many:
        return f"At {limit}, none of {found.scored:,} layers needs {MANY:g} bits." + _open_text(found)
    kept = f", and {found.kept:,} of them keep their original bits" if found.kept else ""
    why = ""
    if found.most > 0:
        span = number(found.most, 2)
        if len(found.many) > 1 and number(found.least, 2) != span:
            span = f"{number(found.least, 2)} to {span}"
        why = f" The best format of fewer bits would cost {'each' if len(found.many) > 1 else 'it'} {span} nats/token."
    verb = "needs" if len(found.many) == 1 else "need"
    return (
        f"At {limit}, **{len(found.many):,} of {found.scored:,} layers {verb} {MANY:g} bits or more**{kept}: "
        f"{where(found.many)}.{why}{_open_text(found)}"
    )


def hungriest_text(model: ModelInfo, found: Mapping[str, Reached]) -> str:
    """Which units take the most bits of ``bits_to_reach``; empty where all take as many, or one ``MANY``."""
    most = max((one.bits for one in found.values()), default=MANY)
    if most >= MANY or all(one.bits == most for one in found.values()):
        return ""
    units = [unit for unit in model.units if unit.name in found and found[unit.name].bits == most]
    verb = "needs" if len(units) == 1 else "need"
    return f"The most, {most:.2f} bits, {verb} {where(units)}."


def _open_text(found: Needs) -> str:
    if not found.open:
        return ""
    verb = "lies" if found.open == 1 else "lie"
    return f" {found.open:,} {verb} so close to the limit that the scores' 95 % intervals leave it open."


def where(units: Sequence[Unit]) -> str:
    """Where units are, by role: ``down_proj in blocks 0–1 and 7, q_proj in block 3``; experts count as their role."""
    blocks: dict[str, set[int]] = {}
    for unit in units:
        blocks.setdefault(unit.role.partition("[")[0], set()).add(unit.block)
    order = sorted(blocks, key=lambda role: -len(blocks[role]))
    named = (
        order if len(order) == _NAMED + 1 else order[:_NAMED]
    )  # to say "1 more" is no shorter than to name it
    parts = [role + _blocks_text(sorted(blocks[role] - {-1})) for role in named]
    more = len(order) - len(named)
    return ", ".join(parts) + (f" and {more} more roles" if more else "")


def _blocks_text(blocks: Sequence[int]) -> str:
    """`` in block 3``, `` in blocks 0–1 and 7``; empty outside the blocks."""
    if not blocks:
        return ""
    runs = [
        [block for _, block in run] for _, run in groupby(enumerate(blocks), lambda pair: pair[1] - pair[0])
    ]
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs]
    listed = texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
    return f" in block{'s' if len(blocks) > 1 else ''} {listed}"


def reach_map(data: Fold, found: Mapping[str, Reached], weights: Mapping[str, int]) -> RecipeBands:
    """The formats of ``bits_to_reach`` as a map by block and role; ``weights`` tells each unit's number of weights."""
    assignment, mixed = data.most({name: one.format for name, one in found.items()})
    bits = data.sums({name: one.bits * weights[name] for name, one in found.items()})
    return recipe_bands(
        data.model, assignment, {name: round(each) for name, each in bits.items()},
        score=data.sums({name: one.kl for name, one in found.items()}), mixed=mixed,
    )  # fmt: skip
