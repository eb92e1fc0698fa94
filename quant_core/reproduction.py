"""A result that was worked out anew, compared with the stored one figure by figure.

Texts, tokens and names have to be the same. A number may differ by ``tolerance`` of itself; in a table, one near zero
may by as much as a thousandth of the largest may, since floating-point sums taken in another order differ there. How
long it took, and the names under which arrays are stored, are no figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from quant_core.schema import Agreement, FigurePair, Origin, Result, dump

TOLERANCE = 0.01
"""Share of a figure by which it may differ, unless told."""
NEAR_ZERO = 1e-3
"""Of the largest entry of a table, times the tolerance."""

_NO_FIGURES = ("seconds", "state", "key", "notes", "text_label")


def compare(stored: Result, now: Result, tolerance: float = TOLERANCE) -> tuple[FigurePair, ...]:
    """Every figure of two answers to the same request, in the answer's order."""
    before, after = dump(stored), dump(now)
    return tuple(
        _pair(name, before.get(name), after.get(name), tolerance)
        for name in dict.fromkeys([*before, *after])
        if name not in _NO_FIGURES and (before.get(name) or after.get(name)) not in (None, (), [], {})
    )


def verdict(pairs: tuple[FigurePair, ...]) -> Agreement:
    """The worst agreement of all figures."""
    found = {pair.agreement for pair in pairs}
    return "different" if "different" in found else "close" if "close" in found else "identical"


def changes(before: Origin | None, now: Origin) -> tuple[str, ...]:
    """What differs of versions and machine, a line each."""
    if before is None:
        return ("What the stored result was made with was not recorded.",)
    names = dict.fromkeys([*before.libraries, *now.libraries])
    pairs = [(name, before.libraries.get(name, "none"), now.libraries.get(name, "none")) for name in names]
    pairs += [
        (name, str(getattr(before, name)), str(getattr(now, name)))
        for name in ("device", "hardware", "threads", "system")
    ]
    return tuple(f"{name}: {old} then, {new} now" for name, old, new in pairs if old != new)


def _pair(name: str, before: Any, after: Any, tolerance: float) -> FigurePair:
    old, new = _leaves(before), _leaves(after)
    shown = _shown(before, old), _shown(after, new)
    if list(old) != list(new) or any(
        type(old[path]) is not type(new[path]) or (not _number(old[path]) and old[path] != new[path])
        for path in old
    ):
        return FigurePair(name, *shown, None, "different")
    numbers = [(old[path], new[path]) for path in old if _number(old[path])]
    largest = max((abs(value) for pair in numbers for value in pair if math.isfinite(value)), default=0.0)
    least = largest * NEAR_ZERO
    share = max((_share(one, other, least) for one, other in numbers), default=0.0)
    agreement: Agreement = "different" if share > tolerance else "close" if share else "identical"
    return FigurePair(name, *shown, share, agreement)


def _share(one: float, other: float, least: float) -> float:
    """By what share two numbers differ; entries smaller than ``least`` count as that large."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    if not (math.isfinite(one) and math.isfinite(other)):
        return math.inf
    return abs(one - other) / max(abs(one), abs(other), least)


def _leaves(data: Any, path: str = "") -> dict[str, Any]:
    """Every value that is no mapping or list, by where it stands."""
    if isinstance(data, Mapping):
        parts = [(f"{path}.{name}", value) for name, value in data.items() if name not in _NO_FIGURES]
    elif isinstance(data, list | tuple):
        parts = [(f"{path}.{place}", value) for place, value in enumerate(data)]
    else:
        return {path: data}
    found: dict[str, Any] = {}
    for name, value in parts:
        found |= _leaves(value, name)
    return found


def _number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool))


def _shown(data: Any, leaves: Mapping[str, Any]) -> str:
    """A value in short: itself, the sum of a table's numbers, or how many entries there are."""
    if not isinstance(data, Mapping | list | tuple):
        return f"{data:.6g}" if isinstance(data, float) else str(data)[:60]
    numbers = [value for value in leaves.values() if _number(value)]
    if numbers and len(numbers) == len(leaves):
        return f"{len(numbers):,} numbers, sum {math.fsum(numbers):.6g}"
    return f"{len(leaves):,} entries"
