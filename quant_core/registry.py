"""A named collection that refuses duplicates and suggests near names."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TypeVar

from quant_core.errors import QuantError

T = TypeVar("T")


def unknown_name(kind: str, name: str, known: Mapping[str, object] | list[str]) -> QuantError:
    """The error for a name that is not there, with the nearest known name as its remedy."""
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(sorted(known))}."
    return QuantError(f"There is no {kind} named {name!r}.", hint)


class Registry(Mapping[str, T]):
    """Objects by name, in order of registration.

    Args:
        kind: What the objects are, for messages (``"format family"``).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def add(self, name: str, item: T) -> T:
        """Register ``item``; a name already taken raises ``ValueError`` (a programming error)."""
        if name in self._items:
            raise ValueError(f"{self.kind} {name!r} is already registered")
        self._items[name] = item
        return item

    def __getitem__(self, name: str) -> T:
        if name not in self._items:
            raise unknown_name(self.kind, name, self._items)
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
