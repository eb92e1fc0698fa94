"""The field's terms, a sentence each: the list on the Learn page, and what tooltips on Weights say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

FILE = Path(__file__).parents[1] / "assets" / "glossary.yaml"


@dataclass(frozen=True)
class Term:
    """A term, what it means, and the lesson that teaches it, empty where none does."""

    name: str
    means: str
    lesson: str = ""


@cache
def terms() -> dict[str, Term]:
    """All terms by name, in the order of the alphabet."""
    found = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {name: Term(name, **found[name]) for name in sorted(found, key=str.lower)}


def means(name: str) -> str:
    """What a term means, for a tooltip; ``KeyError`` if it is not in the glossary."""
    return terms()[name].means
