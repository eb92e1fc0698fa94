r"""Regular expressions from other people's files, matched against the names of weights.

An expression can be written to take years or all memory. So it may be no longer than ``LONGEST``, may count a
repetition (``{2,4}``) once and to below 100, and may not refer to itself or set flags; and all matching for a file has
to be done within ``SECONDS``, for which the library ``regex`` can be told a time. What ``re`` knows beyond that is
refused with a sentence. Whole names (``^model\.layers\.0\.mlp\.up_proj$``), of which a file may have tens of
thousands, are looked up and not matched.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection

import regex

from quant_core.errors import RecipeError

LONGEST = 1000
"""Characters of an expression."""
SECONDS = 1.0
"""Of the processor, for all expressions of a file."""

_COUNT = re.compile(r"\{\d{1,2}(?:,\d{0,2})?\}")
_GROUP = re.compile(r"\(\?(?!:|=|!|<=|<!)")
_PLAIN = re.compile(r"\\[^a-zA-Z0-9]|[^\\.^$*+?{}\[\]()|]")
_SIMPLER = "Name the weights by a simpler expression."


class Matcher:
    """Matches the expressions of one file, within ``SECONDS`` from its making.

    Args:
        names: What they are matched against.
        anywhere: Whether an expression may match within a name (``search``) or has to from its beginning (``match``).
    """

    def __init__(self, names: Collection[str], *, anywhere: bool = False) -> None:
        self._names = dict.fromkeys(names)
        self._anywhere = anywhere
        self._end = time.monotonic() + SECONDS

    def names(self, pattern: str) -> tuple[str, ...]:
        """The names that an expression matches, in their order.

        Raises:
            RecipeError: It is no regular expression, one that may take too long to read, or matching took too long.
        """
        whole = literal(pattern)
        if whole is not None:
            return (whole,) if whole in self._names else ()
        found = _compiled(pattern)
        match = found.search if self._anywhere else found.match
        try:
            return tuple(
                name for name in self._names if match(name, timeout=max(self._end - time.monotonic(), 1e-3))
            )
        except TimeoutError as error:
            raise RecipeError(f"Matching {_short(pattern)} takes too long.", _SIMPLER) from error


def literal(pattern: str) -> str | None:
    """The one text that an expression of the form ``^...$`` matches; None for any other."""
    if not (pattern.startswith("^") and pattern.endswith("$") and len(pattern) > 1):
        return None
    return plain(pattern[1:-1])


def plain(pattern: str) -> str | None:
    """The text that an expression without special characters stands for; None for any other."""
    parts = _PLAIN.findall(pattern)
    return "".join(part[-1] for part in parts) if "".join(parts) == pattern else None


def _compiled(pattern: str) -> regex.Pattern[str]:
    counts = _COUNT.findall(pattern)
    if len(pattern) > LONGEST or len(counts) > 1 or "{" in _COUNT.sub("", pattern) or _GROUP.search(pattern):
        raise RecipeError(f"{_short(pattern)} is a regular expression that is not read here.", _SIMPLER)
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError) as error:
        raise RecipeError(f"{_short(pattern)} is no regular expression.", "Correct it.") from error


def _short(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 60 else f"{pattern[:57]}...")
